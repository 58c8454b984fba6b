"""Tables that fit the terminal: no figure is ever cut or broken. What is too wide as a table is shown as a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

FOLD_FROM: Final = 16
"""A word longer than this may be broken unless it is a figure: an address, a path, a serial number."""

_FIGURE: Final = re.compile(r"[-+]?\d[\d,.]*|-?")
_INDENT: Final = "  "


class FittingTable(Table):
    """Cells of text; figures stand to the right, and columns without any value are left out."""

    def __init__(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        super().__init__(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
        kept = [at for at, head in enumerate(heads) if not (head and rows) or any(row[at] for row in rows)]
        self._heads = [heads[at] for at in kept]
        self._rows = [[row[at] for at in kept] for row in rows]
        self.show_header = any(self._heads)
        for at, head in enumerate(self._heads):
            numeric = bool(rows) and all(_FIGURE.fullmatch(row[at]) for row in self._rows)
            self.add_column(head, justify="right" if numeric else "left", overflow="fold")
        for row in self._rows:
            self.add_row(*row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heads = [console.render_str(head) for head in self._heads]
        rows = [[console.render_str(cell) for cell in row] for row in self._rows]
        columns = list(zip(heads, *rows, strict=True))
        widths = share(
            [max(text.cell_len for text in column) for column in columns],
            [max(map(_unbroken, column)) for column in columns],
            options.max_width - len(columns) - 1,  # one between two columns, and one at each side
        )
        if widths is None:
            yield from self._as_list(console, options.max_width, heads, rows)
            return
        for column, width in zip(self.columns, widths, strict=True):
            column.width = width
        yield from super().__rich_console__(console, options)

    def _as_list(
        self, console: Console, max_width: int, heads: Sequence[Text], rows: Iterable[Sequence[Text]]
    ) -> Iterable[Text]:
        """The first value of each row as a heading, and under it a line for each of the others."""
        if self.title:
            yield Text(str(self.title), style="bold")
        label = max(head.cell_len for head in heads) + 1
        for row in rows:
            yield Text(row[0].plain, style="bold")
            for head, cell in zip(heads[1:], row[1:], strict=True):
                before = f"{_INDENT}{head.plain}".ljust(label + len(_INDENT))
                if len(before) + _unbroken(cell) > max_width:
                    yield Text(before)
                    before = 2 * _INDENT
                for line in cell.wrap(console, max(1, max_width - len(before)), overflow="fold"):
                    yield Text(before + line.plain)
                    before = " " * len(before)


def share(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Widths between `least` and `wanted` that fill `room` where wanted; the narrowest grow first. None if `least` is too much.

    >>> share([4, 30, 9], [4, 10, 9], 35), share([4, 30, 9], [4, 10, 9], 20)
    ([4, 22, 9], None)
    """
    left = room - sum(least)
    if left < 0:
        return None
    widths = list(least)
    while left and (growing := [at for at, width in enumerate(widths) if width < wanted[at]]):
        widths[min(growing, key=widths.__getitem__)] += 1
        left -= 1
    return widths


def _unbroken(text: Text) -> int:
    """Return the width of the longest word that must not be broken."""
    words = text.plain.split()
    return max(
        (len(word) if _FIGURE.fullmatch(word.strip("(),:;")) else min(len(word), FOLD_FROM) for word in words),
        default=0,
    )


__all__ = ["FOLD_FROM", "FittingTable", "share"]

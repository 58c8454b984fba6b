"""How the command line speaks: tables for people, one JSON object a line for programs, one sentence for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from usbcast_schemas.ledger import Ledger

console = Console()
errors = Console(stderr=True)


def emit(value: dict[str, Any]) -> None:
    """One JSON object on a line of its own, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """A table whose numbers stand to the right, narrow enough for 80 characters where the values are."""
    columns = tuple(columns)
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    made.show_header = any(columns)
    cells = [[_cell(value) for value in row] for row in rows]
    for at, name in enumerate(columns):
        numeric = bool(cells) and all(_is_figure(row[at]) for row in cells)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in cells:
        made.add_row(*row)
    return made


def ledger_table(title: str, ledgers: Iterable[Ledger]) -> Table:
    """The books of one stream, stage by stage."""
    return table(
        title,
        ("stage", "unit", "in", "out", "overhead", "held", "lost", "balanced"),
        [
            (
                books.stage,
                books.unit,
                books.entered,
                books.left,
                books.overhead,
                books.held,
                ", ".join(f"{n:,} {reason}" for reason, n in sorted(books.lost.items()) if n) or "0",
                books.discrepancy() is None,
            )
            for books in ledgers
        ],
    )


def show_settings(sourced: list[Any], as_json: bool) -> None:
    """Each setting and where it came from."""
    if as_json:
        emit({item.name: {"value": item.value, "source": item.source} for item in sourced})
    else:
        rows = [(item.name, str(item.value), item.source, item.says) for item in sourced]
        console.print(table("Settings", ("setting", "value", "from", "what it is"), rows))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def _is_figure(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").replace("-", "").isdigit() or cell in ("", "-")

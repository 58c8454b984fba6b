"""Output of the command line: tables for people, one JSON object per line for programs, one sentence for an error.

Everything that a verb shows goes through here, and here nothing of it is obeyed: no text is markup, and what a terminal would
take for a command, or would reorder or hide, is escaped. Device strings, names and reasons come from strangers.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from usbcast.cli.fitting import FittingTable
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.printable import printable
from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_CELL: Final = 1000
"""Characters of one cell of a table; of a longer one the beginning is shown, and how long it is."""


class SafeConsole(Console):
    """A console for text that strangers may have written. Only `styled` gives a part of a line a style of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every str becomes a Text here, before it is measured, so that escapes have their place in the layout."""
        shown = printable(text)
        if not self.encoding.startswith("utf"):
            shown = shown.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return super().render_str(shown, **{**options, "markup": False, "emoji": False, "highlight": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape text that did not pass through `styled`, such as the description of a progress bar."""
        for segment in super().render(renderable, options):
            text = printable(segment.text, keep="\n")
            yield segment if segment.control or text == segment.text else Segment(text, segment.style)


console = SafeConsole()
errors = SafeConsole(stderr=True)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line; a part given as (text, style) has that style."""
    return Text.assemble(
        *(printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts)
    )


def emit(value: dict[str, Any]) -> None:
    """Write one JSON object on a line of its own and flush it; ASCII without control characters."""
    sys.stdout.write(json.dumps(value).replace("\x7f", "\\u007f") + "\n")
    sys.stdout.flush()


def write(text: str) -> None:
    """The content of a file, for the terminal or to be redirected."""
    sys.stdout.write(printable(text, keep="\n\t"))
    sys.stdout.flush()


def complain(sentence: str, style: str = "red") -> None:
    """Write one sentence to stderr; the terminal wraps it."""
    errors.print(f"usbcast: {sentence}", style=style, soft_wrap=True)


def show_crash(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Print a traceback with outside text escaped. For sys.excepthook."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, at)), keep="\n"))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> FittingTable:
    """A table whose numbers stand to the right; where it is too wide for the terminal, one line for each value."""
    return FittingTable(title, tuple(columns), [[_cell(value) for value in row] for row in rows])


def ledger_table(title: str, ledgers: Iterable[Ledger]) -> FittingTable:
    """Return a table of the ledgers of one stream, stage by stage."""
    return table(
        title,
        ("stage", "unit", "in", "out", "overhead", "held", "lost", "balanced"),
        [
            (
                ledger.stage,
                ledger.unit,
                ledger.entered,
                ledger.left,
                ledger.overhead,
                ledger.held,
                ", ".join(f"{n:,} {reason}" for reason, n in sorted(ledger.lost.items()) if n) or "0",
                ledger.discrepancy() is None,
            )
            for ledger in ledgers
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
    text = str(value)
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}… ({len(text):,} characters)"


def device_text(device: pb.DeviceInfo) -> str:
    """Return one line that names a device: its ids, its texts and where it is plugged in."""
    if not device.ByteSize():
        return "-"
    name = " ".join(filter(None, (device.product, device.serial)))
    return f"{device.vendor_id:04x}:{device.product_id:04x} {name} at {device.bus_path}".strip()

"""No figure on a screen is cut or broken, whatever the width of the terminal; what is too wide is shown as a list."""

from __future__ import annotations

import io

import pytest

from usbcast.cli.fitting import share
from usbcast.cli.output import SafeConsole, ledger_table, table
from usbcast_schemas.ledger import Ledger

COLUMNS = (
    "stream", "upstream", "packets/s", "packets", "lost", "left out", "behind", "lag ms", "subscribers", "balanced", "problem",
)  # fmt: skip
ROW = ("first-case", "tcp://192.168.100.200:5570", 1_234_567.8, 35_054_432, 12_345, 0, 3, 0.3, 12, True, "")
FIGURES = ("1,234,567.8", "35,054,432", "12,345", "12")


def shown(of: object, width: int) -> list[str]:
    file = io.StringIO()
    SafeConsole(file=file, width=width).print(of)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", range(24, 130))
def test_the_table_of_a_bridge_at_any_width(width: int) -> None:
    lines = shown(table("", COLUMNS, [ROW, ROW]), width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for figure in FIGURES:
        assert words.count(figure) == 2
    for head in COLUMNS[1:-1]:
        assert set(head.split()) <= set(words), "the head of a column is as whole as its figures"
    assert "problem" not in words, "what has no value takes no room"


@pytest.mark.parametrize("width", range(32, 130))
def test_the_books_at_any_width(width: int) -> None:
    ledger = Ledger("framing", "bytes")
    ledger.entered, ledger.left, ledger.lost = 18_000_000_000_000_000_000, 35_054_432, {"checksum": 9_876_543}
    lines = shown(ledger_table("x", [ledger]), width)
    assert max(map(len, lines)) <= width
    assert {"18,000,000,000,000,000,000", "35,054,432", "9,876,543"} <= set(" ".join(lines).split())


def test_narrow_and_wide() -> None:
    assert len(shown(table("", COLUMNS, [ROW]), 120)) < 8, "a table"
    assert len(shown(table("", COLUMNS, [ROW]), 80)) > 8, "a list"


@pytest.mark.parametrize(
    ("wanted", "least", "room", "widths"),
    [
        ([4, 30, 9], [4, 10, 9], 35, [4, 22, 9]),
        ([4, 30, 9], [4, 10, 9], 100, [4, 30, 9]),
        ([4, 30, 9], [4, 10, 9], 23, [4, 10, 9]),
        ([4, 30, 9], [4, 10, 9], 22, None),
        ([30, 30], [5, 10], 30, [15, 15]),
        ([], [], 10, []),
    ],
)
def test_shares(wanted: list[int], least: list[int], room: int, widths: list[int] | None) -> None:
    assert share(wanted, least, room) == widths

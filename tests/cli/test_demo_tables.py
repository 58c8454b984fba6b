"""The demo's tables: what they say fits a terminal of 80 columns, also where the figures are large."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from usbcast.cli import demo
from usbcast.demo import FAST, FIRST_CASE

HOUR = 72_000_000
"""Packets of the fast stream in the longest demo."""


def subscriber(via: str, **figures: Any) -> dict[str, Any]:
    return {
        "via": via, "rate_in_hz": 20_000.4, "rate_out_hz": 1_608_651.0, "delivered": HOUR, "declared_lost": 0,
        "duplicates": 0, "after_stop": HOUR, "refilled": HOUR - 1, "lag_p50_us": 9_999, "lag_p99_us": 99_999_000, **figures,
    }  # fmt: skip


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(demo, "console", Console(file=file, width=80))
    return file


def test_the_books_of_the_longest_demo_fit(printed: io.StringIO) -> None:
    slow = subscriber("push", slow=True, delivered=HOUR // 2, declared_lost=HOUR // 2, lag_p50_us=9_999_000)
    found = [subscriber("ring"), subscriber("notify"), slow]
    demo._show({"streams": {FAST: {"produced": HOUR, "subscribers": found}}, "balanced": True, "interrupted": False})
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (header,) = [line for line in lines if "in/s" in line]
    assert header.split()[2:] == ["out/s", "delivered", "lost", "twice", "late", "refilled", "p50", "p99"]
    (row,) = [line for line in lines if "slow push" in line]
    assert row.split() == [
        "slow", "push", "20,000", "1.6", "M", "36000000", "36000000", "0", "72000000", "71999999", "9,999", "100", "s",
    ]  # fmt: skip


def test_the_live_view_of_the_longest_demo_fits(printed: io.StringIO) -> None:
    shown = demo._Demo.__new__(demo._Demo)
    shown._produced = {FIRST_CASE: 360_000, FAST: HOUR}
    shown._rates = {}
    figures = {"delivered": HOUR, "worst_lag_us": 99_999_000, "declared_lost": HOUR, "refilled": HOUR}
    shown._now = {(stream, via): figures for stream in (FIRST_CASE, FAST) for via in demo.VIAS}
    demo.console.print(shown._screen())
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if "slow push" in line]
    assert row.split() == ["fast", "72000000", "slow", "push", "0.0", "72000000", "100", "s", "72000000", "72000000"]

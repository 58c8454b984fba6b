"""The books: what balances, what is said where they do not, and the forms in which they are handed on."""

from __future__ import annotations

from typing import Any

import pytest

from usbcast_schemas.ledger import Ledger, audit


def ledger(*, entered: int = 0, left: int = 0, overhead: int = 0, held: int = 0, **lost: int) -> Ledger:
    books = Ledger("framing", "bytes")
    books.enter(entered)
    books.leave(left)
    books.overhead, books.held = overhead, held
    for reason, n in lost.items():
        books.lose(reason, n)
    return books


def test_figures_beyond_64_bits_are_sent_as_the_largest() -> None:
    books = Ledger("subscription", "packets")
    books.enter(2**65)
    books.lose("ring: overwritten", 2**65)
    books.count("behind", -3)
    assert books.discrepancy() is None
    sent = books.to_proto()
    assert (sent.entered, dict(sent.lost), dict(sent.counters)) == (
        2**64 - 1,
        {"ring: overwritten": 2**64 - 1},
        {"behind": 0},
    )


@pytest.mark.parametrize("largest", [0, 1, 2**64 - 1])
def test_what_fits_is_sent_as_it_is(largest: int) -> None:
    assert ledger(entered=largest).to_proto().entered == largest


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({}, None),
        ({"entered": 15, "left": 1, "overhead": 2, "held": 4, "checksum": 3, "garbage": 5}, None),
        (
            {"entered": 20, "left": 1, "overhead": 2, "held": 4, "checksum": 3, "garbage": 5},
            "stage framing: 20 bytes came in but 15 are accounted for (1 out, 2 overhead, 4 held, 8 lost): 5 missing",
        ),
        (
            {"entered": 6, "left": 5, "held": 4},
            "stage framing: 6 bytes came in but 9 are accounted for (5 out, 0 overhead, 4 held, 0 lost): 3 too many",
        ),
    ],
)
def test_a_discrepancy_is_one_sentence(figures: dict[str, int], says: str | None) -> None:
    books = ledger(**figures)
    assert books.discrepancy() == says
    assert books.to_json()["balanced"] == (says is None)
    assert audit([ledger(), books, ledger()]) == ([says] if says else [])


@pytest.mark.parametrize(("gave", "took", "equal"), [(7, 7, True), (8, 7, False), (7, 8, False)])
def test_what_one_stage_gave_the_next_one_took(gave: int, took: int, equal: bool) -> None:
    found = audit([], [("host out", gave, "framing in", took)])
    assert found == ([] if equal else [f"host out is {gave} but framing in is {took}"])


def test_losses_and_counters_add_up_by_their_name() -> None:
    books = Ledger("host", "bytes")
    for n in (5, 7):
        books.enter(n)
        books.leave(n)
        books.lose("queue full", n)
        books.count("transfers")
        books.count("waits", n)
    assert (books.entered, books.left, books.lost, books.lost_total) == (12, 12, {"queue full": 12}, 12)
    assert books.counters == {"transfers": 2, "waits": 12}


def test_the_forms() -> None:
    books = ledger(entered=20, left=1, overhead=2, held=4, garbage=5, checksum=8, none=0)
    books.count("resynchronised")
    expected: dict[str, Any] = {
        "stage": "framing", "unit": "bytes", "in": 20, "out": 1, "overhead": 2, "held": 4,
        "lost": {"checksum": 8, "garbage": 5, "none": 0}, "counters": {"resynchronised": 1}, "balanced": True,
    }  # fmt: skip
    assert books.to_json() == expected
    assert list(books.to_json()["lost"]) == ["checksum", "garbage", "none"]
    assert Ledger.from_proto(books.to_proto()).to_json() == expected
    assert repr(books) == "<Ledger framing: 20 bytes in, 1 out, 2 overhead, 4 held, lost 8 checksum, 5 garbage>"
    assert repr(ledger()) == "<Ledger framing: 0 bytes in, 0 out, 0 overhead, 0 held, lost 0>"

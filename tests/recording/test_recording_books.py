"""What the books say of sequences of entries, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made import EPOCH, batch

from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import Position
from usbcast.recording.entries import Annotation, Item, begin_annotation, gap_annotation, hex_epoch, restart_annotation
from usbcast.recording.ledgers import RecordingLedger
from usbcast_schemas.batch import Arrivals, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb


def gap(first: int, last: int, epoch: int = EPOCH) -> Annotation:
    return gap_annotation("s", epoch, Gap(first, last, last - first + 1, "ring", "gone"), 0)


def begin(sequence: int, number: int) -> Annotation:
    return begin_annotation("s", Position(EPOCH, sequence, number), 0)


def close(*, final: bool = True, until: int | None = None, number: int = 0) -> Annotation:
    said: dict[str, Any] = {"packets": 0}
    if until is not None:
        said |= {"epoch": hex_epoch(EPOCH), "next_sequence": until, "next_number": number}
    return Annotation("close", 0, "", {"reason": "", "final": final, "streams": {"s": said}})


RECOVERED = Annotation("recovered", 0, "", {"reason": "r-0 ended before its time"})


def audited(*segments: list[Item], indexes: list[int] | None = None) -> RecordingLedger:
    books = RecordingLedger()
    for at, items in enumerate(segments):
        index = at if indexes is None else indexes[at]
        books.segment(index, f"r-{index}")
        for item in items:
            books.add("s", item)
    books.finish()
    return books


@pytest.mark.parametrize(
    ("segments", "recorded", "lost"),
    [
        ([[batch(0), batch(1), close(until=20)]], 20, 0),
        ([[batch(5), batch(6), close()]], 20, 0),
        ([[batch(0), gap(10, 19), batch(2), close(until=30)]], 20, 10),
        ([[gap(0, 19), batch(2), close()]], 10, 20),
        ([[batch(0), gap(10, 9), batch(3, first=10), close()]], 20, 0),
        ([[batch(0), close(final=False, until=10)], [begin(10, 1), batch(1), close()]], 20, 0),
        ([[batch(0)], [begin(10, 1), batch(1), close()]], 20, 0),
        ([[batch(0), RECOVERED]], 10, 0),
        ([[batch(0), RECOVERED], [begin(50, 5), batch(5), close()]], 20, 40),
        ([[batch(0), restart_annotation("s", Restart(EPOCH, 2, 10, 10), 0), batch(0, epoch=2), close()]], 20, 0),
    ],
)
def test_books_that_balance(segments: list[list[Item]], recorded: int, lost: int) -> None:
    books = audited(*segments)
    assert books.balanced, books.problems
    assert sum(epoch.recorded for epoch in books.epochs.values()) == recorded
    assert sum(sum(epoch.lost.values()) for epoch in books.epochs.values()) == lost


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([[batch(0), batch(2), close()]], "10 packets (10 to 19) are missing before batch 2 in r-0"),
        ([[batch(0), batch(0), close()]], "batch 0 is recorded twice"),
        ([[batch(0), batch(1, first=5), close()]], "are already recorded or declared lost"),
        ([[batch(0), batch(3, first=10), close()]], "2 batches without packets"),
        ([[batch(0), gap(20, 29), batch(3), close()]], "10 packets (10 to 19) are missing before a declared gap"),
        ([[batch(0), gap(5, 9), close()]], "a gap in r-0 declares packet 5 lost"),
        ([[batch(0), close(until=20)]], "are missing before the end of r-0"),
        ([[batch(0)]], "was not closed"),
        ([[batch(0), close(final=False)]], "continues after r-0"),
        ([[batch(0), close(final=False)], [begin(20, 2), batch(2), close()]], "are missing before r-1"),
        ([[batch(0), RECOVERED], [begin(10, 1), batch(1)]], "r-1 was not closed"),
        ([[batch(0), RECOVERED], [begin(50, 5), batch(5), batch(7), close()]], "are missing before batch 7"),
        (
            [[batch(0), restart_annotation("s", Restart(EPOCH, 2, 20, 20), 0), close()]],
            "are missing before the restart",
        ),
        ([[restart_annotation("s", Restart(EPOCH, 2, 0, 0), 0), batch(1, epoch=2), close()]], "(0 to 9) are missing"),
    ],
)
def test_books_that_do_not(segments: list[list[Item]], says: str) -> None:
    books = audited(*segments)
    assert not books.balanced
    assert any(says in problem for problem in books.problems), books.problems


def test_a_missing_segment_is_named() -> None:
    books = audited([batch(0), close(final=False)], [begin(20, 2), batch(2), close()], indexes=[0, 2])
    assert "segment 1 is missing: its file has been removed, or was not named" in books.problems
    assert any("(segment 1 is missing)" in problem for problem in books.problems)


def test_what_was_dropped_by_wish_is_not_missing() -> None:
    dropped = Annotation("dropped", 0, "", {"before": 2, "reason": "removed by --keep"})
    assert audited([begin(20, 2), dropped, batch(2), close()], indexes=[2]).balanced
    assert not audited([begin(20, 2), dropped, batch(2), close()], indexes=[3]).balanced


def test_numbers_that_a_batch_stands_for_are_not_missing() -> None:
    """A bridge that carries a part leaves numbers out where it leaves out no packet: the next batch says so itself."""
    hole = pb.LostRange(
        first_sequence=10, count=0, stage=pb.STAGE_BRIDGE, reason="left out", batches=7, on_purpose=True
    )
    late = decode_batch(
        encode_batch(
            epoch=EPOCH, number=8, first_sequence=10, packet_count=1, packet_size=1, payload=(b"x",),
            arrivals=Arrivals((1,), (0,), (0,)), holes=[hole],
        )
    )  # fmt: skip
    books = audited([batch(0), late, close()])
    assert books.balanced, books.problems
    assert not audited([batch(0), replace(late, holes=()), close()]).balanced

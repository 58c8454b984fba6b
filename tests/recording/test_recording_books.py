"""What the books say of sequences of entries, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made import EPOCH, batch

from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import Position
from usbcast.recording.contents import Contents, Run
from usbcast.recording.entries import (
    Annotation,
    Item,
    begin_annotation,
    contents_annotation,
    gap_annotation,
    hex_epoch,
    restart_annotation,
)
from usbcast.recording.ledgers import MAX_PROBLEMS, RecordingLedger
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
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


STEPPED = pb.DeviceEvent(kind=pb.DeviceEvent.KIND_CLOCK_STEPPED, detail="the clock was set by 3 s")
STALLED = pb.DeviceEvent(kind=pb.DeviceEvent.KIND_STALLED)


def more(made: EncodedBatch, **fields: Any) -> EncodedBatch:
    return replace(made, **fields)


def test_every_figure_of_an_epoch() -> None:
    earlier = pb.Loss(stage=pb.STAGE_DEVICE, reason="counter", packets=4)
    left_out = gap_annotation("s", EPOCH, Gap(20, 24, 5, "bridge", "decimated", on_purpose=True), 0)
    books = audited(
        [
            more(batch(1), losses=[earlier], events=[STALLED, STEPPED]),
            left_out,
            gap(25, 29),
            gap(30, 33),
            more(batch(4, first=34), losses=[earlier]),
            batch(5, first=44, count=0),
            more(batch(6, first=44, count=0), end=pb.StreamEnd(packets=44)),
            close(until=44),
        ]
    )
    (ledger,) = books.epochs.values()
    first_ns, last_ns = (batch(number).arrivals.realtime_ns[-1] for number in (1, 4))
    assert ledger.to_json() == {
        "stream": "s",
        "epoch": hex_epoch(EPOCH),
        "first_sequence": 10,
        "next_sequence": 44,
        "packets": 34,
        "recorded": 20,
        "batches": 4,
        "lost": {"ring: gone": 9},
        "left_out": {"bridge: decimated": 5},
        "lost_before_numbering": {"device: counter": 8},
        "missing": 0,
        "doubled": 0,
        "device_events": 2,
        "clock_steps": 1,
        "ended": True,
        "start_ns": first_ns,
        "end_ns": last_ns,
        "balanced": True,
    }
    assert books.notes == [f"stream s, epoch {hex_epoch(EPOCH)}: before packet 10 the clock was set by 3 s"]


def contents(first: int, until: int, epoch: int = EPOCH) -> Annotation:
    made = Contents()
    made.add("s", Run(epoch, first, until, 0, 1))
    return contents_annotation(made, "aa", 0, 0)


@pytest.mark.parametrize(
    ("segments", "missing", "doubled", "problems"),
    [
        ([[batch(0), batch(2), close()]], 10, 0, ["10 packets (10 to 19) are missing before batch 2 in r-0"]),
        ([[batch(0), batch(0), close()]], 0, 10, ["batch 0 is recorded twice, the second time in r-0"]),
        ([[batch(0), batch(1, first=3), close()]], 0, 7, ["begins at packet 3, but packets up to 9 are already recorded"]),
        ([[batch(0), gap(20, 24), batch(3, first=25), close()]], 10, 0, ["10 packets (10 to 19) are missing before a decl"]),
        ([[batch(0), gap(9, 12), batch(1), close()]], 0, 0, ["declares packet 9 lost, which is already recorded or decl"]),
        ([[batch(0), more(batch(1, count=0), end=pb.StreamEnd(packets=10)), close()]], 0, 0, []),
        (
            [[batch(0), more(batch(1, count=0), end=pb.StreamEnd(packets=12)), close()]],
            2, 0, ["2 packets (10 to 11) are missing before the end of the stream in r-0"],
        ),
        ([[batch(0), contents(0, 10), close()]], 0, 0, []),
        ([[batch(0), contents(0, 25), close()]], 15, 0, ["15 packets (10 to 24) are missing in r-0"]),
        ([[contents(5, 25), close()]], 20, 0, ["20 packets (5 to 24) are missing in r-0"]),
        (
            [[batch(1), contents(3, 20), close()]],
            7, 0, ["7 packets (3 to 9) are missing at the beginning of r-0, and nothing declares them lost"],
        ),
        ([[batch(0), contents(5, 10), close()]], 0, 0, []),
        ([[batch(1), close(until=30)]], 10, 0, ["10 packets (20 to 29) are missing before the end of r-0"]),
        ([[close(until=30)]], 0, 0, []),
        ([[batch(0), close(final=False)], [begin(20, 2), batch(2), close()]], 10, 0, ["(10 to 19) are missing before r-1"]),
        ([[batch(0), close(final=False)], [begin(10, 4), batch(4, first=10), close()]], 0, 0,
         ["3 batches without packets are missing before r-1"]),
        ([[batch(0), gap(10, 9), close(final=False)], [begin(10, 4), batch(4, first=10), close()]], 0, 0, []),
        ([[batch(0), RECOVERED], [begin(10, 4), batch(4, first=10), close()]], 0, 0, []),
        ([[batch(1), close(final=False)], [begin(12, 2), batch(2), close()]], 0, 0,
         ["r-1 begins at packet 12, but packets up to 19 were recorded before it"]),
        ([[RECOVERED], [begin(20, 2), batch(2), close()]], 0, 0,
         ["r-1 continues at packet 20, and everything before it is gone: r-0 ended before its time"]),
        ([[batch(0), restart_annotation("s", Restart(EPOCH, 2, 10, 14), 0), batch(0, epoch=2), close()]], 4, 0,
         ["4 packets (10 to 13) are missing before the restart in r-0"]),
        ([[batch(0), batch(2), batch(4, first=30), close()]], 10, 0,
         ["10 packets (10 to 19) are missing before batch 2", "1 batches without packets, such as device events, are"]),
    ],
)  # fmt: skip
def test_what_is_missing_and_doubled(segments, missing: int, doubled: int, problems: list[str]) -> None:
    books = audited(*segments)
    assert sum(ledger.missing for ledger in books.epochs.values()) == missing
    assert sum(ledger.doubled for ledger in books.epochs.values()) == doubled
    assert [problem for says, problem in zip(problems, books.problems, strict=True) if says not in problem] == []
    assert books.balanced == (not problems)


def test_what_damage_took_between_two_segments_is_lost_for_that_reason() -> None:
    (ledger,) = audited([batch(0), RECOVERED], [begin(50, 5), batch(5), close()]).epochs.values()
    assert ledger.lost == {"recording: r-0 ended before its time": 40}
    assert ledger.next_sequence == 60


@pytest.mark.parametrize(
    ("indexes", "problems"),
    [
        ([0, 1, 2], []),
        ([1, 2, 3], ["segment 0 is missing"]),
        ([0, 2, 4], ["segment 1 is missing", "segment 3 is missing"]),
        ([0, 1, 1], ["segment 1 exists twice: one of its files is r-1"]),
    ],
)
def test_segments_that_are_missing_or_there_twice(indexes: list[int], problems: list[str]) -> None:
    whole = [[batch(number), close(final=number == 2)] for number in range(3)]
    books = audited(*whole, indexes=indexes)
    assert [problem.split(":")[0] for problem in books.problems] == [says.split(":")[0] for says in problems]


@pytest.mark.parametrize(
    ("annotation", "note"),
    [
        (Annotation("silence", 0, "s", {"duration_ns": 2_500_000_000}), "s: silence for 2.5 s, the node was gone or hung"),
        (
            Annotation("silence", 0, "s", {"duration_ns": 2_500_000_000, "upstream": True}),
            "s: silence for 2.5 s, the bridge itself received nothing",
        ),
        (Annotation("disk", 5 * 10**9, "", {"since_ns": 1_500_000_000, "reason": "full"}), "recording paused for 3.5 s: full"),
        (Annotation("stalled", 0, "", {"reason": "the disk was slow"}), "the disk was slow"),
        (Annotation("rate", 0, "s", {"reason": "s gives nothing"}), "s gives nothing"),
        (Annotation("refused", 0, "s", {"reason": "no right"}), "s: no right"),
        (Annotation("damaged", 0, "", {"reason": "a chunk is gone"}), "a chunk is gone"),
    ],
)  # fmt: skip
def test_what_is_worth_knowing_and_unbalances_nothing(annotation: Annotation, note: str) -> None:
    books = audited([batch(0), annotation, close()])
    assert books.notes == [note]
    assert books.balanced


def test_sentences_are_bounded_and_problems_counted() -> None:
    books = RecordingLedger()
    for _ in range(MAX_PROBLEMS + 5):
        books.problem("a problem")
        books.note("a note")
    assert (len(books.problems), len(books.notes), books.problem_count) == (
        MAX_PROBLEMS,
        MAX_PROBLEMS,
        MAX_PROBLEMS + 5,
    )
    assert not books.balanced

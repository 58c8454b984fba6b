"""Holes between the entries of a recording: what must be declared before an entry, and at the end of a file, as tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from made import batch as made_batch

from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import Position
from usbcast.recording.contents import Contents, Run
from usbcast.recording.entries import (
    STAGE,
    Annotation,
    Item,
    begin_annotation,
    contents_annotation,
    gap_annotation,
    gap_of,
    restart_annotation,
    restart_of,
    unknown_annotation,
)
from usbcast.recording.holes import NOT_THERE, Holes
from usbcast_schemas.batch import EncodedBatch

DAMAGE = "r-0 is damaged"
EPOCH, NEXT, LAST = 0x1E, 0x1F, 0x20


def batch(number: int, *, epoch: int = EPOCH, first: int | None = None) -> EncodedBatch:
    """Batch `number` of ten packets."""
    return made_batch(number, epoch=epoch, first=first)


def gap(first: int, last: int) -> Annotation:
    return gap_annotation("s", EPOCH, Gap(first, last, last - first + 1, "ring", "gone"), 0)


def begin(sequence: int, number: int, epoch: int = EPOCH) -> Annotation:
    return begin_annotation("s", Position(epoch, sequence, number), 0)


def restart(delivered: int) -> Annotation:
    return restart_annotation("s", Restart(EPOCH, NEXT, delivered, delivered), 0)


def close(sequence: int, number: int, *, batches: int = 1) -> Annotation:
    said = {"epoch": f"{EPOCH:016x}", "next_sequence": sequence, "next_number": number, "batches": batches}
    return Annotation("close", 0, "", {"reason": "", "final": True, "streams": {"s": said, "other": {"batches": 0}}})


def contents(*runs: Run, forgotten: int = 0) -> Contents:
    made = Contents()
    made.runs["s"] = list(runs)
    if forgotten:
        made.forgotten["s"] = forgotten
    return made


def said(annotations: Sequence[Annotation]) -> list[object]:
    """A gap as (first, last), a restart as the position and the epochs, an unknown loss as its first sequence."""
    found: list[object] = []
    for one in annotations:
        assert (one.stream, one.time_ns) == ("s", 77)
        if one.kind == "gap":
            lost = gap_of(one)
            assert (lost.stage, lost.count) == (STAGE, lost.last + 1 - lost.first)
            found.append((lost.first, lost.last))
        elif one.kind == "restart":
            told = restart_of(one)
            assert told.known_until == told.delivered_until
            found.append(f"{told.old_epoch:x} until {told.delivered_until}, then {told.new_epoch:x}")
        else:
            assert one.kind == "unknown"
            found.append(f"unknown before {one.fields['first']}")
    return found


def before(holes: Holes, item: Item) -> list[object]:
    return said(list(holes.before("s", item, 77)))


def read(*items: Item, listed: Contents | None = None, damage: bool = False, anywhere: bool = False) -> Holes:
    holes = Holes(anywhere=anywhere)
    holes.segment(lambda: listed)
    for item in items:
        holes.add("s", item)
    if damage:
        holes.damage(DAMAGE)
    return holes


@pytest.mark.parametrize(
    ("read_already", "item", "missing"),
    [
        pytest.param([batch(0)], batch(1), [], id="the next batch"),
        pytest.param([batch(0)], batch(3), [(10, 29)], id="batches are missing"),
        pytest.param([batch(0)], batch(3, first=10), [(10, 9)], id="batches without packets are missing"),
        pytest.param([batch(0)], batch(0), [], id="the same batch again"),
        pytest.param([batch(0), gap(10, 19)], batch(2), [], id="behind a gap"),
        pytest.param([batch(0), gap(10, 19)], batch(7, first=20), [], id="a gap does not say how many batches"),
        pytest.param([batch(0), gap(10, 19)], batch(3), [(20, 29)], id="more than the gap"),
        pytest.param([batch(0)], gap(10, 12), [], id="a gap that follows"),
        pytest.param([batch(0)], gap(15, 19), [(10, 14)], id="a gap that does not follow"),
        pytest.param([batch(0)], restart(10), [], id="a restart that follows"),
        pytest.param([batch(0)], restart(14), [(10, 13)], id="a restart that does not follow"),
        pytest.param([batch(0), restart(10)], batch(0, epoch=NEXT), [], id="behind a restart"),
        pytest.param([batch(0), restart(10)], batch(2, epoch=NEXT), [(0, 19)], id="missing behind a restart"),
        pytest.param([batch(0)], begin(10, 1), [], id="the next segment"),
        pytest.param([batch(0)], begin(30, 3), [(10, 29)], id="a later segment"),
        pytest.param([batch(0)], begin(10, 4), [(10, 9)], id="a segment behind batches without packets"),
        pytest.param([batch(0)], batch(0, epoch=NEXT), ["1e until 10, then 1f"], id="an epoch that nothing announces"),
        pytest.param(
            [batch(0)], batch(1, epoch=NEXT), ["1e until 10, then 1f", (0, 9)], id="and its first batch is gone"
        ),
        pytest.param([batch(0)], Annotation("disk", 0), [], id="an annotation without a place"),
        pytest.param([], batch(5), [], id="the first one that is read"),
        pytest.param([], begin(20, 2), [], id="the first segment"),
    ],
)
def test_what_is_missing_before_an_entry(read_already: list[Item], item: Item, missing: list[object]) -> None:
    assert before(read(*read_already), item) == missing


def test_a_hole_has_the_damage_of_its_file_as_reason() -> None:
    for damage, reason in ((False, NOT_THERE), (True, DAMAGE)):
        (found,) = read(batch(0), damage=damage).before("s", batch(2), 0)
        assert gap_of(found).reason == reason
    holes = read(batch(0), damage=True)
    holes.segment(lambda: None)
    (found,) = holes.before("s", batch(2), 0)
    assert gap_of(found).reason == NOT_THERE, "the next file is not damaged"


class TestContents:
    """What the file lists as its contents says what stood where nothing can be read."""

    def test_the_beginning_of_a_stream(self) -> None:
        listed = contents(Run(EPOCH, 0, 50, 0, 5))
        assert before(read(listed=listed), batch(2)) == [(0, 19)]
        assert before(read(listed=listed, anywhere=True), batch(2)) == []
        assert before(read(listed=contents(Run(EPOCH, 0, 50, 0, 5), forgotten=1)), batch(2)) == []
        assert before(read(listed=listed), begin(20, 2)) == [], "a file begins where it says"

    def test_the_epochs_between_two_entries(self) -> None:
        listed = contents(Run(EPOCH, 0, 50, 0, 5), Run(NEXT, 0, 20, 0, 2), Run(LAST, 0, 90, 0, 9))
        assert before(read(batch(0), listed=listed), batch(1, epoch=LAST)) == [
            (10, 49), "1e until 50, then 1f", (0, 19), "1f until 20, then 20", (0, 9),
        ]  # fmt: skip

    def test_batches_without_packets_at_the_end_of_an_epoch(self) -> None:
        listed = contents(Run(EPOCH, 0, 10, 0, 3), Run(NEXT, 0, 20, 0, 2))
        assert before(read(batch(0), listed=listed), batch(0, epoch=NEXT)) == [(10, 9), "1e until 10, then 1f"]

    def test_an_epoch_that_began_in_this_file_when_the_one_before_is_of_an_earlier_file(self) -> None:
        listed = contents(Run(NEXT, 30, 50, 3, 5))
        assert before(read(batch(0), listed=listed), batch(4, epoch=NEXT)) == ["1e until 10, then 1f", (30, 39)]

    def test_epochs_in_another_order_are_not_believed(self) -> None:
        listed = contents(Run(NEXT, 0, 20, 0, 2), Run(EPOCH, 0, 50, 0, 5))
        assert before(read(batch(0), listed=listed), batch(0, epoch=NEXT)) == ["1e until 10, then 1f"]


class TestUnknown:
    """In a file of an older form, which lists no contents, nobody can say how much damage took."""

    def test_before_the_first_entry_behind_the_damage(self) -> None:
        holes = read(damage=True)
        assert before(holes, batch(2)) == ["unknown before 20"]
        reason = f"nobody can say how much of stream s stood where {DAMAGE}: the file is of an older form"
        assert holes.unknown == [reason]
        (told,) = holes.before("s", batch(3), 77)
        assert told == unknown_annotation("s", EPOCH, 30, reason, 77)

    def test_not_where_a_stream_begins_or_reading_does(self) -> None:
        assert before(read(), batch(2)) == []
        assert before(read(damage=True, anywhere=True), batch(2)) == []
        holes = read(damage=True)
        holes.add("s", Annotation("begin", 0, "s"))
        assert before(holes, batch(2)) == []
        assert holes.unknown == []
        holes.damage(DAMAGE)
        assert before(holes, batch(2)) == ["unknown before 20"], "damage behind the beginning"

    def test_between_two_epochs(self) -> None:
        assert before(read(batch(0), damage=True), batch(0, epoch=NEXT)) == [
            "1e until 10, then 1f",
            "unknown before 10",
        ]


class TestEndOfFile:
    @pytest.mark.parametrize(
        ("read_already", "told", "missing"),
        [
            ([batch(0)], None, []),
            ([batch(0)], contents(Run(EPOCH, 0, 10, 0, 1)), []),
            ([batch(0)], contents(Run(EPOCH, 0, 30, 0, 3)), [(10, 29)]),
            ([batch(0)], contents(Run(EPOCH, 0, 10, 0, 2)), [(10, 9)]),
            ([batch(0)], contents(), []),
            ([], contents(Run(EPOCH, 0, 30, 0, 3)), []),
        ],
    )
    def test_the_last_list_of_contents_in_the_file_counts(self, read_already, told, missing) -> None:
        holes = read(*read_already)
        if told is not None:
            holes.add("s", contents_annotation(contents(Run(EPOCH, 0, 99, 0, 9)), "aa", 0, 0))
            holes.add("s", contents_annotation(told, "aa", 0, 0))
        assert said(list(holes.rest(77))) == missing
        assert said(list(holes.rest(77))) == [], "what was declared is declared once"

    def test_a_list_of_a_former_file_says_nothing_about_this_one(self) -> None:
        holes = read(batch(0), contents_annotation(contents(Run(EPOCH, 0, 30, 0, 3)), "aa", 0, 0))
        holes.segment(lambda: None)
        assert said(list(holes.rest(77))) == []

    def test_in_a_damaged_file_the_list_is_searched(self) -> None:
        listed = contents(Run(EPOCH, 0, 50, 0, 5))
        assert said(list(read(batch(0), listed=listed).rest(77))) == []
        assert said(list(read(batch(0), listed=listed, damage=True).rest(77))) == [(10, 49)]
        assert said(list(read(listed=listed, damage=True).rest(77))) == [(0, 49)]
        told = contents_annotation(contents(Run(EPOCH, 0, 30, 0, 3)), "aa", 0, 0)
        assert said(list(read(batch(0), told, damage=True).rest(77))) == [(10, 29)], (
            "none is found: the one read counts"
        )

    def test_a_close_says_where_each_stream_ended(self) -> None:
        assert before(read(batch(0)), close(10, 1)) == []
        assert before(read(batch(0)), close(30, 3)) == [(10, 29)]
        assert before(read(batch(0)), close(10, 3)) == [(10, 9)]
        assert before(read(listed=contents(Run(EPOCH, 10, 30, 1, 3))), close(30, 3)) == [(10, 29)]

    def test_a_close_behind_damage_that_took_a_whole_stream(self) -> None:
        assert before(read(damage=True), close(30, 3)) == ["unknown before 30"]
        assert before(read(damage=True), close(30, 3, batches=0)) == []
        assert before(read(damage=True, anywhere=True), close(30, 3)) == []
        assert before(read(), close(30, 3)) == []


class TestPosition:
    @pytest.mark.parametrize(
        ("items", "position"),
        [
            ([batch(2)], Position(EPOCH, 30, 3)),
            ([begin(20, 2)], Position(EPOCH, 20, 2)),
            ([batch(0), gap(10, 19)], Position(EPOCH, 20, 0)),
            ([batch(0), restart(10)], Position(NEXT, 0, 0)),
            ([batch(0), Annotation("begin", 0, "s")], Position(EPOCH, 10, 1)),
        ],
    )
    def test_it_is_behind_the_last_entry(self, items: list[Item], position: Position) -> None:
        assert read(*items).positions == {"s": position}

    @pytest.mark.parametrize(
        ("item", "position"),
        [
            (batch(3), Position(EPOCH, 30, 3)),
            (batch(3, first=10), Position(EPOCH, 10, 3)),
            (gap(10, 19), Position(EPOCH, 10, 1)),
            (batch(0), Position(EPOCH, 10, 1)),
            (batch(0, epoch=NEXT), Position(NEXT, 0, 0)),
        ],
    )
    def test_what_was_declared_moves_it(self, item: Item, position: Position) -> None:
        holes = read(batch(0))
        list(holes.before("s", item, 0))
        assert holes.positions == {"s": position}

    def test_segments_removed_by_wish(self) -> None:
        holes = read(*(Annotation("dropped", 0, "", {"before": before, "reason": ""}) for before in (2, 5, 3)))
        assert holes.dropped_before == 5

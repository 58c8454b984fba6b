"""Continuity, call by call: what it hands out, asks for and counts. What holds over whole streams is in test_continuity."""

from __future__ import annotations

from typing import Any

import pytest

from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import (
    NODE_GONE,
    OVERWRITTEN,
    SKIPPED,
    UNREADABLE,
    Continuity,
    Delivery,
    Position,
    Wanted,
)
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

EVENT = pb.DeviceEvent(kind=pb.DeviceEvent.KIND_STALLED)


def batch(number: int, first: int, count: int, epoch: int = 1, **more: Any) -> EncodedBatch:
    """A batch of one-byte packets."""
    arrivals = Arrivals((count,), (0,), (0,)) if count else Arrivals()
    return decode_batch(
        encode_batch(
            epoch=epoch, number=number, first_sequence=first, packet_count=count, packet_size=1 if count else 0,
            payload=[bytes(count)], arrivals=arrivals, **more,
        )
    )  # fmt: skip


def hole(first: int, until: int, batches: int, *, on_purpose: bool = False) -> pb.LostRange:
    return pb.LostRange(
        first_sequence=first, count=until - first, stage=pb.STAGE_BRIDGE, reason="upstream", batches=batches,
        on_purpose=on_purpose,
    )  # fmt: skip


def gap(first: int, until: int, stage: str = "ring", reason: str = OVERWRITTEN) -> Gap:
    return Gap(first, until - 1, until - first, stage, reason)


def begun(*start: Any, **options: Any) -> Continuity:
    """A continuity that begins at epoch 1, and then at the sequence and number given."""
    core = Continuity(**options)
    core.start(1, *start)
    return core


def out(core: Continuity) -> list[Any]:
    """All that waits: a batch as its number, the packets skipped and its gaps; anything else as it is."""
    found = [(item.batch.number, item.skip, *item.gaps) if isinstance(item, Delivery) else item for item in core.out]
    core.out.clear()
    return found


def fetch(core: Continuity, *batches: EncodedBatch, complete: bool = True, unreadable: bool = False) -> None:
    wanted = core.wanted()
    assert wanted is not None
    core.fetching(wanted)
    core.fetched(wanted.epoch, batches, complete=complete, unreadable=unreadable)


class TestStart:
    @pytest.mark.parametrize(
        ("start", "wanted"),
        [
            ((5, 3), Wanted(1, 5, None, 3)),
            ((5,), Wanted(1, 5, None, 0)),
            ((0, 0), Wanted(1, 0, None, 0)),
            ((None,), Wanted(1, 0, None, 0)),
            ((20, 9), None),
            ((20,), None),
        ],
    )
    def test_what_is_missing_when_the_stream_stands_at_packet_20_and_batch_9(self, start, wanted) -> None:
        core = begun(*start)
        assert core.wanted() is None, "nothing is known to exist"
        core.known(1, 20, 9)
        assert core.wanted() == wanted

    def test_nothing_is_taken_before_the_start(self) -> None:
        core = Continuity()
        core.live(batch(0, 0, 2))
        core.known(1, 5, 5)
        core.declared(1, gap(0, 2), 1)
        core.fetched(1, [batch(0, 0, 2)], complete=True)
        core.restart(2)
        assert (out(core), core.wanted(), core.position, core.stale, core.epoch) == ([], None, None, 3, None)
        assert core.pass_over("subscription", "any") is None

    def test_the_position_is_known_from_the_first_batch_on(self) -> None:
        core = begun(2)
        assert core.position is None
        core.live(batch(0, 0, 5))
        assert core.position == Position(1, 5, 1)

    def test_the_end_before_the_requested_start_is_delivered(self) -> None:
        core = begun(50)
        core.known(1, 20, 9, ended=True)
        assert core.wanted() == Wanted(1, 20, None, 8)
        fetch(core, batch(8, 20, 0, end=pb.StreamEnd()))
        assert out(core) == [(8, 0)]

    @pytest.mark.parametrize("start", [(20,), (10,), (None,)])
    def test_an_end_that_is_not_before_the_requested_start_changes_nothing(self, start) -> None:
        core, other = begun(*start), begun(*start)
        core.known(1, 20, 9, ended=True)
        other.known(1, 20, 9)
        assert (core.wanted(), core.first_sequence, core.position) == (other.wanted(), other.first_sequence, None)

    def test_an_end_that_comes_by_itself_before_the_requested_start_is_delivered(self) -> None:
        core = begun(50)
        core.live(batch(3, 20, 2, events=[EVENT]))
        assert out(core) == []
        core.live(batch(4, 22, 0, end=pb.StreamEnd()))
        assert out(core) == [(4, 0)]
        assert core.position == Position(1, 50, 5)
        core.live(batch(4, 22, 0, end=pb.StreamEnd()))
        assert out(core) == []


class TestFastPath:
    def test_it_may_deliver_the_next_batch_when_nothing_else_is_going_on(self) -> None:
        assert begun(4, 2).expected() == (1, 2, 4)
        assert Continuity().expected() is None
        assert begun(None).expected() is None
        assert begun(4).expected() is None
        assert begun(4, 2, latest=True).expected() is None

    def test_not_while_batches_are_held_or_fetched(self) -> None:
        core = begun(0, 0)
        core.live(batch(1, 2, 2))
        assert core.expected() is None
        wanted = core.wanted()
        assert wanted is not None
        core.set_can_fetch(False)
        assert core.expected() == (1, 0, 0), "nothing is held any more"
        core.fetching(wanted)
        assert core.expected() is None
        core.fetch_failed()
        assert core.expected() == (1, 0, 0)

    def test_what_it_delivered_moves_the_cursor_and_is_known(self) -> None:
        core = begun(4, 2)
        core.record_delivered(3, 30)
        assert core.position == Position(1, 34, 5)
        assert (core.known_until, core.wanted(), core.span) == (34, None, 30)
        core.live(batch(5, 34, 1))
        assert out(core) == [(5, 0)]


class TestLive:
    def test_a_batch_that_came_already_is_counted_and_dropped(self) -> None:
        core = begun(0, 0)
        for _ in range(2):
            core.live(batch(0, 0, 3))
        core.live(batch(0, 0, 3))
        assert (out(core), core.duplicates, core.stale) == ([(0, 0)], 6, 0)

    def test_a_batch_behind_a_hole_is_held_and_what_is_before_it_wanted(self) -> None:
        core = begun(0, 0)
        core.live(batch(0, 0, 2))
        core.live(batch(2, 4, 2))
        assert (out(core), core.wanted()) == ([(0, 0)], Wanted(1, 2, 4, 1))
        fetch(core, batch(1, 2, 2))
        assert (out(core), core.wanted(), core.duplicates) == ([(1, 0), (2, 0)], None, 0)

    def test_without_fetching_a_hole_is_a_gap_at_once(self) -> None:
        core = begun(0, 0, can_fetch=False, gone=("gone there", "bridge"))
        core.live(batch(2, 4, 2))
        assert out(core) == [(2, 0, gap(0, 4, "bridge", "gone there"))]
        assert core.wanted() is None

    def test_exactly_what_has_room_is_held(self) -> None:
        later = [batch(2 * n, 2 * n, 1) for n in (1, 2, 3)]
        size = len(later[0].raw)
        assert {len(one.raw) for one in later} == {size}
        for limit, held in ((2 * size, 2), (2 * size - 1, 1), (size, 1), (size - 1, 0)):
            core = begun(0, 0, hold_bytes=limit)
            for one in later:
                core.live(one)
            core.restart(2)  # hands out what is held
            assert len([item for item in core.out if isinstance(item, Delivery)]) == held, limit

    @pytest.mark.parametrize("free", ["delivered", "restart", "pass over", "no fetching"])
    def test_what_is_no_longer_held_makes_room(self, free: str) -> None:
        ahead = batch(3, 30, 10)
        core = begun(0, 0, hold_bytes=len(ahead.raw))
        core.live(ahead)
        epoch, number, first = 1, 4, 40
        if free == "delivered":
            fetch(core, batch(2, 20, 10))
        elif free == "restart":
            core.restart(2)
            epoch, number, first = 2, 0, 0
        elif free == "pass over":
            core.pass_over("subscription", SKIPPED)
        else:
            core.set_can_fetch(False)
            core.set_can_fetch(True)
            number, first = 0, 0
        core.out.clear()
        core.live(batch(number + 1, first + 10, 10, epoch))
        wanted = core.wanted()
        assert wanted is not None
        assert wanted.until_sequence == first + 10, "up to the batch that is held"

    def test_a_batch_during_a_fetch_is_held(self) -> None:
        core = begun(0, 0)
        core.known(1, 2, 1)
        wanted = core.wanted()
        assert wanted is not None
        core.fetching(wanted)
        assert core.under_way == wanted
        assert core.wanted() is None, "one request at a time"
        core.live(batch(0, 0, 2))
        assert out(core) == []
        core.fetched(1, [batch(0, 0, 2)], complete=True)
        assert core.under_way is None
        assert out(core) == [(0, 0)]
        assert core.duplicates == 2

    def test_what_was_lost_on_the_way_is_named(self) -> None:
        core = begun(0, 0, can_fetch=False, gone=("gone there", "bridge"))
        core.unreadable()
        core.live(batch(1, 2, 2))
        core.live(batch(3, 6, 2))
        assert out(core) == [(1, 0, gap(0, 2, "bridge", UNREADABLE)), (3, 0, gap(4, 6, "bridge", "gone there"))]

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_an_unreadable_message_before_the_first_batch_explains_no_later_gap(self, number: int) -> None:
        core = begun(None, can_fetch=False)
        core.unreadable()
        core.live(batch(number, 2, 2))
        core.live(batch(number + 2, 6, 2))
        assert out(core) == [(number, 0), (number + 2, 0, gap(4, 6))]


class TestDeclared:
    """A continuity at packet 5 and batch 3, or elsewhere, hears of a gap that a forwarder declared."""

    @pytest.mark.parametrize(
        ("start", "told", "next_number", "expected", "position"),
        [
            pytest.param((5, 3), (5, 10), 6, [(5, 10, "bridge")], (10, 6), id="at the cursor"),
            pytest.param((5, 3), (8, 10), 6, [(5, 8, "ring"), (8, 10, "bridge")], (10, 6), id="behind the cursor"),
            pytest.param((5, 3), (2, 7), 6, [(5, 7, "bridge")], (7, 6), id="around the cursor"),
            pytest.param((5, 3), (2, 6), 6, [(5, 6, "bridge")], (6, 6), id="one packet is new"),
            pytest.param((5, 3), (2, 5), 6, [], (5, 3), id="wholly before"),
            pytest.param((5, 3), (5, 5), 6, [(5, 5, "bridge")], (5, 6), id="events only, at the cursor"),
            pytest.param((5, 3), (7, 7), 6, [(5, 7, "ring"), (7, 7, "bridge")], (7, 6), id="events only, behind it"),
            pytest.param((5, 3), (4, 4), 6, [], (5, 3), id="events only, before it"),
            pytest.param((5, 3), (5, 10), 4, [(5, 10, "bridge")], (10, 4), id="of the next batch"),
            pytest.param((5, 3), (5, 10), 3, [], (5, 3), id="of no batch that is to come"),
            pytest.param((5, 3), (5, 10), 1, [], (5, 3), id="of a former batch"),
            pytest.param((5, 3), (5, 10), None, [(5, 10, "bridge")], (10, 3), id="number unknown"),
            pytest.param((5,), (5, 10), 6, [(5, 10, "bridge")], (10, 6), id="not joined"),
            pytest.param((5,), (5, 10), None, [(5, 10, "bridge")], None, id="not joined, number unknown"),
            pytest.param((5,), (5, 5), 6, [], None, id="not joined, events only"),
            pytest.param((None,), (7, 10), 6, [(7, 10, "bridge")], (10, 6), id="start unknown"),
        ],
    )
    def test_what_is_handed_out(self, start, told, next_number, expected, position) -> None:
        core = begun(*start)
        core.declared(1, gap(*told, "bridge", "upstream"), next_number)
        assert [(one.first, one.last + 1, one.stage) for one in core.out if isinstance(one, Gap)] == expected
        assert core.position == (position and Position(1, *position))

    def test_reason_stage_and_epoch_of_both_gaps(self) -> None:
        core = begun(5, 3, gone=("gone there", "store"))
        core.declared(1, gap(8, 10, "bridge", "upstream"), 6)
        before, told = out(core)
        assert (before.stage, before.reason, before.epoch) == ("store", "gone there", 1)
        assert (told.stage, told.reason, told.epoch) == ("bridge", "upstream", 1)

    def test_it_is_known_to_exist_though_it_was_dropped_as_a_duplicate(self) -> None:
        core = begun(5, 3)
        core.declared(1, gap(5, 10, "bridge"), 3)
        assert (core.duplicates, core.known_until, out(core)) == (5, 10, [])

    def test_the_start_is_where_the_stream_stood_at_joining(self) -> None:
        core = Continuity()
        core.start(1, None, joined_at=4)
        core.declared(1, gap(7, 10, "bridge", "upstream"), 6)
        assert out(core) == [gap(4, 7), gap(7, 10, "bridge", "upstream")]
        assert core.span == 6

    def test_what_follows_it_is_delivered(self) -> None:
        core = begun(5, 3)
        core.declared(1, gap(5, 10, "bridge", "upstream"), 6)
        assert core.wanted() is None
        core.live(batch(6, 10, 1))
        assert out(core) == [gap(5, 10, "bridge", "upstream"), (6, 0)]

    def test_of_a_former_epoch_it_is_stale_and_of_a_new_one_a_restart(self) -> None:
        core = begun(0, 0)
        core.declared(2, gap(0, 3, "bridge", "upstream"), 1)
        assert out(core) == [Restart(1, 2, 0, 0), gap(0, 3, "bridge", "upstream")]
        core.declared(1, gap(0, 3, "bridge", "upstream"), 1)
        assert (out(core), core.stale) == ([], 1)


class TestFetched:
    def test_only_what_is_new_counts_as_fetched(self) -> None:
        core = begun(0, 0)
        core.live(batch(0, 0, 2))
        core.known(1, 8, 4)
        fetch(core, batch(0, 0, 2), batch(1, 2, 2), batch(2, 4, 2), complete=False)
        assert (core.fetched_packets, core.duplicates) == (4, 2)
        assert core.wanted() == Wanted(1, 6, None, 3)

    def test_before_joining_all_counts_as_fetched(self) -> None:
        core = begun(None)
        core.known(1, 4, 2)
        fetch(core, batch(0, 0, 2), batch(1, 2, 2))
        assert (core.fetched_packets, out(core)) == (4, [(0, 0), (1, 0)])

    def test_an_answer_tells_how_far_the_stream_has_come(self) -> None:
        core = begun(0, 0)
        core.known(1, 2, 1)
        fetch(core, batch(0, 0, 4), complete=False)
        assert (core.known_until, core.wanted()) == (4, None)

    @pytest.mark.parametrize(
        ("complete", "expected"),
        [(True, [(1, 0, gap(0, 2)), (4, 0, gap(4, 8))]), (False, [(1, 0, gap(0, 2))])],
    )
    def test_before_a_held_batch_the_rest_is_lost_when_the_node_has_no_more(self, complete, expected) -> None:
        core = begun(0, 0)
        core.live(batch(4, 8, 2))
        fetch(core, batch(1, 2, 2), complete=complete)
        assert out(core) == expected

    def test_a_batch_that_came_meanwhile_and_lies_behind_the_range_stays_held(self) -> None:
        core = begun(0, 0)
        core.live(batch(2, 4, 2))
        wanted = core.wanted()
        assert wanted is not None
        core.fetching(wanted)
        core.live(batch(5, 10, 2))
        core.fetched(1, [], complete=True)
        assert out(core) == [(2, 0, gap(0, 4))]
        assert core.wanted() == Wanted(1, 6, 10, 3)

    def test_of_an_open_range_the_held_batch_waits_for_the_next_answer(self) -> None:
        core = begun(0, 0)
        core.known(1, 2, 1)
        wanted = core.wanted()
        assert wanted == Wanted(1, 0, None, 0)
        core.fetching(wanted)
        core.live(batch(3, 6, 2))
        core.fetched(1, [], complete=True)
        assert out(core) == []
        assert core.wanted() == Wanted(1, 0, 6, 0)

    @pytest.mark.parametrize("epochs", [(2, 1), (1, 2), (2, 2)])
    def test_an_answer_of_another_epoch_is_dropped(self, epochs: tuple[int, int]) -> None:
        answered, asked = epochs
        core = begun(0, 0)
        core.known(1, 2, 1)
        core.fetching(Wanted(asked, 0, None, 0))
        core.fetched(answered, [batch(0, 0, 2, answered)], complete=True)
        assert (out(core), core.under_way) == ([], None)

    def test_an_answer_that_nobody_asked_for_is_dropped(self) -> None:
        core = begun(0, 0)
        core.fetched(1, [batch(0, 0, 2)], complete=True)
        assert out(core) == []

    def test_holes_that_batches_tell_of_are_handed_out_with_the_rest_around_them(self) -> None:
        core = begun(0, 0)
        core.known(1, 20, 9)
        fetch(core, batch(8, 18, 2, holes=[hole(4, 6, 1), hole(10, 12, 1, on_purpose=True)]))
        (item,) = core.out
        assert isinstance(item, Delivery)
        told = [gap(4, 6, "bridge", "upstream"), Gap(10, 11, 2, "bridge", "upstream", on_purpose=True)]
        assert item.told == tuple(told)
        assert item.gaps == (gap(0, 4), told[0], gap(6, 10), told[1], gap(12, 18))

    @pytest.mark.parametrize(
        ("start", "on_purpose", "told"),
        [((5, 3), False, 1), ((5, 3), True, 0), ((5,), False, 0), ((6, 3), False, 0), ((4, 3), False, 1)],
    )
    def test_a_hole_of_events_only_is_told_to_who_could_have_had_them(self, start, on_purpose, told) -> None:
        core = begun(*start, can_fetch=False)
        core.live(batch(4, 5, 3, holes=[hole(5, 5, 1, on_purpose=on_purpose)]))
        (item,) = core.out
        assert isinstance(item, Delivery)
        assert len(item.told) == told

    @pytest.mark.parametrize(
        ("number", "first", "expected"),
        [
            (3, 5, ()),
            (4, 5, (gap(5, 5, reason=f"device events {OVERWRITTEN}"),)),
            (4, 6, (gap(5, 6),)),
        ],
    )
    def test_missing_batches_without_packets_were_device_events(self, number, first, expected) -> None:
        core = begun(5, 3, can_fetch=False)
        core.live(batch(number, first, 2))
        assert out(core) == [(number, 0, *expected)]

    def test_before_joining_no_device_events_are_missed(self) -> None:
        core = begun(5, can_fetch=False)
        core.live(batch(4, 5, 2))
        assert out(core) == [(4, 0)]


class TestPassOver:
    def test_what_is_known_and_has_not_come_is_skipped_on_purpose(self) -> None:
        core = begun(5, 3)
        core.known(1, 20, 9)
        skipped = core.pass_over("subscription", SKIPPED)
        assert skipped == Gap(5, 19, 15, "subscription", SKIPPED, on_purpose=True)
        assert core.position == Position(1, 20, 9)
        assert (core.wanted(), core.span) == (None, 15)
        core.live(batch(9, 20, 2))
        assert out(core) == [(9, 0)]

    def test_held_batches_and_the_request_under_way_are_skipped_too(self) -> None:
        core = begun(0, 0)
        core.live(batch(2, 4, 2))
        wanted = core.wanted()
        assert wanted is not None
        core.fetching(wanted)
        assert core.pass_over("subscription", SKIPPED) == Gap(0, 5, 6, "subscription", SKIPPED, on_purpose=True)
        assert core.under_way is None
        core.fetched(1, [batch(0, 0, 2)], complete=True)
        assert out(core) == []

    def test_batches_without_packets_count(self) -> None:
        core = begun(5, 3)
        core.known(1, 5, 4)
        skipped = core.pass_over("subscription", SKIPPED)
        assert skipped is not None
        assert (skipped.first, skipped.last, skipped.count) == (5, 4, 0)

    def test_nothing_is_skipped_where_nothing_is_missing(self) -> None:
        core = begun(5, 3)
        assert core.pass_over("subscription", SKIPPED) is None
        assert core.position == Position(1, 5, 3)

    def test_nothing_is_skipped_while_something_waits_for_the_application(self) -> None:
        core = begun(5, 3)
        core.live(batch(3, 5, 2))
        core.known(1, 20, 9)
        assert core.pass_over("subscription", SKIPPED) is None
        assert core.wanted() == Wanted(1, 7, None, 4)

    @pytest.mark.parametrize(("start", "first"), [((None,), 20), ((8,), 8), ((30,), 30)])
    def test_before_joining_it_joins_at_the_newest(self, start, first) -> None:
        core = begun(*start)
        core.known(1, 20, 9)
        assert core.pass_over("subscription", SKIPPED) is None
        assert core.first_sequence == first
        assert core.position == Position(1, max(20, first), 9)

    @pytest.mark.parametrize(("number", "wanted"), [(9, Wanted(1, 20, None, 8)), (10, Wanted(1, 20, None, 9))])
    def test_the_end_of_the_stream_is_not_left_out(self, number: int, wanted: Wanted) -> None:
        core = begun(5, 3)
        core.known(1, 20, 9)
        core.pass_over("subscription", SKIPPED)
        core.known(1, 20, number, ended=True)
        assert core.wanted() == wanted
        core.known(1, 20, number, ended=True)
        assert core.wanted() == wanted, "only once"

    def test_what_came_since_is_the_end(self) -> None:
        core = begun(5, 3)
        core.known(1, 20, 9)
        core.pass_over("subscription", SKIPPED)
        core.live(batch(9, 20, 2))
        core.known(1, 22, 10, ended=True)
        assert core.wanted() is None


class TestRestart:
    def test_to_the_same_epoch_is_none(self) -> None:
        core = begun(5, 3)
        core.restart(1)
        assert (out(core), core.position) == ([], Position(1, 5, 3))

    @pytest.mark.parametrize(
        ("start", "known", "expected"),
        [
            ((5, 3), (5, 3), [Restart(1, 2, 5, 5)]),
            ((5, 3), (6, 4), [gap(5, 6, reason=NODE_GONE), Restart(1, 2, 6, 6)]),
            ((5,), (9, 4), [gap(5, 9, reason=NODE_GONE), Restart(1, 2, 9, 9)]),
            ((50,), (9, 4), [Restart(1, 2, 50, 50)]),
            ((None,), (9, 4), [Restart(1, 2, 0, 9)]),
        ],
    )
    def test_what_was_known_and_never_came_is_lost(self, start, known, expected) -> None:
        core = begun(*start)
        core.known(1, *known)
        core.known(2, 0, 0)
        assert out(core) == expected
        assert core.position == Position(2, 0, 0)

    def test_held_batches_are_delivered_with_the_gaps_before_them(self) -> None:
        core = begun(0, 0)
        core.live(batch(2, 4, 2))
        core.live(batch(5, 10, 2))
        core.known(1, 14, 7)
        core.live(batch(0, 0, 3, epoch=2))
        lost = [gap(0, 4, reason=NODE_GONE), gap(6, 10, reason=NODE_GONE), gap(12, 14, reason=NODE_GONE)]
        assert out(core) == [(2, 0, lost[0]), (5, 0, lost[1]), lost[2], Restart(1, 2, 14, 14), (0, 0)]
        assert core.span == 14 + 3

    def test_a_restart_before_anything_came_begins_at_the_first_held_batch(self) -> None:
        core = Continuity()
        core.start(1, None, joined_at=4)
        core.live(batch(2, 6, 2))
        core.restart(2)
        assert out(core) == [(2, 0, gap(4, 6, reason=NODE_GONE)), Restart(1, 2, 8, 8)]

    def test_a_request_of_the_former_epoch_is_forgotten(self) -> None:
        core = begun(0, 0)
        core.known(1, 4, 2)
        wanted = core.wanted()
        assert wanted is not None
        core.fetching(wanted)
        core.known(2, 3, 1)
        assert core.wanted() == Wanted(2, 0, None, 0)

    def test_former_epochs_never_come_back(self) -> None:
        core = begun(0, 0)
        for epoch in range(2, 10):
            core.restart(epoch)
        core.out.clear()
        assert [epoch for epoch in range(1, 12) if core.is_former(epoch)] == list(range(1, 9))
        core.live(batch(0, 0, 1, epoch=3))
        core.known(4, 9, 9)
        assert (out(core), core.stale, core.epoch) == ([], 2, 9)

    def test_after_a_restart_the_place_of_joining_means_nothing(self) -> None:
        core = Continuity()
        core.start(1, None, joined_at=4)
        core.restart(2)
        core.out.clear()
        core.live(batch(0, 0, 2, epoch=2))
        assert out(core) == [(0, 0)]
        assert core.span == 2


class TestLatest:
    def test_it_begins_with_the_newest_batch_that_comes(self) -> None:
        core = begun(None, latest=True)
        core.known(1, 20, 9)
        assert core.wanted() == Wanted(1, 20, None, 0, newest_only=True)
        core.live(batch(9, 20, 5))
        assert out(core) == [(9, 0)]
        core.known(1, 30, 11)
        assert core.wanted() == Wanted(1, 25, None, 10, newest_only=True), "behind the first, device events are wanted"

    def test_a_newer_batch_replaces_what_waits_and_gaps_that_adjoin_are_one(self) -> None:
        core = begun(0, 0, latest=True)
        for number in range(4):
            core.live(batch(number, 2 * number, 2))
        assert out(core) == [gap(0, 6, "subscription", SKIPPED), (3, 0)]

    def test_gaps_for_other_reasons_stay_apart(self) -> None:
        core = begun(0, 0, latest=True)
        core.declared(1, gap(0, 2, "bridge", "upstream"), 1)
        core.declared(1, gap(2, 4, "bridge", "elsewhere"), 2)
        core.live(batch(2, 4, 2))
        core.live(batch(3, 6, 2))
        assert out(core) == [
            gap(0, 2, "bridge", "upstream"),
            gap(2, 4, "bridge", "elsewhere"),
            gap(4, 6, "subscription", SKIPPED),
            (3, 0),
        ]

    def test_a_restart_keeps_gaps_apart(self) -> None:
        core = begun(0, 0, latest=True)
        core.live(batch(0, 0, 2))
        core.live(batch(0, 0, 2, epoch=2))
        core.live(batch(1, 2, 2, epoch=2))
        lost = [gap(0, 2, "subscription", SKIPPED), gap(0, 2, "subscription", SKIPPED)]
        found = out(core)
        assert found == [lost[0], Restart(1, 2, 2, 2), lost[1], (1, 0)]
        assert [item.epoch for item in found if isinstance(item, Gap)] == [1, 2]

    def test_a_batch_without_packets_replaces_nothing(self) -> None:
        core = begun(0, 0, latest=True)
        core.live(batch(0, 0, 2))
        core.live(batch(1, 2, 0, events=[EVENT]))
        assert out(core) == [(0, 0), (1, 0)]

    @pytest.mark.parametrize(
        ("more", "kept"),
        [
            ({"events": [EVENT]}, [(0, 2)]),
            ({"losses": [pb.Loss(stage=pb.STAGE_DEVICE, packets=1)]}, [(0, 2)]),
            ({"end": pb.StreamEnd()}, [(0, 2)]),
            ({}, []),
        ],
    )
    def test_what_a_replaced_batch_tells_is_kept_without_its_packets(self, more, kept) -> None:
        core = begun(0, 0, latest=True)
        core.live(batch(0, 0, 2, **more))
        core.live(batch(1, 2, 1))
        assert out(core) == [*kept, gap(0, 2, "subscription", SKIPPED), (1, 0)]

    def test_events_before_the_requested_start_are_not_kept(self) -> None:
        core = begun(1, latest=True)
        core.live(batch(0, 0, 3, events=[EVENT]))
        core.live(batch(1, 3, 1))
        assert out(core) == [gap(1, 3, "subscription", SKIPPED), (1, 0)]

    def test_the_gaps_of_a_replaced_batch_are_kept(self) -> None:
        core = begun(0, 0, latest=True, can_fetch=False)
        core.live(batch(1, 2, 2, holes=[hole(0, 2, 1)]))
        core.live(batch(2, 4, 1))
        assert out(core) == [gap(0, 2, "bridge", "upstream"), gap(2, 4, "subscription", SKIPPED), (2, 0)]

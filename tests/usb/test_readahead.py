"""The order of what queued reads bring, whatever fails, is cancelled, or refused."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.flow import Transfer
from usbcast_broker.sources.usb.read_sizes import ReadSizes
from usbcast_broker.sources.usb.readahead import (
    CANCELLED,
    MAX_WAITING_BYTES,
    NO_MEMORY,
    Completion,
    Failure,
    Figures,
    ReadAhead,
)

IO, NO_DEVICE, OVERFLOW, STALL = -1, -4, -8, -9
SIZE = 16384


@dataclass
class Bus:
    """The submit layer made of a list: transfers wait in the order in which they were submitted."""

    waiting: deque[FakeSlot] = field(default_factory=deque)
    refusals: deque[int] = field(default_factory=deque)
    most: int = 1 << 30
    cancelled: int = 0

    def end(self, *completions: Completion) -> None:
        """The oldest transfers end so."""
        for completion in completions:
            self.waiting.popleft().outcome = completion


class FakeSlot:
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.outcome: Completion | None = None
        self.size_bytes = 0

    def submit(self, size_bytes: int) -> int:
        assert self not in self.bus.waiting
        self.size_bytes = size_bytes
        if self.bus.refusals:
            return self.bus.refusals.popleft()
        if len(self.bus.waiting) >= self.bus.most:
            return NO_MEMORY
        self.outcome = None
        self.bus.waiting.append(self)
        return 0

    def cancel(self) -> None:
        self.bus.cancelled += 1

    def completion(self) -> Completion | None:
        return self.outcome


class Rig:
    def __init__(self, queue: int = 4, **bus: int) -> None:
        self.bus = Bus(**bus)  # type: ignore[arg-type]
        self.figures = Figures()
        self.ahead = ReadAhead([FakeSlot(self.bus) for _ in range(queue)], self.figures, ReadSizes(SIZE), queue)
        self.now_ns = 0

    def take(self) -> list[bytes] | int:
        """Data, or a failure's code."""
        outcome = self.ahead.take(self.now_ns)
        return outcome.code if isinstance(outcome, Failure) else [transfer.data for transfer in outcome]

    def take_all(self) -> list[bytes | int]:
        found: list[bytes | int] = []
        while outcome := self.take():
            found += [outcome] if isinstance(outcome, int) else outcome
        return found

    def end(self, *completions: Completion | bytes | int) -> None:
        """Transfers end, and that is seen."""
        self.bus.end(*(as_completion(one) for one in completions))
        self.ahead.collect(self.now_ns, self.now_ns)


def as_completion(one: Completion | bytes | int) -> Completion:
    if isinstance(one, Completion):
        return one
    return Completion(0, one) if isinstance(one, bytes) else Completion(one)


def test_nothing_is_queued_before_the_first_read() -> None:
    rig = Rig()
    assert not rig.bus.waiting
    assert rig.take() == []
    assert len(rig.bus.waiting) == rig.figures.in_flight == 4


def test_what_ended_is_submitted_again_before_anybody_takes_it() -> None:
    rig = Rig()
    rig.take()
    rig.end(b"a", b"b")
    assert len(rig.bus.waiting) == 4
    rig.end(b"c", b"", b"e")
    assert rig.take_all() == [b"a", b"b", b"c", b"", b"e"]


def test_a_later_transfer_that_ends_first_waits_for_its_turn() -> None:
    rig = Rig()
    rig.take()
    first, second = list(rig.bus.waiting)[:2]
    rig.bus.waiting.remove(second)
    second.outcome = Completion(0, b"second")
    rig.ahead.collect(0, 0)
    assert rig.take() == []
    rig.bus.waiting.remove(first)
    first.outcome = Completion(0, b"first")
    rig.ahead.collect(0, 0)
    assert rig.take_all() == [b"first", b"second"]


def test_the_time_is_that_of_the_collecting() -> None:
    rig = Rig()
    rig.take()
    rig.bus.end(Completion(0, b"a"))
    rig.ahead.collect(111, 11)
    rig.bus.end(Completion(0, b"b"))
    rig.ahead.collect(222, 22)
    assert rig.ahead.take(99) == [Transfer(b"a", 111, 11), Transfer(b"b", 222, 22)]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([b"a", IO, b"b", b"c"], [b"a", IO, b"b", b"c"]),
        ([STALL, STALL, STALL, STALL], [STALL]),
        ([IO, IO, b"b", IO], [IO, b"b", IO]),
        ([OVERFLOW, OVERFLOW, b"b"], [OVERFLOW, OVERFLOW, b"b"]),
        ([IO, NO_DEVICE, NO_DEVICE], [IO, NO_DEVICE]),
        ([Completion(STALL, b"before")], [b"before", STALL]),
        ([Completion(OVERFLOW, b"rubbish")], [OVERFLOW]),
        ([CANCELLED], [IO]),
        ([Completion(CANCELLED, b"x")], [b"x", IO]),
    ],
)
def test_failures_stand_at_their_place(ends: list[Completion | bytes | int], told: list[bytes | int]) -> None:
    rig = Rig()
    rig.take()
    rig.end(*ends)
    assert rig.take_all() == told


def test_nothing_is_submitted_until_the_failure_was_told_and_somebody_reads_on() -> None:
    rig = Rig()
    rig.take()
    rig.end(b"a", STALL)
    assert len(rig.bus.waiting) == 2
    assert rig.take() == [b"a"]
    assert rig.take() == STALL
    assert len(rig.bus.waiting) == 2
    assert rig.take() == []
    assert len(rig.bus.waiting) == 4


def test_a_fault_that_lasts_is_told_again_to_those_who_read_on() -> None:
    rig = Rig()
    rig.take()
    for _ in range(3):
        rig.end(*[STALL] * 4)
        assert rig.take_all()[:1] == [STALL]
    assert rig.figures.failed_together == 9


def test_a_device_that_is_gone_refuses_the_submission() -> None:
    rig = Rig()
    rig.bus.refusals.extend([NO_DEVICE, NO_DEVICE])
    assert [rig.take(), rig.take(), rig.take()] == [NO_DEVICE, NO_DEVICE, []]


def test_where_memory_is_short_fewer_are_queued() -> None:
    rig = Rig(queue=8, most=3)
    rig.take()
    assert (rig.figures.in_flight, rig.figures.refused) == (3, 5)
    rig.end(b"a", b"b", b"c")
    assert rig.take_all() == [b"a", b"b", b"c"]
    assert rig.figures.in_flight == 3


def test_no_memory_for_any_is_a_failure() -> None:
    assert Rig(most=0).take() == NO_MEMORY


def test_what_nobody_takes_does_not_grow_for_ever() -> None:
    rig = Rig()
    rig.take()
    piece = bytes(MAX_WAITING_BYTES // 8)
    ended = 0
    while rig.bus.waiting:
        rig.end(piece)
        ended += 1
    assert ended == 8 + 3
    assert rig.take_all() == [piece] * ended
    assert len(rig.bus.waiting) == 4


def test_starved_moments_are_counted_and_measured() -> None:
    rig = Rig(queue=2)
    rig.take()
    rig.bus.end(Completion(0, b"a"), Completion(0, b"b"))
    rig.ahead.collect(0, 5_000, away_ns=3_000)
    assert (rig.figures.starved, rig.figures.starved_ns) == (1, 3_000)
    rig.bus.end(Completion(0, b"c"))
    rig.ahead.collect(0, 6_000, away_ns=900)
    assert (rig.figures.starved, rig.figures.starved_ns) == (1, 3_000)
    rig.bus.end(Completion(STALL), Completion(STALL))
    rig.ahead.collect(0, 10_000)
    rig.now_ns = 17_000
    assert rig.take_all() == [b"a", b"b", b"c", STALL]
    assert (rig.figures.starved, rig.figures.starved_ns) == (2, 10_000)
    assert rig.figures.as_counters()["starved_us"] == 10


class TestEnding:
    def test_halted_it_submits_nothing_more(self) -> None:
        rig = Rig()
        rig.take()
        rig.ahead.halt()
        rig.end(b"a", b"b")
        assert rig.ahead.in_flight == 2
        assert rig.ahead.rest() == [Transfer(b"a", 0, 0), Transfer(b"b", 0, 0)]

    def test_a_cancelled_transfer_may_hold_data_or_have_just_ended(self) -> None:
        rig = Rig()
        rig.take()
        rig.end(b"a")
        rig.ahead.cancel()
        assert rig.bus.cancelled == 4
        rig.end(b"just ended", Completion(CANCELLED, b"part"), CANCELLED, NO_DEVICE)
        assert rig.ahead.in_flight == 0
        assert [one.data for one in rig.ahead.rest()] == [b"a", b"just ended", b"part"]

    def test_resumed_it_goes_on_in_order_without_old_failures(self) -> None:
        rig = Rig()
        rig.take()
        rig.end(b"a", STALL)
        rig.ahead.cancel()
        rig.end(STALL, Completion(CANCELLED, b"b"))
        rig.ahead.resume()
        assert rig.take_all() == [b"a", b"b"]
        rig.end(b"c")
        assert rig.take_all() == [b"c"]
        assert rig.figures.in_flight == 4

    def test_what_never_ends_can_be_abandoned(self) -> None:
        rig = Rig(queue=2)
        rig.take()
        stuck = list(rig.bus.waiting)
        rig.ahead.cancel()
        assert rig.ahead.abandon() == stuck
        assert rig.ahead.in_flight == rig.figures.in_flight == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.integers(1, 5), st.sampled_from([0, 0, 0, 0, IO, STALL, OVERFLOW])),
        st.tuples(st.just("take"), st.integers(1, 8), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 5), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(queue=st.integers(1, 6), script=steps)
def test_all_data_comes_once_and_in_order(queue: int, script: list[tuple[str, int, int]]) -> None:
    rig = Rig(queue=queue)
    made, faults = 0, 0
    data: list[bytes] = []
    told: list[int] = []
    rig.take()
    for what, count, code in script:
        if what == "end":
            for _ in range(min(count, len(rig.bus.waiting))):
                if code:
                    rig.bus.end(Completion(code))
                    faults += 1
                else:
                    rig.bus.end(Completion(0, b"%d" % made))
                    made += 1
            rig.ahead.collect(0, 0)
        elif what == "take":
            for outcome in [rig.take() for _ in range(count)]:
                if isinstance(outcome, int):
                    told.append(outcome)
                else:
                    data += outcome
        else:
            rig.ahead.cancel()
            while rig.bus.waiting:
                done = len(rig.bus.waiting) % 2
                rig.bus.end(Completion(CANCELLED, b"%d" % made if done else b""))
                made += done
            rig.ahead.collect(0, 0)
            rig.ahead.resume()
    rig.ahead.cancel()
    while rig.bus.waiting:
        rig.bus.end(Completion(CANCELLED))
    rig.ahead.collect(0, 0)
    data += [one.data for one in rig.ahead.rest()]
    assert data == [b"%d" % i for i in range(made)]
    assert len(told) <= faults
    assert rig.figures.in_flight == 0
    assert len(rig.bus.waiting) == 0


def test_what_is_ready_is_taken_up_to_a_failure_and_nothing_is_asked_for() -> None:
    rig = Rig(4)
    assert rig.take() == []
    assert rig.ahead.take_readings() == []
    rig.bus.end(Completion(0, b"a"), Completion(0, b"b"), Completion(STALL), Completion(0, b"c"))
    rig.ahead.collect(7, 8)
    assert [(one.data, one.monotonic_ns) for one in rig.ahead.take_readings()] == [(b"a", 8), (b"b", 8)]
    assert rig.ahead.take_readings() == []
    assert not rig.bus.waiting
    assert rig.take() == STALL
    assert [one.data for one in rig.ahead.take_readings()] == [b"c"]
    assert not rig.bus.waiting
    assert rig.take() == []
    assert len(rig.bus.waiting) == 4

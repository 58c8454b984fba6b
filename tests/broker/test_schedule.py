"""The times of the publisher: nothing that is due is missed, nothing that was left behind waits, and an idle node sleeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.serving.schedule import AWAKE, Schedule, StreamSchedule
from usbcast_broker.stream.coalescing import CLOSE_NS, GATHERED_BYTES, INLINE_BYTES, LEFT_NS, Coalescer
from usbcast_broker.stream.notification_schedule import HEARTBEAT_NS, NotificationPacer, TailPacer
from usbcast_schemas.contract import NOTIFICATION_INTERVAL_NS, TAIL_NS

MS = 1_000_000
START_NS = 10**12
PATIENCE_BYTES = 4096


class Outlet:
    notify_topic, tail_topic = b"notify", b"tail"

    def __init__(self) -> None:
        self.coalescer = Coalescer()
        self.pacer = NotificationPacer()
        self.tail = TailPacer()


class Stream:
    """A stream whose turns take no time."""

    def __init__(self, reads_ahead: bool = True, turn_ns: int = 0, batch_age_ns: int = 0) -> None:
        self.outlet = Outlet()
        self.over = False
        self.patience_bytes = PATIENCE_BYTES
        self.waiting_bytes = 0
        self.waits_since_ns = 0
        self.due_at_ns: int | None = None
        self.reads_ahead = reads_ahead
        self.turn_ns = turn_ns
        self.batch_age_ns = batch_age_ns
        """What has come stays in a batch for so long; 0: it is published at once."""

    def add(self, size_bytes: int, now_ns: int) -> None:
        if not self.waiting_bytes:
            self.waits_since_ns = now_ns
        self.waiting_bytes += size_bytes

    def turn(self, schedule: StreamSchedule, now_ns: int) -> int:
        outlet = self.outlet
        if self.due_at_ns is not None and now_ns >= self.due_at_ns:
            self.due_at_ns = None
        if self.waiting_bytes:
            self.waiting_bytes = 0
            outlet.coalescer.turned(now_ns - self.turn_ns, now_ns)
            outlet.pacer.mark_new()
            outlet.tail.mark_new(now_ns)
            if self.batch_age_ns and self.due_at_ns is None:
                self.due_at_ns = now_ns + self.batch_age_ns
        if now_ns >= schedule.due_at_ns:
            outlet.pacer.take(now_ns)
            if schedule.tail_wanted:
                outlet.tail.take(now_ns)
        return schedule.due_at_ns


class Node:
    """The publisher's thread and those of the feeds, each as a generator that stops wherever another may come in between.

    Time passes only while every thread waits, so that what waits has waited for a thread to wake.
    """

    def __init__(self, streams: list[Stream], wanted: frozenset[bytes] = frozenset()) -> None:
        self.schedule = Schedule(wanted.__contains__)
        self.schedule.streams = self.streams = streams
        self.now_ns = START_NS
        self.locked = self.asleep = self.rung = self.blocked = False
        self.rounds = 0
        self.publisher = self.publish()
        self.feeds: list[Iterator[None]] = []

    def publish(self) -> Iterator[None]:
        schedule = self.schedule
        while True:
            self.rounds += 1
            while self.locked:
                self.blocked = True
                yield
            self.blocked, self.locked = False, True
            for stream in schedule.due(self.now_ns):
                yield
                stream.turn(schedule.of(stream), self.now_ns)  # type: ignore[attr-defined]
            yield
            schedule.fall_asleep(self.now_ns)
            yield
            self.locked = False
            yield
            if schedule.may_sleep(self.now_ns):
                while schedule.wakes_at_ns > self.now_ns:
                    self.asleep = not self.rung
                    yield
                    self.rung = self.asleep = False
                schedule.wake()

    def feed(self, stream: Stream, size_bytes: int) -> Iterator[None]:
        """Something has come: as `Publisher.on_data`."""
        schedule, due_ns = self.schedule, AWAKE
        stream.add(size_bytes, self.now_ns)
        yield
        if self.locked:
            schedule.left_behind = True
        else:
            self.locked = True
            times = schedule.of(stream)
            left_ns = times.left_until_ns(self.now_ns, stream.reads_ahead)
            yield
            due_ns = stream.turn(times, self.now_ns) if left_ns is None else left_ns
            self.locked = False
        yield
        if schedule.wake_by(due_ns):
            yield
            self.rung = True
            self.asleep = False

    def settle(self, choose: Iterator[int]) -> None:
        """Let threads run, in an order that `choose` says, until all of them wait; nothing may be left lying then."""
        for _ in range(10_000):
            waits = self.asleep or (self.blocked and self.locked)
            ready = [*self.feeds] if waits else [self.publisher, *self.feeds]
            if not ready:
                break
            thread = ready[next(choose, 0) % len(ready)]
            if next(thread, self) is self:
                self.feeds.remove(thread)
        else:
            pytest.fail("it spins")
        self.check()

    def check(self) -> None:
        assert not self.locked
        wakes_at_ns = self.schedule.wakes_at_ns
        assert self.now_ns < wakes_at_ns <= self.now_ns + HEARTBEAT_NS
        for stream in self.streams:
            assert wakes_at_ns <= self.schedule.of(stream).due_at_ns
            if stream.waiting_bytes:
                assert wakes_at_ns <= stream.waits_since_ns + LEFT_NS

    def run(self, for_ns: int, choose: Iterator[int]) -> None:
        """Let time pass: whoever sleeps wakes when its time has come."""
        until_ns = self.now_ns + for_ns
        while self.schedule.wakes_at_ns <= until_ns:
            self.now_ns = self.schedule.wakes_at_ns
            self.asleep = False
            self.settle(choose)
        self.now_ns = until_ns


AUDIENCES = [frozenset(), frozenset({b"notify"}), frozenset({b"tail"}), frozenset({b"notify", b"tail"})]

streams = st.lists(
    st.builds(
        Stream,
        reads_ahead=st.booleans(),
        turn_ns=st.sampled_from([0, 20_000, 100_000, 5 * MS]),
        batch_age_ns=st.sampled_from([0, 0, 1, MS, 20 * MS]),
    ),
    min_size=1,
    max_size=3,
)
packets = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 1000, CLOSE_NS, LEFT_NS - 1, LEFT_NS, MS, 30 * MS, 3000 * MS]),
        st.integers(0, 2),
        st.sampled_from([1, 64, PATIENCE_BYTES + 1, INLINE_BYTES + 1, GATHERED_BYTES]),
    ),
    max_size=30,
)
"""How much later than the one before, of which stream, and how large."""


@settings(max_examples=100, deadline=None)
@given(streams, st.sampled_from(AUDIENCES), packets, st.lists(st.integers(0, 3), max_size=200))
def test_nothing_is_missed_whichever_thread_comes_first(
    streams: list[Stream], wanted: frozenset[bytes], packets: list[tuple[int, int, int]], order: list[int]
) -> None:
    node, choose = Node(streams, wanted), iter(order)
    node.settle(choose)
    for later_ns, which, size_bytes in packets:
        if later_ns:
            node.settle(choose)
            node.run(later_ns, choose)
        node.feeds.append(node.feed(streams[which % len(streams)], size_bytes))
    node.settle(choose)
    node.run(LEFT_NS, choose)
    assert [stream.waiting_bytes for stream in streams] == [0] * len(streams)


@pytest.mark.parametrize("wanted", AUDIENCES, ids=["nobody", "notify", "tail", "both"])
def test_an_idle_node_wakes_for_heartbeats_only(wanted: frozenset[bytes]) -> None:
    streams = [Stream(batch_age_ns=2 * MS) for _ in range(3)]
    node = Node(streams, wanted)
    for stream in streams:
        node.feeds.append(node.feed(stream, 64))
    node.settle(iter(()))
    node.run(100 * MS, iter(()))
    before = node.rounds
    node.run(20 * HEARTBEAT_NS, iter(()))
    assert node.rounds - before <= 20 * len(streams) * len(wanted | {b"heartbeat"})


def test_a_ring_for_nothing_costs_no_round() -> None:
    node = Node([Stream()])
    node.settle(iter(()))
    before, wakes_at_ns = node.rounds, node.schedule.wakes_at_ns
    node.rung, node.asleep = True, False
    node.settle(iter(()))
    assert (node.rounds, node.schedule.wakes_at_ns) == (before, wakes_at_ns)


def test_a_stream_needs_a_turn_when_the_first_of_its_times_has_come() -> None:
    stream = Stream()
    pacer, tail = stream.outlet.pacer, stream.outlet.tail
    pacer.take(0)
    tail.take(0)
    for notify, ends in ((False, False), (True, False), (False, True), (True, True)):
        assert StreamSchedule(stream, notify, ends).due_at_ns == HEARTBEAT_NS
    pacer.mark_new()
    tail.mark_new(MS)
    due = [StreamSchedule(stream, notify, ends).due_at_ns for notify, ends in ((False, False), (True, False))]
    assert due == [HEARTBEAT_NS, NOTIFICATION_INTERVAL_NS]
    assert StreamSchedule(stream, False, True).due_at_ns == MS + TAIL_NS
    stream.due_at_ns = 5
    assert StreamSchedule(stream, True, True).due_at_ns == 5


def test_the_fast_path_rings_for_whom_it_matters() -> None:
    stream = Stream()
    stream.outlet.pacer.take(0)
    stream.outlet.tail.take(0)
    assert StreamSchedule(stream, False, False).bell_at_ns == HEARTBEAT_NS
    assert StreamSchedule(stream, True, False).bell_at_ns == 0
    assert StreamSchedule(stream, False, True).bell_at_ns == 0, "the first one after a rest"
    stream.outlet.tail.mark_new(MS)
    assert StreamSchedule(stream, False, True).bell_at_ns == MS + TAIL_NS


@pytest.mark.parametrize(
    ("reads_ahead", "waiting_bytes", "since_ns", "left_ns"),
    [
        (True, 1, CLOSE_NS, None),
        (True, 1, CLOSE_NS - 1, LEFT_NS),
        (True, GATHERED_BYTES, 0, None),
        (False, GATHERED_BYTES, 0, LEFT_NS),
        (False, INLINE_BYTES + 1, CLOSE_NS, 0),
        (True, INLINE_BYTES + 1, CLOSE_NS, None),
    ],
)
def test_who_handles_what_has_come(reads_ahead: bool, waiting_bytes: int, since_ns: int, left_ns: int | None) -> None:
    stream = Stream()
    stream.outlet.coalescer.turned(START_NS, START_NS)
    stream.waiting_bytes = waiting_bytes
    now_ns = START_NS + since_ns
    expected = None if left_ns is None else now_ns + left_ns
    assert StreamSchedule(stream, False, False).left_until_ns(now_ns, reads_ahead) == expected


def test_a_new_audience_is_asked_for() -> None:
    wanted: set[bytes] = set()
    schedule, stream = Schedule(wanted.__contains__), Stream()
    schedule.streams = [stream]
    assert not schedule.of(stream).notify_wanted
    wanted.add(b"notify")
    assert not schedule.of(stream).notify_wanted
    schedule.forget_audiences()
    assert schedule.of(stream).notify_wanted
    assert not schedule.of(stream).tail_wanted

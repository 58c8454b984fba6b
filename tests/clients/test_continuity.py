"""Continuity: whatever the way drops, doubles and delays, what comes out has no hole that is not declared."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast.batch import Batch
from usbcast.clock.clock_watch import ClockWatch
from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import Continuity, Delivery
from usbcast.receiving.event_builder import EventBuilder
from usbcast_schemas.batch import EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb


def batch(number: int, first: int, count: int, epoch: int = 1) -> EncodedBatch:
    events = [] if count else [pb.DeviceEvent(kind=pb.DeviceEvent.KIND_STALLED, detail=str(number))]
    return decode_batch(
        encode_batch(
            epoch=epoch, number=number, first_sequence=first, packet_count=count, packet_size=1,
            payload=[bytes((first + i) % 256 for i in range(count))], events=events,
            arrivals=_arrivals(count),
        )
    )  # fmt: skip


def _arrivals(count: int):
    from usbcast_schemas.batch import Arrivals

    return Arrivals((count,), (0,), (0,)) if count else Arrivals()


def stream(counts: list[int], epoch: int = 1) -> list[EncodedBatch]:
    made, first = [], 0
    for number, count in enumerate(counts):
        made.append(batch(number, first, count, epoch))
        first += count
    return made


class Application:
    """Takes what comes out and checks it as it comes."""

    def __init__(self, core: Continuity) -> None:
        self.core = core
        self.next: int | None = None
        self.delivered: list[int] = []
        self.lost: list[int] = []
        self.numbers: list[int] = []
        self.restarts: list[Restart] = []

    def take(self) -> None:
        while self.core.out:
            item = self.core.out.popleft()
            if isinstance(item, Restart):
                self.restarts.append(item)
                self.next = 0
            elif isinstance(item, Gap):
                self.gap(item)
            else:
                self.delivery(item)

    def gap(self, gap: Gap) -> None:
        assert gap.count == gap.last - gap.first + 1
        assert self.next in (None, gap.first), f"a gap from {gap.first} where {self.next} was next"
        self.lost.extend(range(gap.first, gap.last + 1))
        self.next = gap.last + 1

    def delivery(self, item: Delivery) -> None:
        for gap in item.gaps:
            self.gap(gap)
        first = item.batch.first_sequence + item.skip
        assert self.next in (None, first), f"a batch from {first} where {self.next} was next"
        self.delivered.extend(range(first, item.batch.end_sequence))
        self.numbers.append(item.batch.number)
        self.next = item.batch.end_sequence


class Node:
    """A ring that keeps the last `keep` batches, and answers fetches as the replay service does."""

    def __init__(self, made: list[EncodedBatch], keep: int) -> None:
        self.made, self.keep, self.published = made, keep, 0

    @property
    def held(self) -> list[EncodedBatch]:
        return self.made[max(0, self.published - self.keep) : self.published]

    def fetch(self, core: Continuity, budget: int) -> None:
        wanted = core.wanted()
        if wanted is None:
            return
        core.fetching(wanted)
        found = [
            b
            for b in self.held
            if b.number >= wanted.from_number
            and (
                b.end_sequence > wanted.from_sequence
                or (not b.packet_count and b.first_sequence >= wanted.from_sequence)
            )
            and (
                wanted.until_sequence is None
                or b.first_sequence < wanted.until_sequence
                or (b.first_sequence == wanted.until_sequence and not b.packet_count)
            )
        ]
        core.fetched(wanted.epoch, found[:budget], complete=len(found) <= budget)


counts = st.lists(st.integers(0, 5), min_size=1, max_size=30)


@settings(max_examples=400, deadline=None)
@given(
    counts=counts,
    keep=st.integers(1, 12),
    start=st.sampled_from(["now", "oldest"]) | st.integers(0, 60),
    data=st.data(),
)
def test_push_with_losses_doubles_and_an_overtaking_ring(counts, keep, start, data: st.DataObject) -> None:
    node = Node(stream(counts), keep)
    core = Continuity()
    app = Application(core)
    node.published = data.draw(st.integers(0, len(counts)), "published before joining")
    now = node.made[node.published - 1].end_sequence if node.published else 0
    held = node.held
    if start == "now":
        core.start(1, now, node.published)
    else:
        core.start(1, None if start == "oldest" else start, joined_at=now)
    core.known(1, now, node.published)
    while node.published < len(counts):
        for _ in range(data.draw(st.integers(1, 4), "burst")):
            if node.published == len(counts):
                break
            fresh = node.made[node.published]
            node.published += 1
            for _ in range(data.draw(st.sampled_from([1, 1, 1, 0, 2]), "copies")):
                core.live(fresh)
        if data.draw(st.booleans(), "fetch"):
            node.fetch(core, data.draw(st.integers(1, 5), "budget"))
        if data.draw(st.booleans(), "take"):
            app.take()
    core.known(1, node.made[-1].end_sequence, len(counts))  # the heartbeat
    for _ in range(100):
        if core.wanted() is None:
            break
        node.fetch(core, 3)
    assert core.wanted() is None
    app.take()

    end = node.made[-1].end_sequence
    if start == "now":
        begin = now
    elif start == "oldest":
        begin = min([*app.delivered, *app.lost], default=now)
        # All that came since joining is there or told, and nothing older than what the ring held is a gap.
        assert begin <= now
        assert not app.lost or min(app.lost) >= (held[0].first_sequence if held else 0)
    else:
        begin = start
    assert sorted([*app.delivered, *app.lost]) == list(range(begin, max(begin, end)))
    assert app.delivered == sorted(set(app.delivered))
    assert core.span == len(app.delivered) + len(app.lost)
    held_sequences = {s for b in node.held for s in range(b.first_sequence, b.end_sequence)}
    assert not held_sequences & set(app.lost) or keep < len(counts)


@given(counts=counts, data=st.data())
def test_nothing_is_lost_while_the_ring_holds_it(counts, data: st.DataObject) -> None:
    """Any batches dropped on the way: with a ring that holds all, every batch is delivered, those without packets too."""
    node = Node(stream(counts), keep=len(counts))
    core = Continuity()
    app = Application(core)
    core.start(1, 0, 0)
    for fresh in node.made:
        node.published += 1
        if data.draw(st.booleans(), "comes"):
            core.live(fresh)
        if data.draw(st.booleans(), "fetch"):
            node.fetch(core, 2)
    core.known(1, node.made[-1].end_sequence, len(counts))
    for _ in range(100):
        node.fetch(core, 2)
    app.take()
    assert app.lost == []
    assert app.numbers == list(range(len(counts)))


@given(counts=counts, data=st.data())
def test_latest_is_never_more_than_one_batch_behind_and_declares_what_it_skips(counts, data: st.DataObject) -> None:
    core = Continuity(latest=True)
    app = Application(core)
    core.start(1, 0, 0)
    events_made = events_seen = 0
    for fresh in stream(counts):
        core.live(fresh)
        events_made += len(fresh.events)
        assert sum(item.batch.packet_count - item.skip for item in core.out if isinstance(item, Delivery)) <= max(
            counts
        )
        if data.draw(st.booleans(), "take"):
            events_seen += sum(len(item.batch.events) for item in core.out if isinstance(item, Delivery))
            app.take()
    events_seen += sum(len(item.batch.events) for item in core.out if isinstance(item, Delivery))
    app.take()
    assert sorted([*app.delivered, *app.lost]) == list(range(sum(counts)))
    assert events_seen == events_made
    if counts[-1]:
        assert app.delivered[-1] == sum(counts) - 1


def test_a_new_epoch_is_a_restart_with_what_was_known_of_the_old_one() -> None:
    core = Continuity()
    app = Application(core)
    core.start(1, 0, 0)
    core.live(batch(0, 0, 3))
    core.known(1, 10, 4)  # 7 packets were announced and never came
    core.live(batch(0, 0, 2, epoch=2))
    app.take()
    assert app.delivered == [0, 1, 2, 0, 1]
    assert app.lost == [3, 4, 5, 6, 7, 8, 9]
    assert app.restarts == [Restart(1, 2, delivered_until=10, known_until=10)]
    core.live(batch(5, 50, 2, epoch=1))
    app.take()
    assert app.delivered == [0, 1, 2, 0, 1], "a message of a former epoch is stale"
    assert core.stale == 1
    assert core.span == 12


def test_a_batch_cut_by_the_start_is_delivered_from_there() -> None:
    core = Continuity()
    core.start(1, 7)
    core.known(1, 20, 2)
    wanted = core.wanted()
    assert wanted is not None
    assert (wanted.from_sequence, wanted.until_sequence, wanted.from_number) == (7, None, 0)
    core.fetching(wanted)
    core.fetched(1, [batch(0, 0, 10), batch(1, 10, 10)], complete=True)
    first, second = core.out
    assert isinstance(first, Delivery)
    assert isinstance(second, Delivery)
    assert (first.skip, second.skip, first.gaps) == (7, 0, ())


def test_missing_events_are_declared_though_no_packet_is_missing() -> None:
    core = Continuity(can_fetch=False)
    core.start(1, 0, 0)
    core.live(batch(0, 0, 2))
    core.live(batch(3, 2, 2))
    _, second = core.out
    assert isinstance(second, Delivery)
    (gap,) = second.gaps
    assert (gap.first, gap.last, gap.count) == (2, 1, 0)
    assert gap.reason == "device events overwritten in the ring"


def test_latest_declares_events_that_are_gone_too() -> None:
    core = Continuity(latest=True, can_fetch=False)
    core.start(1, 0, 0)
    core.live(batch(0, 0, 2))
    core.live(batch(3, 2, 0))
    _, second = core.out
    assert isinstance(second, Delivery)
    (gap,) = second.gaps
    assert (gap.first, gap.last, gap.count, gap.stage) == (2, 1, 0, "subscription")
    assert gap.reason == "device events skipped for the newest"


def test_the_hold_buffer_is_bounded_and_what_it_refuses_is_fetched() -> None:
    node = Node(stream([10] * 50), keep=50)
    size = len(node.made[0].raw)
    core = Continuity(hold_bytes=5 * size)
    app = Application(core)
    core.start(1, 0, 0)
    for fresh in node.made:
        node.published += 1
        if fresh.number:
            core.live(fresh)
    for _ in range(60):
        node.fetch(core, 10)
    app.take()
    assert app.delivered == list(range(500))
    assert app.lost == []


def hole(first_number: int, number: int, first: int, until: int, reason: str = "upstream: gone") -> EncodedBatch:
    """A batch that stands for the numbers from `first_number` to `number`, and tells of [first, until)."""
    told = pb.LostRange(
        first_sequence=first, count=until - first, stage=pb.STAGE_BRIDGE, reason=reason, batches=number - first_number
    )
    return decode_batch(
        encode_batch(
            epoch=1, number=number, first_sequence=until, packet_count=0, packet_size=0, payload=(), holes=[told]
        )
    )


@settings(max_examples=300, deadline=None)
@given(counts=counts, keep=st.integers(1, 40), data=st.data())
def test_a_hole_that_is_told_of_is_a_gap_and_not_fetched(counts, keep, data: st.DataObject) -> None:
    """Some batches in a row are gone for everybody: whatever is lost on the way, the account comes out."""
    whole = stream(counts)
    begin = data.draw(st.integers(0, len(counts) - 1), "hole begins")
    until = data.draw(st.integers(begin + 1, len(counts)), "hole ends")
    first, after = whole[begin].first_sequence, whole[until - 1].end_sequence
    told = hole(begin, until - 1, first, after)
    node = Node([*whole[:begin], told, *whole[until:]], keep)
    core = Continuity()
    app = Application(core)
    core.start(1, 0, 0)
    for fresh in node.made:
        node.published += 1
        if data.draw(st.booleans(), "comes"):
            core.live(fresh)
        if data.draw(st.booleans(), "fetch"):
            node.fetch(core, 2)
        if data.draw(st.booleans(), "take"):
            app.take()
    core.known(1, whole[-1].end_sequence, len(counts))
    for _ in range(100):
        node.fetch(core, 2)
    assert core.wanted() is None, "what is gone is not asked for again and again"
    app.take()
    assert sorted([*app.delivered, *app.lost]) == list(range(sum(counts)))
    assert set(range(first, after)) <= set(app.lost)
    if keep > len(node.made):
        assert app.lost == list(range(first, after))
        assert app.numbers == [*range(begin), *range(until - 1, len(counts))]


def test_of_a_hole_a_late_one_is_told_what_lies_before_it() -> None:
    for start, expected in ((0, [(0, 1, "ring"), (2, 8, "bridge")]), (5, [(5, 8, "bridge")]), (9, []), (12, [])):
        core = Continuity()
        core.start(1, start)
        core.known(1, 12, 9)
        wanted = core.wanted()
        if wanted is not None:
            core.fetching(wanted)
            core.fetched(1, [hole(3, 7, 2, 9), batch(8, 9, 3)], complete=True)
        gaps = [gap for item in core.out if isinstance(item, Delivery) for gap in item.gaps]
        assert [(gap.first, gap.last, gap.stage) for gap in gaps] == expected
        assert core.wanted() is None


def test_a_hole_without_packets_is_told_as_it_is() -> None:
    core = Continuity()
    core.start(1, 0, 0)
    core.live(batch(0, 0, 2))
    core.live(hole(1, 3, 2, 2, "upstream: device events overwritten in the ring"))
    core.live(batch(4, 2, 2))
    assert core.wanted() is None
    _, told, last = core.out
    assert isinstance(told, Delivery)
    assert isinstance(last, Delivery)
    assert [(gap.count, gap.stage) for gap in told.gaps] == [(0, "bridge")]
    assert last.gaps == ()


def test_what_the_ring_loses_between_joining_and_the_first_answer_is_a_gap() -> None:
    """On a slow link the first answer may come when all that was there at the joining is overwritten."""
    core = Continuity()
    core.start(1, None, joined_at=4)
    core.known(1, 4, 2)
    wanted = core.wanted()
    assert wanted is not None
    core.fetching(wanted)
    core.fetched(1, [batch(9, 20, 2)], complete=True)
    item = core.out.popleft()
    assert isinstance(item, Delivery)
    assert item.gaps == (Gap(4, 19, 16, "ring", "overwritten in the ring"),)
    assert core.span == 18


def test_what_was_there_before_joining_is_had_but_not_missed() -> None:
    for first in (0, 3, 4):
        core = Continuity()
        core.start(1, None, joined_at=4)
        core.known(1, 4, 2)
        wanted = core.wanted()
        assert wanted is not None
        core.fetching(wanted)
        core.fetched(1, [batch(1, first, 5)], complete=True)
        item = core.out.popleft()
        assert isinstance(item, Delivery)
        assert item.gaps == ()
        assert core.span == 5


def test_a_restart_before_the_first_answer_tells_what_came_since_joining() -> None:
    core = Continuity()
    core.start(1, None, joined_at=4)
    core.known(1, 4, 2)
    core.known(1, 10, 5)
    core.known(2, 0, 0)
    gap, restart = core.out
    assert isinstance(gap, Gap)
    assert (gap.first, gap.last, gap.count) == (4, 9, 6)
    assert isinstance(restart, Restart)


def test_of_an_answer_what_could_not_be_read_is_told_for_that_reason() -> None:
    core = Continuity()
    core.start(1, 0, 0)
    core.known(1, 6, 3)
    wanted = core.wanted()
    assert wanted is not None
    core.fetching(wanted)
    first, _, third = stream([2, 2, 2])
    core.fetched(1, [first, third], complete=True, unreadable=True)
    assert [item.gaps for item in core.out if isinstance(item, Delivery)] == [
        (),
        (Gap(2, 3, 2, "ring", "could not be read"),),
    ]


def test_what_is_overwritten_later_is_not_told_as_unreadable() -> None:
    core = Continuity(can_fetch=False)
    core.start(1, 0, 0)
    first, second, _, fourth = stream([2, 2, 2, 2])
    core.live(first)
    core.unreadable()
    core.live(second)
    core.live(fourth)
    assert [item.gaps for item in core.out if isinstance(item, Delivery)][-1] == (
        Gap(4, 5, 2, "ring", "overwritten in the ring"),
    )


def test_a_gap_says_of_which_epoch_it_is_and_comes_before_the_restart() -> None:
    core = Continuity(can_fetch=False)
    builder = EventBuilder(core, ClockWatch("sim"))
    core.start(1, 0, 0)
    core.live(batch(0, 0, 2, epoch=1))
    core.known(1, 5, 2)
    told = batch(0, 0, 1, epoch=2)
    told.losses = [pb.Loss(stage=pb.STAGE_DEVICE, reason="counter", packets=4)]
    core.live(told)
    events = list(iter(builder.next_event, None))
    assert [type(event) for event in events] == [Batch, Gap, Restart, Gap, Batch]
    _, old, restart, new, first = events
    assert isinstance(old, Gap)
    assert isinstance(restart, Restart)
    assert isinstance(new, Gap)
    assert isinstance(first, Batch)
    assert (old.first, old.last, old.epoch) == (2, 4, 1)
    assert (restart.old_epoch, restart.new_epoch) == (1, 2)
    assert (new.count, new.epoch) == (4, 2)
    assert [(gap.count, gap.epoch) for gap in first.gaps] == [(3, 1), (4, 2)], "who only iterates hears of both"

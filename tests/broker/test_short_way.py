"""The short way from a feed's thread into the ring: the same stream and the same books as without it, whatever comes between."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

import usbcast
from tests.support.nodes import Account, check_books, eventually, small, take_until
from usbcast_broker.flow import DeviceEvent, HostItem, Lost, Transfer
from usbcast_broker.node import Node
from usbcast_broker.serving.publisher import Publisher
from usbcast_broker.stream.coalescing import CLOSE_NS
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_broker.stream.pipeline import Stream
from usbcast_schemas import native
from usbcast_schemas.batch import Buffer, decode_batch
from usbcast_schemas.contract import CONTRACT, HEARTBEAT_S, tail_topic
from usbcast_schemas.fanout import fanout_of, sender_of
from usbcast_schemas.profile import parse_profile
from usbcast_schemas.ring import STORES_ARE_ORDERED, RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import decode_notification

if TYPE_CHECKING:
    from usbcast_schemas._native import ShortWay

needs_core = pytest.mark.skipif(
    native.core is None or not STORES_ARE_ORDERED, reason=f"there is no short way here: {native.why_not}"
)

SIZE = 8
PROFILE = f"""\
[stream]
name = "numbers"
[device]
vendor_id = 0x1209
product_id = 0x0001
endpoint = 0x81
[framing]
method = "fixed"
size = {SIZE}
"""


class ByHand:
    """A feed that hands in what the test says, in the thread of the test."""

    identity = None
    attached = True
    problem = ""
    turned_ns = None

    def __init__(self, queue: HostQueue, *, reads_ahead: bool) -> None:
        self.queue = queue
        self.reads_ahead = reads_ahead
        self.held_ns = 0
        self.packets = self.size_bytes = 0

    @property
    def counters(self) -> dict[str, int]:
        return {"bytes": self.size_bytes}

    def start(self) -> None: ...
    def stop(self, *, drain: bool = True) -> None: ...
    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        raise NotImplementedError

    def transfer(self, packets: int, *, more_bytes: int = 0) -> Transfer:
        """The next so many packets; each is its number."""
        data = b"".join(n.to_bytes(SIZE, "little") for n in range(self.packets, self.packets + packets))
        self.packets += packets
        self.size_bytes += len(data) + more_bytes
        return Transfer(data + bytes(more_bytes), time.time_ns(), time.monotonic_ns())

    def put(self, packets: int = 1) -> None:
        self.queue.put(self.transfer(packets))


@contextmanager
def handing_in(*, reads_ahead: bool = True, batch_size: int = 4096) -> Iterator[tuple[Node, ByHand]]:
    node = Node(small(batch_size=batch_size))
    feeds: list[ByHand] = []

    def make(queue: HostQueue) -> ByHand:
        feeds.append(ByHand(queue, reads_ahead=reads_ahead))
        return feeds[0]

    node.add(parse_profile(PROFILE, "the test's profile"), make)
    node.start()
    try:
        yield node, feeds[0]
    finally:
        node.stop("the test is over")
    assert not [sentence for stream in node.last_health for sentence in stream.discrepancies]


def _device_event() -> DeviceEvent:
    return DeviceEvent(pb.DeviceEvent.KIND_STALLED, time.time_ns(), time.monotonic_ns(), "a stall")


@pytest.mark.parametrize("reads_ahead", [True, False])
@pytest.mark.parametrize("via", ["ring", "push"])
def test_every_packet_comes_in_order_whichever_way_it_took(via: str, reads_ahead: bool) -> None:
    """Single packets, bursts, lists, things that happen, while somebody asks for the books: no number is missing or doubled."""
    rng = random.Random(7)
    with (
        handing_in(reads_ahead=reads_ahead) as (node, feed),
        usbcast.subscribe("numbers", node.endpoint, via=via) as stream,
    ):
        assert stream.ready()
        stop = threading.Event()
        unbalanced: list[str] = []

        def ask() -> None:
            while not stop.wait(0.002):
                unbalanced.extend(sentence for health in node.health() for sentence in health.discrepancies)

        asking = threading.Thread(target=ask)
        asking.start()
        account = Account()
        happened = 0
        for _ in range(1500):
            what = rng.random()
            if what < 0.6:
                feed.put(rng.randint(1, 3))
            elif what < 0.9:
                feed.queue.extend([feed.transfer(rng.randint(1, 40)) for _ in range(rng.randint(1, 5))])
            elif what < 0.95:
                feed.queue.put(_device_event())
                happened += 1
            if rng.random() < 0.3:
                time.sleep(rng.choice((0.0001, 0.001)))
        feed.put()
        take_until(stream, account, lambda: account.delivered == feed.packets)
        stop.set()
        asking.join()
        assert not unbalanced
        assert not account.gaps
        assert len(account.of(usbcast.DeviceEvent)) == happened
        check_books(stream.ledger, account)
        assert account.payload == b"".join(n.to_bytes(SIZE, "little") for n in range(feed.packets))


@needs_core
def test_a_packet_by_itself_is_in_the_ring_when_the_feed_goes_on() -> None:
    """And stays out of the queue; what follows at once waits there, for more."""
    with handing_in() as (node, feed):
        outlet = node.pipelines[0].outlet
        feed.put()  # the first one opens it
        for n in range(1, 20):
            eventually(lambda: len(feed.queue) == 0)
            time.sleep(CLOSE_NS / 1e9)
            feed.put()
            assert outlet.next_sequence == n + 1
            assert len(feed.queue) == 0


@needs_core
def test_what_cannot_be_made_larger_does_not_wait() -> None:
    """A transfer that is most of a batch is written at once, however soon after the last one."""
    with handing_in(batch_size=100 * SIZE) as (node, feed):
        feed.put()
        eventually(lambda: node.pipelines[0].outlet.next_sequence == 1)
        before = feed.packets
        for n in range(200):
            feed.put(60)
            assert node.pipelines[0].outlet.next_sequence == before + 60 * (n + 1)


@needs_core
def test_nothing_goes_through_once_publishing_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with handing_in() as (node, feed):
        feed.put()
        publisher = node._publisher
        publisher._fail(RuntimeError("out of tea"))
        published = node.pipelines[0].outlet.next_sequence
        feed.put()
        assert node.pipelines[0].outlet.next_sequence == published
        assert len(feed.queue) == 1
        publisher.problem = None


@needs_core
def test_what_is_pushed_is_sent_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher is asked only now and then, as without subscribers."""
    knocks: list[int] = []
    on_data = Publisher.on_data

    def counted(self: Publisher, pipeline: Stream) -> None:
        knocks.append(feed.packets)
        on_data(self, pipeline)

    monkeypatch.setattr(Publisher, "on_data", counted)
    with handing_in() as (node, feed), usbcast.subscribe("numbers", node.endpoint, via="push") as stream:
        assert stream.ready()
        account = Account()
        for _ in range(300):
            feed.put()
            time.sleep(0.001)
        take_until(stream, account, lambda: account.delivered == 300)
        assert account.payload == b"".join(n.to_bytes(SIZE, "little") for n in range(300))
        assert len(knocks) < 150, knocks


@needs_core
def test_who_gets_the_data_is_told_of_every_rest() -> None:
    """Though the packets before it were sent without anybody looking: not only by the heartbeat, which is a second away."""
    with (
        handing_in() as (node, feed),
        usbcast.subscribe("numbers", node.endpoint, via="push") as stream,
        zmq.Context.instance().socket(zmq.SUB) as told,
    ):
        assert stream.ready()
        told.subscribe(tail_topic("numbers"))
        told.connect(node.data_endpoints[0])
        took_s: list[float] = []
        for _ in range(5):
            for _ in range(10):
                feed.put()
                time.sleep(0.002)
            begun = time.monotonic()
            while True:
                assert told.poll(10_000), "it is not told of what came last"
                if decode_notification(told.recv_multipart()[1]).next_sequence == feed.packets:
                    break
            took_s.append(time.monotonic() - begun)
        assert min(took_s) < HEARTBEAT_S / 2, took_s


# The native part alone


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[RingWriter]:
    writer = RingWriter(tmp_path, "s", 5, data_bytes=8192, slots=64)
    yield writer
    writer.close()


def _at(monotonic_ns: int, packets: int = 1) -> Transfer:
    return Transfer(bytes(SIZE * packets), 1000 + monotonic_ns, monotonic_ns)


@needs_core
def test_it_numbers_and_counts_what_goes_through(ring: RingWriter) -> None:
    way = ring.short_way(Transfer, 5)
    assert way is not None
    assert way.put([_at(0)]) == 0, "it has not been opened"
    assert way.settle() is None
    way.open(10 * SIZE, SIZE, 7, 100, 50, 20, 300, None)
    assert way.put([_at(19)]) == 0, "it is too soon"
    assert way.put([_at(20)]) == 1
    assert way.put([_at(69)]) == 0, "it is too soon after the last one"
    assert way.put([_at(69, 6)]) == 1, "though soon, it leaves no room for another one in its batch"
    assert way.put([_at(400, 2), _at(401, 9)]) == 2, "it is to be told from 300 on"
    assert (ring.next_number, ring.next_sequence) == (11, 118)
    sent: list[Buffer] = []
    ring.send(sent.append, 10)
    batches = list(map(decode_batch, sent))
    assert [(batch.number, batch.first_sequence, batch.packet_count) for batch in batches] == [
        (7, 100, 1),
        (8, 101, 6),
        (9, 107, 2),
        (10, 109, 9),
    ]
    assert way.settle() == (4, 18, 18 * SIZE, 1401, 401)
    assert way.settle() is None
    way.close()
    assert way.put([_at(999)]) == 0


@needs_core
@pytest.mark.parametrize(
    "items",
    [
        [],
        [_device_event()],
        [_at(100), _device_event()],
        [Lost(pb.STAGE_HOST, "queue full", packets=1)],
        [Transfer(bytes(SIZE + 1), 0, 100)],
        [_at(100), Transfer(b"", 0, 100)],
        [_at(100, 9)] * 100,
    ],
    ids=["nothing", "event", "packet, event", "loss", "ragged", "empty", "half of the ring"],
)
def test_what_is_not_so_simple_is_refused_whole(items: list[HostItem], ring: RingWriter) -> None:
    way = ring.short_way(Transfer, 5)
    assert way is not None
    way.open(10 * SIZE, SIZE, 0, 0, 0, 0, 0, None)
    assert way.put(items) == 0
    assert way.settle() is None
    assert ring.next_sequence == 0


@needs_core
def test_what_is_larger_than_a_batch_is_cut(ring: RingWriter) -> None:
    way = ring.short_way(Transfer, 5)
    assert way is not None
    way.open(10 * SIZE + 3, SIZE, 0, 0, 50, 1000, 2000, None)
    assert way.put([_at(1, 24), _at(2, 6)]) == 1, "though soon, it makes full batches"
    assert _sent(way) == [10, 10, 10]
    assert _sent(way) == []
    assert way.put([_at(60)]) == 1
    way.open(SIZE - 1, SIZE, 0, 0, 0, 0, 2000, None)
    assert way.put([_at(1, 2)]) == 1, "a packet is never cut"
    assert _sent(way) == [1, 1, 1], "what was not sent before it was opened again is still to be sent"
    assert way.put([_at(2, 2)]) == 1
    assert _sent(way, 1) == [1]
    assert way.put([_at(2, 2)]) == 1
    way.send(None, 10)
    assert _sent(way) == [], "nobody wanted it"


@needs_core
def test_it_sends_what_goes_through(ring: RingWriter) -> None:
    way = ring.short_way(Transfer, 5)
    assert way is not None
    context = zmq.Context.instance()
    with context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://short-way")
        there.connect("inproc://short-way")
        assert here.getsockopt(zmq.EVENTS)  # it has taken notice of its peer
        fanout = fanout_of(here)
        way.open(10 * SIZE, SIZE, 0, 0, 0, 0, 100, sender_of([fanout], b"topic"))
        assert [way.put([_at(10)]), way.put([_at(20, 13)]), way.put([_at(100, 2)])] == [1, 1, 2]
        way.until(200)
        assert way.put([_at(110)]) == 1
        came = [there.recv_multipart(zmq.DONTWAIT) for _ in range(5)]
        assert [topic for topic, _ in came] == [b"topic"] * 5
        batches = [decode_batch(raw) for _, raw in came]
        assert [batch.number for batch in batches] == [0, 1, 2, 3, 4]
        assert [batch.packet_count for batch in batches] == [1, 10, 3, 2, 1]
        assert _sent(way) == []
        fanout.close()
        assert way.put([_at(120)]) == 2, "it could not be sent, so somebody is to look"
        with pytest.raises(ValueError, match="closed"):
            way.send(sender_of([fanout], b"topic"), 10)
    sent: list[Buffer] = []
    way.open(10 * SIZE, SIZE, 6, 20, 0, 0, 2**62, sent.append)
    way.until(2**62)
    assert way.put([_at(130)]) == 2, "it is to be sent by somebody else"
    assert _sent(way) == [1]
    assert sent == []


def _sent(way: ShortWay, most: int = 10) -> list[int]:
    """How many packets each of the batches has that it sends."""
    counts: list[int] = []
    way.send(lambda raw: counts.append(decode_batch(raw).packet_count), most)
    return counts


@needs_core
def test_it_is_closed_with_the_ring(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path, "s", 5, data_bytes=8192, slots=64)
    way = writer.short_way(Transfer, 5)
    assert way is not None
    way.open(10 * SIZE, SIZE, 0, 0, 0, 0, 0, None)
    writer.close()
    assert way.put([_at(100)]) == 0


@needs_core
def test_wrong_arguments_are_type_errors(ring: RingWriter) -> None:
    assert native.core is not None
    assert ring._native is not None
    way = native.core.ShortWay(ring._native, Transfer, CONTRACT, 1)
    for call, arguments in (
        (native.core.ShortWay, (ring._native, "no type", CONTRACT, 1)),
        (native.core.ShortWay, ("no ring", Transfer, CONTRACT, 1)),
        (way.open, (1, 2, 3)),
        (way.put, (None,)),
        (way.__init__, (ring._native, Transfer, CONTRACT, 1)),  # type: ignore[misc]  # a second time
    ):
        with pytest.raises(TypeError):
            call(*arguments)  # type: ignore[operator]

"""The fast path from a feed's thread into the ring: the same stream and ledgers as without it, whatever comes between."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
import zmq

import usbcast
from tests.support.nodes import Account, check_books, eventually, small, take_until
from usbcast_broker.flow import DeviceEvent, Transfer
from usbcast_broker.node import Node
from usbcast_broker.serving.publisher import Publisher
from usbcast_broker.stream.coalescing import CLOSE_NS
from usbcast_broker.stream.intake import Intake
from usbcast_broker.stream.pipeline import Stream
from usbcast_schemas import engine
from usbcast_schemas.contract import HEARTBEAT_S, tail_topic
from usbcast_schemas.profile import parse_profile
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import decode_notification

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

    def __init__(self, intake: Intake, *, reads_ahead: bool) -> None:
        self.intake = intake
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
        self.intake.put(self.transfer(packets))


@contextmanager
def handing_in(*, reads_ahead: bool = True, batch_size: int = 4096) -> Iterator[tuple[Node, ByHand]]:
    node = Node(small(batch_size=batch_size))
    feeds: list[ByHand] = []

    def make(intake: Intake) -> ByHand:
        feeds.append(ByHand(intake, reads_ahead=reads_ahead))
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
                feed.intake.extend([feed.transfer(rng.randint(1, 40)) for _ in range(rng.randint(1, 5))])
            elif what < 0.95:
                feed.intake.put(_device_event())
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


def test_a_packet_by_itself_is_in_the_ring_when_the_feed_goes_on() -> None:
    """And stays out of the queue; what follows at once waits there, for more."""
    with handing_in() as (node, feed):
        outlet = node.pipelines[0].outlet
        feed.put()  # the first one opens it
        for n in range(1, 20):
            eventually(lambda: node.pipelines[0].waiting_bytes == 0)
            time.sleep(CLOSE_NS / 1e9)
            feed.put()
            assert outlet.next_sequence == n + 1
            assert node.pipelines[0].waiting_bytes == 0


def test_what_cannot_be_made_larger_does_not_wait() -> None:
    """A transfer that is most of a batch is written at once, however soon after the last one."""
    with handing_in(batch_size=100 * SIZE) as (node, feed):
        feed.put()
        eventually(lambda: node.pipelines[0].outlet.next_sequence == 1)
        before = feed.packets
        for n in range(200):
            feed.put(60)
            assert node.pipelines[0].outlet.next_sequence == before + 60 * (n + 1)


def test_nothing_goes_through_once_publishing_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with handing_in() as (node, feed):
        feed.put()
        publisher = node._publisher
        publisher._fail(RuntimeError("out of tea"))
        published = node.pipelines[0].outlet.next_sequence
        feed.put()
        assert node.pipelines[0].outlet.next_sequence == published
        assert node.pipelines[0].waiting_bytes == SIZE
        publisher.problem = None


@pytest.mark.skipif(engine.native is None, reason="without the native core the publisher sends what was written")
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

"""What the tests of the whole stand on: a node with a simulated device in this process, and what it must deliver."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import usbcast
import usbcast.aio
from usbcast import Batch, DeviceEvent, End, Event, Gap, Restart, Silence
from usbcast.bridge.bridge import Bridge
from usbcast.bridge.options import BridgeOptions, parse_upstream
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig, make_packets
from usbcast_broker.sources.simulator.profile import profile_of
from usbcast_broker.stream.notification_schedule import NotificationPacer
from usbcast_broker.stream.outlet import Outlet
from usbcast_broker.stream.pipeline import Pipeline, Stream
from usbcast_schemas.profile import Profile, parse_profile

WAYS = ("push", "notify", "ring")
FORMS = ("events", "aio", "listener")
DEADLINE_S = 20.0
"""Generous: two noisy cores must be enough. What takes so long has failed."""

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str = "", timeout_s: float = DEADLINE_S) -> T:
    """Wait until `condition` gives something true, and return it; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.002)
    return found


HOPS: list[str] = []
"""How each bridge between the node that `serving` makes and its subscribers receives; none, unless a test says so."""


@dataclass
class Served:
    """A node of one stream, the device under it, and the bridges before it; a subscriber talks to the last of them."""

    node: Node
    pipeline: Pipeline
    device: SimulatedDevice
    bridges: list[Node] = field(default_factory=list)

    @property
    def last(self) -> Node:
        """The node that subscribers talk to."""
        return self.bridges[-1] if self.bridges else self.node

    @property
    def outlet(self) -> Outlet:
        """What subscribers read from."""
        return self.bridges[-1].pipelines[0].outlet if self.bridges else self.pipeline.outlet

    @property
    def endpoint(self) -> str:
        return self.last.endpoint

    @property
    def stream(self) -> str:
        return self.pipeline.outlet.stream

    @property
    def published(self) -> int:
        """How many packets with a sequence have come to where subscribers read."""
        # A bridge knows how far the stream has come before it has any of it.
        return 0 if self.outlet.ring.oldest is None else self.outlet.next_sequence

    @property
    def oldest(self) -> int:
        """The oldest sequence that the ring holds."""
        return self.outlet.oldest_sequence

    def wait_published(self, packets: int) -> None:
        eventually(lambda: self.published >= packets, f"{packets} packets published, it is {self.published}")

    def subscribe(self, via: str, **options: Any) -> usbcast.Subscription:
        return usbcast.subscribe(self.stream, self.endpoint, via=via, **options)

    def expected(self, first: int, count: int) -> bytes:
        """The packets of these sequences, if the device lost none before them."""
        return make_packets(self.device.config, first, count)

    def end(self, reason: str = "the test has seen enough") -> None:
        """End the stream; the node goes on answering."""
        self.node.end(self.pipeline, reason)


def quick_profile(config: SimulatorConfig, stream: str, transfer: str = "") -> Profile:
    """Return the profile of a simulated device whose reads are short, so that its feed stops at once.

    `transfer` is further lines of that table.
    """
    return parse_profile(f"{profile_of(config, stream).toml}\n[transfer]\ntimeout_ms = 20\n{transfer}\n", stream)


def hurry(pipeline: Stream) -> None:
    """Who joins an idle stream waits for its next heartbeat; let that come sooner."""
    pipeline.outlet.pacer = NotificationPacer(heartbeat_ns=100_000_000)


@contextmanager
def serving(
    *,
    stream: str = "sim",
    profile: Profile | None = None,
    settings: NodeSettings | None = None,
    ends: bool = False,
    **device: Any,
) -> Iterator[Served]:
    """A node on a free port, with a device made by `SimulatorConfig(**device)`.

    With `ends`, the stream is ended when the device has no more to send; the node goes on answering.
    """
    config = SimulatorConfig(**device)
    simulated = SimulatedDevice(config)
    settings = settings or small()
    # With bridges between, it is the last one that has the small ring a test may want.
    before = replace(settings, ring_size=max(settings.ring_size, 1 << 25), ring_slots=65536) if HOPS else settings
    with Node(before) as node, contextlib.ExitStack() as stack:
        pipeline = add_device(
            node, profile or quick_profile(config, stream), stream=stream, backend=SimulatorBackend([simulated])
        )
        hurry(pipeline)
        node.start()
        served = Served(node, pipeline, simulated)
        for hop, via in enumerate(HOPS, 1):
            of_hop = settings if hop == len(HOPS) else before
            served.bridges.append(stack.enter_context(bridging(served.endpoint, settings=of_hop, via=via)))
        with _ending(served) if ends else contextlib.nullcontext():
            yield served


@contextmanager
def bridging(*endpoints: str, settings: NodeSettings | None = None, **options: Any) -> Iterator[Node]:
    """A bridge of all streams of the nodes at `endpoints`, on a free port; options as of BridgeOptions."""
    upstreams = tuple(parse_upstream(endpoint) for endpoint in endpoints)
    with Node(settings or small()) as node:
        bridge = Bridge(node, BridgeOptions(upstreams, **options))
        with contextlib.ExitStack() as stack:
            stack.callback(bridge.stop)
            bridge.connect()
            for relay in node.pipelines:
                hurry(relay)
            node.start()
            bridge.watch()
            yield node


@contextmanager
def _ending(served: Served) -> Iterator[None]:
    left = threading.Event()

    def end_when_exhausted() -> None:
        while not served.device.exhausted.wait(0.01) and not left.is_set():
            pass
        if not left.is_set():
            served.end("the device has no more")

    thread = threading.Thread(target=end_when_exhausted, name="ender")
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def small(**changes: Any) -> NodeSettings:
    """Settings of a node that starts fast: a ring of 4 MiB, on a free port."""
    return NodeSettings(**{"bind": "tcp://127.0.0.1:0", "ring_size": 1 << 22, "ring_slots": 4096, **changes})


class Account:
    """What a subscription yielded, checked as it comes: order, numbering, and that nothing is missing unsaid."""

    def __init__(self, begin: int | None = None) -> None:
        self.next = begin
        self.begin = begin
        self.events: list[Event] = []
        self.delivered = 0
        self.lost = 0
        """Declared by gaps that have sequences."""
        self.lost_earlier = 0
        """Declared by gaps from before sequences are given."""
        self.payload = bytearray()
        self.sequences: list[int] = []
        self._gaps_since_batch: list[Gap] = []

    def take(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Batch():
                self._batch(event)
            case Gap():
                self._gaps_since_batch.append(event)
                if event.stage in ("ring", "subscription", "bridge", "store"):
                    assert event.count == event.last - event.first + 1
                    if event.count:
                        assert self.next in (None, event.first), f"{event} where {self.next} was next"
                        self._begin(event.first)
                        self.next = event.last + 1
                        self.lost += event.count
                else:
                    assert event.last == event.first - 1
                    self.lost_earlier += event.count
            case Restart():
                self.next = 0

    def _batch(self, batch: Batch) -> None:
        first = batch.first_sequence
        assert len(batch) > 0
        assert batch.last_sequence == first + len(batch) - 1
        assert self.next in (None, first), f"{batch} where {self.next} was next"
        assert batch.gaps == tuple(self._gaps_since_batch), "a batch has the gaps since the one before"
        assert batch.gap == (batch.gaps[0] if batch.gaps else None)
        self._gaps_since_batch.clear()
        self._begin(first)
        self.next = batch.last_sequence + 1
        self.delivered += len(batch)
        self.payload += batch.payload
        self.sequences.extend(range(first, first + len(batch)))

    def _begin(self, sequence: int) -> None:
        if self.begin is None:
            self.begin = sequence

    def of(self, kind: type[T]) -> list[T]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def batches(self) -> list[Batch]:
        return self.of(Batch)

    @property
    def gaps(self) -> list[Gap]:
        return self.of(Gap)

    @property
    def end(self) -> End | None:
        ends = self.of(End)
        assert len(ends) <= 1
        assert not ends or self.events[-1] is ends[0], "nothing follows the end"
        return ends[0] if ends else None


def take_all(events: Iterable[Event], begin: int | None = None) -> Account:
    """Take events until they stop."""
    account = Account(begin)
    for event in events:
        account.take(event)
    return account


def take_until(subscription: usbcast.Subscription, account: Account, done: Callable[[], bool]) -> None:
    """Take events until `done`; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        event = subscription.receive(0.1)
        if event is not None:
            account.take(event)
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s; {account.delivered} packets came"


def take_to_end(form: str, served: Served, via: str, begin: int | None = None, **options: Any) -> Account:
    """The whole of a stream, taken by one of FORMS until its end; and the books of the subscription balance."""
    account = Account(begin)
    if form == "aio":
        asyncio.run(_take_async(account, served, via, options))
        return account
    with served.subscribe(via, **options) as subscription:
        if form == "listener":
            assert subscription.listen(account.take).join(DEADLINE_S), "the listener did not come to the end"
        else:
            for event in subscription.events(DEADLINE_S):
                account.take(event)
        check_books(subscription.ledger, account)
        assert subscription.via == via
    return account


async def _take_async(account: Account, served: Served, via: str, options: dict[str, Any]) -> None:
    async with usbcast.aio.subscribe(served.stream, served.endpoint, via=via, **options) as subscription:
        async for event in subscription.events(DEADLINE_S):
            account.take(event)
        check_books(subscription.ledger, account)
        assert subscription.via == via


def check_books(ledger: usbcast.Ledger, account: Account) -> None:
    """A subscription's own books say what was seen of it, and balance."""
    assert ledger.discrepancy() is None
    assert ledger.left == account.delivered
    assert ledger.lost_total == account.lost + account.lost_earlier
    assert ledger.held == 0


def check_packets(payload: bytes, size: int) -> list[int]:
    """The device's own counters of whole packets; fails if a packet's CRC is wrong."""
    counters = []
    for at in range(0, len(payload), size):
        packet = payload[at : at + size]
        assert int.from_bytes(packet[-4:], "little") == zlib.crc32(packet[:-4]), f"the packet at {at} is damaged"
        counters.append(int.from_bytes(packet[:4], "little"))
    return counters


__all__ = [
    "FORMS",
    "WAYS",
    "Account",
    "DeviceEvent",
    "End",
    "Gap",
    "Restart",
    "Served",
    "Silence",
    "check_books",
    "check_packets",
    "eventually",
    "hurry",
    "quick_profile",
    "serving",
    "small",
    "take_all",
    "take_to_end",
    "take_until",
]

"""The way of a batch from a read transfer to the application, in one process and one thread, with the product's own parts."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.usbcast import HandedIn
from benchmarks.task import PACKET_BYTES
from usbcast.clock.clock_watch import ClockWatch
from usbcast.receiving.channels.ring import RingChannel
from usbcast.receiving.continuity import Continuity
from usbcast.receiving.event_builder import EventBuilder
from usbcast.receiving.fast_path import FastPath
from usbcast.receiving.waiting import Waiter
from usbcast_broker.flow import Transfer
from usbcast_broker.framing import Assembler
from usbcast_broker.stream.batcher import Batcher
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_broker.stream.intake import StreamIntake
from usbcast_broker.stream.outlet import Description, Outlet
from usbcast_broker.stream.pipeline import Pipeline
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.engine.protocols import Limits
from usbcast_schemas.places import host_id
from usbcast_schemas.profile import parse_profile
from usbcast_schemas.ring import RingReader

PROFILE = f"""\
[stream]
name = "bench"
[device]
vendor_id = 1
product_id = 1
endpoint = 0x81
[framing]
method = "fixed"
size = {PACKET_BYTES}
"""

FOR_EVER_NS = 2**62


class HotPath:
    """`node` does what a node does with a transfer, `through` also what a subscriber does with the batch made of it."""

    def __init__(self, packets: int, directory: Path) -> None:
        size = packets * PACKET_BYTES
        self.count = packets
        self.made = Transfer(bytes(size), time.time_ns(), time.monotonic_ns())
        self.queue = HostQueue()
        self.assembler = Assembler(parse_profile(PROFILE, "the benchmark"))
        self.batcher = Batcher(1, max_bytes=size)
        self.outlet = Outlet(Description("bench"), directory, epoch=1)
        self.ring = RingReader(self.outlet.ring.path, self.outlet.ring.nonce)
        self.intake = StreamIntake(self.queue, self.outlet.writer, lambda: None)
        self._feed = HandedIn(self.intake)
        self._pipeline = Pipeline(self._feed, self.queue, self.assembler, self.batcher, self.outlet)
        self._core = Continuity(can_fetch=False)
        self._core.start(1, 0, 0)
        self.event_builder = EventBuilder(self._core, ClockWatch("bench"))
        self._waiter = Waiter()
        info = self.outlet.describe(None)
        info.host_id = host_id()
        self._channel = RingChannel(info, self._waiter, latest=False)
        self._fast_path = FastPath(self._core, self.event_builder)
        self._fast_path.read_by(self._channel.reader)
        self.through()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()
        self._waiter.close()
        self._feed.close()
        self.ring.close()
        self.outlet.close()

    def node(self, transfers: int = 1) -> None:
        """One bypasses the host queue; several have gathered in it. The sockets are measured apart."""
        if transfers > 1:
            self.outlet.writer.close()
        self.intake.put(self.transfer())
        for _ in range(transfers - 1):
            self.intake.put(self.transfer())
        if len(self.queue):
            self._pipeline.process(None)
            self.outlet.open_fast_path(FOR_EVER_NS, None)

    def through(self, transfers: int = 1) -> None:
        """As `node`, and then what a subscriber does that has slept and gets them all, up to where it sleeps again."""
        self.node(transfers)
        fast_path = self._fast_path
        for _ in range(transfers):
            if fast_path.next_event() is None:
                self._pump()
                fast_path.next_event()
        fast_path.park_s()

    def _pump(self) -> None:
        """What a receiver does where what comes cannot simply be followed: at first, and without a native core always."""
        self._fast_path.settle()
        if not self._fast_path.can_open:
            self._channel.pump(self)
        self._fast_path.open(Limits(FOR_EVER_NS, FOR_EVER_NS))

    def gather(self) -> None:
        """Through the host queue, and no further."""
        self.outlet.writer.close()
        self.intake.put(self.made)
        self.queue.take(1 << 30)

    @property
    def delivered(self) -> int:
        """How many packets have come to the event so far."""
        self._fast_path.settle()
        return self.event_builder.books.left

    def transfer(self) -> Transfer:
        return Transfer(self.made.data, time.time_ns(), time.monotonic_ns())

    @property
    def raw(self) -> bytes:
        """The newest batch as it was published."""
        newest = self.ring.take(self.ring.head - 1)
        assert newest is not None
        return bytes(newest.raw)

    def write(self, transfers: int) -> None:
        """The middle of `node`, where there is a native core: the ring goes on, and nobody is told of it."""
        self.outlet.writer.put([self.made] * transfers, self.outlet.bypass)

    def take(self, batches: int) -> None:
        """The middle of `subscriber`: the newest batches, copied out and decoded."""
        head = self.ring.head
        for at in range(head - batches, head):
            self.ring.take(at)

    # The sink that the way delivers to, as a receiver is

    full = False

    def live(self, batch: EncodedBatch) -> None:
        self._core.live(batch)

    def known(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool) -> None:
        self._core.known(epoch, next_sequence, next_number, ended=ended)

    def malformed(self, error: Exception) -> None:
        raise error

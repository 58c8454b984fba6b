"""One stream's path through the node: feed, host queue, framing, batches; and the ledger of each stage.

There are two ways into the ring. Whole packets that framing need not look at are `put` there as they were read; everything else
is framed, batched and `append`ed. The outlet owns the writer of its ring; the others use it:

    thread of the feed               whoever holds the publisher's lock
    ──────────────────               ──────────────────────────────────
    feed ▸ intake ───────────────────────────────────────────────────────────▸ put       while the writer is open (the fast path)
             └──▸ host queue ──────▸ process ────────────────────────────────▸ put       what waited, if framing may be bypassed
                                        └──▸ assembler ▸ batcher ▸ outlet ───▸ append    everything else
                                     publisher ──▸ open, close, send_unsent
                                     process, health ──▸ close, settle

Sequences stay in order because only one thread at a time may write. Between two turns that is the feed's; the publisher opens the
writer after each turn. A turn first closes it, then settles, which moves the batcher's numbers past what was put and enters it
into the ledgers, then sends what was not sent yet, and only then takes from the queue. Settling before closing could miss a batch
that is written in between; taking before closing would let later transfers overtake those that were taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

from usbcast_broker.flow import DeviceIdentity, HostItem, Lost, Packets, StreamItem, Transfer
from usbcast_broker.framing import Assembler
from usbcast_broker.stream.batcher import Batcher
from usbcast_broker.stream.coalescing import INLINE_BYTES
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_broker.stream.outlet import Outlet
from usbcast_schemas.batch import Buffer, Encoded
from usbcast_schemas.engine.protocols import Plan, Settled
from usbcast_schemas.ledger import Ledger, audit
from usbcast_schemas.v1 import usbcast_pb2 as pb

TURN_BYTES = 1024 * 1024
"""At most so much of one stream is handled before the others get their turn."""

Publish = Callable[[Buffer], None] | None
"""Sends an encoded batch to those who want it pushed; None if nobody does."""


class Feed(Protocol):
    """What fills a pipeline's host queue from a thread of its own."""

    def start(self) -> None: ...

    def stop(self, *, drain: bool = True) -> None:
        """Stop reading, within a second; with `drain`, only after what was sent so far has been read."""

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have the device do something, in order with other commands."""

    @property
    def turned_ns(self) -> int | None:
        """When its thread last went round, on the monotonic clock; None for a feed without one of its own."""

    @property
    def identity(self) -> DeviceIdentity | None: ...

    @property
    def attached(self) -> bool: ...

    @property
    def reads_ahead(self) -> bool:
        """Whether more can come while the feed's thread does something else, so that this thread may be held up a little."""

    @property
    def held_ns(self) -> int:
        """How old the oldest byte may be that a read under way holds; 0 if none does."""

    @property
    def problem(self) -> str:
        """Why no data comes, in one sentence; empty while all is well."""

    @property
    def counters(self) -> Mapping[str, int]:
        """Figures of the device edge; `bytes` is what was read."""


class Stream(Protocol):
    """What publisher, replay service and node know of a stream's way: a pipeline from a device, or a relay."""

    @property
    def feed(self) -> Feed: ...

    @property
    def outlet(self) -> Outlet:
        """That of the current epoch."""

    @property
    def over(self) -> bool:
        """Whether nothing more is to be published."""

    def process(self, publish: Publish) -> bool: ...

    @property
    def problem(self) -> str:
        """Why nothing leaves here, in one sentence; empty while all is well."""

    @property
    def waiting_bytes(self) -> int: ...

    @property
    def patience_bytes(self) -> int:
        """With more than that waiting, the publisher's thread goes on at once."""

    @property
    def due_at_ns(self) -> int | None: ...

    def end(self, reason: str, publish: Publish) -> None: ...

    def health(self) -> pb.StreamHealth: ...


class Pipeline:
    """Turned under the publisher's lock, which guards everything in it but the feed and its queue."""

    def __init__(self, feed: Feed, queue: HostQueue, assembler: Assembler, batcher: Batcher, outlet: Outlet) -> None:
        self.feed = feed
        self.outlet = outlet
        self._queue = queue
        self._assembler = assembler
        self._batcher = batcher
        self._books = Ledger("outlet", "packets")
        size = assembler.packet_size
        self._plan = Plan(size, batcher.max_payload_bytes(size)) if size else None
        outlet.bypass = self._bypass()

    def process(self, publish: Publish) -> bool:
        """Handle what has accumulated, up to a bound; True if there was anything. It leaves the outlet's writer closed."""
        outlet = self.outlet
        went = self._close_fast_path()
        outlet.writer.send_unsent(publish)
        items = self._queue.take(TURN_BYTES)
        if items and not self._put(items, publish):
            for item in items:
                self._frame(item, publish)
        if self._batcher.pending and self._batcher.due(time.monotonic_ns()):
            rest = self._batcher.flush()
            if rest is not None:
                self._publish([rest], publish)
        outlet.bypass = self._bypass()
        return went or bool(items)

    def _bypass(self) -> Plan | None:
        """The plan for transfers of whole packets if nothing but their arrival is to be said of them; else None."""
        return self._plan if self._assembler.bypass_size and not self._batcher.holds_back else None

    def _put(self, items: list[HostItem], publish: Publish) -> bool:
        """Write `items` into the ring as they are, and send them; False, with nothing done, if they have to be framed."""
        plan, writer = self.outlet.bypass, self.outlet.writer
        if plan is None or not writer.put(items, plan):
            return False
        writer.send_unsent(publish)
        self._settle()
        return True

    def _frame(self, item: HostItem, publish: Publish) -> None:
        """Make batches of one item by way of framing, and publish them."""
        assembler = self._assembler
        if isinstance(item, Transfer):
            self._publish(self._take(assembler.feed(item), item.realtime_ns, item.monotonic_ns), publish)
        elif isinstance(item, Lost):
            self._publish(self._take(assembler.lost(item), time.time_ns(), time.monotonic_ns()), publish)
        else:
            self._publish(self._take(assembler.device_event(item), item.realtime_ns, item.monotonic_ns), publish)

    def _close_fast_path(self) -> bool:
        """Let the feed's thread write nothing more, and enter what it wrote into the ledgers; True if it wrote anything."""
        self.outlet.writer.close()
        settled = self._settle()
        if settled is None:
            return False
        self._queue.record_bypassed(settled.size_bytes)
        return True

    def _settle(self) -> Settled | None:
        """Enter what was put into the ring into the ledgers of the stages that it bypassed; None if nothing was."""
        settled = self.outlet.writer.settle()
        if settled is None:
            return None
        batches, packets, size_bytes, realtime_ns, monotonic_ns = settled
        self._batcher.skip(batches, packets)
        self._assembler.record_bypassed(size_bytes, packets, realtime_ns, monotonic_ns)
        self._books.entered += packets
        self._books.left += packets
        self.outlet.pacer.mark_new()
        self.outlet.tail.mark_new(monotonic_ns)
        return settled

    @property
    def problem(self) -> str:
        """Why no data comes, or no packet is among it, in one sentence; empty while all is well. For any thread."""
        return self.feed.problem or self._assembler.problem

    @property
    def over(self) -> bool:
        return self.outlet.ended

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have been read and not framed yet; 1 if only device events wait."""
        return self._queue.ledger.held or int(bool(self._queue))

    @property
    def patience_bytes(self) -> int:
        # A feed that reads ahead handles itself what it has brought, and two threads in turns take longer than one.
        return TURN_BYTES if self.feed.reads_ahead else INLINE_BYTES

    @property
    def due_at_ns(self) -> int | None:
        """When a held batch must go, on the monotonic clock; None if none is held."""
        return self._batcher.due_at_ns if self._batcher.pending else None

    def end(self, reason: str, publish: Publish) -> None:
        """Publish all that the stopped feed has left, and the end of the stream."""
        while self.process(publish):
            pass  # and the writer stays closed
        last = self._assembler.finish(time.time_ns(), time.monotonic_ns())
        self._publish(self._take(last, time.time_ns(), time.monotonic_ns()), publish)
        self._publish(self._batcher.end(reason, time.time_ns()), publish)
        self.outlet.ended = True

    def health(self) -> pb.StreamHealth:
        """The books, audited. To be called under the publisher's lock. It leaves the outlet's writer closed."""
        self._close_fast_path()
        device, framing = self._assembler.device, self._assembler.framing
        host, read_bytes = self._host_books()
        device.counters.update(self.feed.counters)
        self._books.held = self._batcher.held_packets
        ledgers = [device, host, framing, self._books]
        links = [
            ("bytes read from the device", read_bytes, "bytes entered at stage host", host.entered),
            ("bytes out of stage host", host.left, "bytes into stage framing", framing.entered),
            ("packets out of stage device", device.left, "packets into stage outlet", self._books.entered),
            ("packets out of stage outlet", self._books.left, "sequences given", self.outlet.next_sequence),
        ]
        return pb.StreamHealth(
            stream=self.outlet.stream,
            epoch=self.outlet.epoch,
            ledgers=[books.to_proto() for books in ledgers],
            discrepancies=audit(ledgers, links),
            attached=self.feed.attached,
            ended=self.outlet.ended,
            problem=self.problem,
            read_held_ns=self.feed.held_ns,
        )

    def _host_books(self) -> tuple[Ledger, int]:
        """The queue's books, and the bytes that the feed says it read, both from one moment if there is one.

        The feed's thread may stand between counting a transfer and queueing it; then looking again settles it.
        """
        for _ in range(50):
            books = self._queue.snapshot()
            read_bytes = self.feed.counters.get("bytes", 0)
            if read_bytes == books.entered:
                break
            time.sleep(0.0002)
        return books, read_bytes

    def _take(self, items: tuple[StreamItem, ...], realtime_ns: int, monotonic_ns: int) -> list[Encoded]:
        made: list[Encoded] = []
        for item in items:
            if isinstance(item, Packets):
                self._books.enter(item.count)
            made += self._batcher.add(item, realtime_ns=realtime_ns, monotonic_ns=monotonic_ns)
        return made

    def _publish(self, batches: list[Encoded], publish: Publish) -> None:
        for batch in batches:
            self.outlet.store(batch)
            self._books.leave(batch.packet_count)
            if publish is not None:
                publish(batch.raw)

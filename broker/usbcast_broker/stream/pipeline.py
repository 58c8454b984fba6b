"""One stream's path through the node: feed, host queue, framing, batches; and the ledger of each stage.

There are two paths. On the slow path the feed's thread queues a transfer, and a turn under the publisher's lock takes it, frames
it, batches it, and stores and sends the batches. On the fast path the feed's thread writes whole packets straight into the ring
as one batch, without the queue and without the lock. That is possible only while framing need not look at the bytes (packets of
one size, without checksum or counter), nothing is held back in framing or batcher, and the native core is there: it holds the
GIL during `put`, `close` and `settle`, so each of them happens as a whole before or after the others.

Sequences stay in order because only one path may number batches at a time. Opening hands the next number and sequence to the
fast path; each turn first closes it, then settles, which moves the batcher's numbers past what was written and enters it into
the ledgers, then sends what was not sent yet, and only then takes from the queue. Settling before closing could miss a batch
that is written in between; taking before settling would give a sequence twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol, cast

from usbcast_broker.flow import DeviceIdentity, HostItem, Lost, Packets, StreamItem, Transfer
from usbcast_broker.framing import Assembler
from usbcast_broker.stream.batcher import Batcher, Encoded
from usbcast_broker.stream.coalescing import CLOSE_NS, INLINE_BYTES
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_broker.stream.outlet import Outlet
from usbcast_schemas.batch import Buffer
from usbcast_schemas.ledger import Ledger, audit
from usbcast_schemas.v1 import usbcast_pb2 as pb

TURN_BYTES = 1024 * 1024
"""At most so much of one stream is handled before the others get their turn."""


MOST_UNSENT = 1_000_000
"""More wait for the publisher only if it hangs; whoever misses the older ones finds out by number."""

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

    def open_short_way(self, until_ns: int, publish: Publish) -> None: ...

    def stay_quiet(self, until_ns: int) -> None: ...

    def close_short_way(self) -> bool: ...

    def send_written(self, publish: Publish) -> None: ...

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
        self._short_way = queue.short_way = outlet.ring.short_way(Transfer, outlet.epoch)

    def process(self, publish: Publish) -> bool:
        """Handle what has accumulated, up to a bound; True if there was anything. It leaves the short way closed."""
        went = self.close_short_way()
        self.send_written(publish)
        items = self._queue.take(TURN_BYTES)
        if items and self._write_run(items, publish):
            return True
        whole = self._assembler.pass_whole(items)
        if whole:
            self._books.enter(whole)
            self._publish(self._batcher.add_run(cast(list[Transfer], items), self._assembler.packet_size), publish)
        for item in () if whole else items:
            if isinstance(item, Transfer):
                self._publish(self._take(self._assembler.feed(item), item.realtime_ns, item.monotonic_ns), publish)
            elif isinstance(item, Lost):
                self._publish(self._take(self._assembler.lost(item), time.time_ns(), time.monotonic_ns()), publish)
            else:
                made = self._assembler.device_event(item)
                self._publish(self._take(made, item.realtime_ns, item.monotonic_ns), publish)
        if self._batcher.pending and self._batcher.due(time.monotonic_ns()):
            rest = self._batcher.flush()
            if rest is not None:
                self._publish([rest], publish)
        return went or bool(items)

    def open_short_way(self, until_ns: int, publish: Publish) -> None:
        """Let the feed's thread write into the ring what comes from now on, and send it, where no more is to be done with it.

        What comes from `until_ns` on has the doorbell rung all the same; so has everything, where the native core does not send.
        """
        short_way, packet_size = self._short_way, self._assembler.blind_size
        if short_way is None or not packet_size or self._batcher.holds_back or self.over:
            return
        batcher = self._batcher
        short_way.open(
            batcher.most_bytes(packet_size),
            packet_size,
            batcher.next_number,
            batcher.next_sequence,
            CLOSE_NS,
            self.outlet.coalescer.next_ns,
            until_ns,
            publish,
        )

    @property
    def problem(self) -> str:
        """Why no data comes, or no packet is among it, in one sentence; empty while all is well. For any thread."""
        return self.feed.problem or self._assembler.problem

    def stay_quiet(self, until_ns: int) -> None:
        """What goes the short way before that need not ring the doorbell."""
        if self._short_way is not None:
            self._short_way.until(until_ns)

    def send_written(self, publish: Publish) -> None:
        """Send what went the short way and has not been sent; if nobody wants it, forget it."""
        if self._short_way is not None:
            self._short_way.send(publish, MOST_UNSENT)

    def close_short_way(self) -> bool:
        """Let nothing more through, and take into the books what went; True if anything did."""
        if self._short_way is None:
            return False
        self._short_way.close()
        went = self._short_way.settle()
        if went is None:
            return False
        batches, packets, size_bytes, realtime_ns, monotonic_ns = went
        self._queue.passed(size_bytes)
        self._batcher.written(batches, packets)
        self._count(packets, size_bytes, realtime_ns, monotonic_ns)
        return True

    def _write_run(self, items: list[HostItem], publish: Publish) -> bool:
        """The short way from transfers to the ring, for what the framing need not look at; False if it is not open to `items`."""
        assembler, outlet = self._assembler, self.outlet
        packet_size = assembler.blind_size
        written = self._batcher.write_run(outlet.ring, items, packet_size) if packet_size else None
        if written is None:
            return False
        last = cast(Transfer, items[-1])  # the ring takes transfers only
        batches, packets, size_bytes = written
        if publish is not None:
            outlet.ring.send(publish, batches)
        self._count(packets, size_bytes, last.realtime_ns, last.monotonic_ns)
        return True

    def _count(self, packets: int, size_bytes: int, realtime_ns: int, monotonic_ns: int) -> None:
        """So much went into the ring without having been looked at."""
        self._assembler.passed(size_bytes, packets, realtime_ns, monotonic_ns)
        self._books.entered += packets
        self._books.left += packets
        self.outlet.pacer.mark_new()
        self.outlet.tail.mark_new(monotonic_ns)

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
            pass  # and the short way stays closed
        last = self._assembler.finish(time.time_ns(), time.monotonic_ns())
        self._publish(self._take(last, time.time_ns(), time.monotonic_ns()), publish)
        self._publish(self._batcher.end(reason, time.time_ns()), publish)
        self.outlet.ended = True

    def health(self) -> pb.StreamHealth:
        """The books, audited. To be called under the publisher's lock. It leaves the short way closed."""
        self.close_short_way()
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

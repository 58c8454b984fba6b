"""Receiving from shared memory: read the ring at one's own pace, sleep on the fifo beside it."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from usbcast.receiving.channels import Sink
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.engine.readers import ring_reader
from usbcast_schemas.errors import PeerError, RingUnavailable
from usbcast_schemas.places import host_id
from usbcast_schemas.ring import RingReader
from usbcast_schemas.ring.layout import SPIN_WAIT_NS
from usbcast_schemas.v1 import usbcast_pb2 as pb

AHEAD_BYTES = 256 * 1024
"""Batches are copied out as far ahead of the application as the processor's cache is likely to keep them."""

MOST_AT_ONCE = 64
"""Batches that the reader refuses one after the other, as those of a stream of varying packets, are taken so many at once."""


class RingChannel:
    """Raises RingUnavailable if the ring is not on this machine, or not open to this user."""

    via = "ring"
    can_fetch = False
    rest_s = math.inf
    news = 0
    rests = True

    def __init__(self, info: pb.StreamInfo, waiter: Waiter, *, latest: bool, copy: bool = True) -> None:
        if info.host_id != host_id():
            raise RingUnavailable(
                f"the ring of stream {info.stream!r} is in the memory of another machine or container: use via='push'"
            )
        self._waiter = waiter
        self._latest = latest
        self._ring = RingReader(Path(info.ring.path), info.ring.nonce)
        try:
            self._wake_fd = os.open(info.ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            self._ring.close()
            raise RingUnavailable(f"cannot open {info.ring.wake_path}: {error.strerror}; use via='push'") from None
        self._waiter.add_edge(self._wake_fd)
        self.reader = ring_reader(self._ring, waiter, copy=copy)
        self._at_once = 1
        """How many batches `pump` takes: twice as many as the last time, if the reader has delivered none since."""
        self._pumped_to = self._seen_head = 0
        self._level = (info.next_sequence, info.next_number)

    def begin_now(self) -> tuple[int, int]:
        """Start behind the newest batch; return the sequence and the batch number that come next.

        Where the ring is empty it is those that the node told: a bridge knows them before it has a batch.
        """
        while (head := self._ring.head) > 0:
            newest = self._ring.slot(head - 1)
            if newest is not None:
                self.reader.at = head
                return newest.end_sequence, newest.number + 1
        return self._level

    def begin_newest(self) -> None:
        """Start at the newest batch that holds a packet."""
        self.reader.at = self._ring.newest(self._ring.tail)

    def begin_oldest(self) -> None:
        self.reader.at = self._ring.tail

    def begin_at(self, sequence: int) -> None:
        self.reader.at = self._ring.find(sequence)

    @property
    def heard_ns(self) -> int:
        # What is still to be read speaks for the node, however late this reader is.
        return time.monotonic_ns() if self.reader.at < self._ring.head else self._ring.heartbeat_monotonic_ns

    @property
    def source_silent_ns(self) -> int:
        return self._ring.source_silent_ns

    @property
    def over(self) -> bool:
        return self._ring.closed_by_writer and self.reader.at >= self._ring.head

    def pump(self, sink: Sink) -> None:
        ring, reader = self._ring, self.reader
        self._seen_head = ring.head
        if self._latest:
            self._skip_to_newest(sink)
        self._at_once = min(2 * self._at_once, MOST_AT_ONCE) if reader.at == self._pumped_to else 1
        most = self._seen_head if self._latest else self._at_once
        ahead_bytes = taken = 0
        while reader.at < self._seen_head and taken < most and ahead_bytes < AHEAD_BYTES and not sink.full:
            batch = self._take(reader.at, sink)
            if batch is None:
                # Overtaken: what is gone shows by the number of the next batch.
                reader.at = max(reader.at + 1, ring.tail)
                continue
            reader.at += 1
            taken += 1
            ahead_bytes += len(batch.raw)
        self._pumped_to = reader.at

    def _take(self, slot: int, sink: Sink) -> EncodedBatch | None:
        """Hand the batch on; None if it was overwritten meanwhile, or is none."""
        try:
            batch = self._ring.take(slot)
        except PeerError as error:
            sink.malformed(error)
            return None
        if batch is not None:
            sink.live(batch)
        return batch

    def _skip_to_newest(self, sink: Sink) -> None:
        """Go to the newest batch with a packet; of those before it, take what they say of the device."""
        newest = self._ring.newest(self.reader.at)
        for slot in self._ring.remarks(self.reader.at, newest):
            self._take(slot.slot, sink)
        self.reader.at = newest

    def check(self) -> None:
        """Nothing to be refused by: the system lets this user read, and the link hears what the node says."""

    @property
    def has_more(self) -> bool:
        self._seen_head = self._ring.head
        return self.reader.at < self._seen_head

    def may_sleep(self) -> bool:
        if self.reader.at < self._seen_head or self._ring.spin_wait(self._seen_head, SPIN_WAIT_NS):
            return False
        return self._ring.will_sleep(self._seen_head)

    def close(self) -> None:
        self._waiter.remove(self._wake_fd)
        os.close(self._wake_fd)
        self._ring.close()

"""The bounded queue between the thread that owns the device and the thread that frames what it read.

Rule: at the bound the oldest items stay; a new one is dropped, counted, and marked at exactly the place of the hole.

The feed's thread puts; whichever thread holds the publisher's lock takes. The queue's own lock is held only while items and
ledger change together, never while somebody else's code runs: the doorbell is rung after it was released, because the doorbell
may turn the pipeline in the same thread, and that takes from this queue. The doorbell rings when an item enters an empty queue,
so a consumer must take until nothing comes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from usbcast_broker.flow import DeviceEvent, HostItem, Lost, Transfer
from usbcast_broker.stream.coalescing import GATHERED_BYTES, Coalescer
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024
MAX_TRANSFERS: Final = 1_000_000
"""Objects have a size of their own, so tiny transfers are bounded by their number."""
MAX_DEVICE_EVENTS: Final = 10_000
QUEUE_FULL: Final = "queue full"


class HostQueue:
    """One thread puts, one takes. The doorbell rings when there is something in an empty queue: take until nothing comes.

    With a coalescer it rings again, while the queue is not empty, for what arrives when the coalescer says that it is time.

    Device events and losses are accepted at the bound too. Adjacent losses are merged, and once
    `MAX_DEVICE_EVENTS` events wait, further ones are dropped and counted, so they are bounded as well.
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        doorbell: Callable[[], None] = lambda: None,
        coalescer: Coalescer | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.ledger = Ledger("host", "bytes")
        self._doorbell = doorbell
        self._coalescer = coalescer
        self.waiting: deque[HostItem] = deque()
        """What was put and not taken. Only the thread that puts may look at it without the lock."""
        self._transfers = 0
        self._device_events = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.waiting)

    def put(self, item: HostItem) -> None:
        """Append one item, or count its loss; never waits for the other thread's work."""
        self._lock.acquire()  # `with` takes twice as long, and this is done for every transfer
        try:
            was_empty = not self.waiting
            ring = self._put(item) or was_empty
        finally:
            self._lock.release()
        if ring:
            self._doorbell()

    def extend(self, items: list[HostItem]) -> None:
        """As `put` for each, but the doorbell rings once, when all are there."""
        ring = False
        with self._lock:
            was_empty = not self.waiting
            for item in items:
                ring = self._put(item)
            ring = bool(self.waiting) and (ring or was_empty)
        if ring:
            self._doorbell()

    def record_bypassed(self, size_bytes: int) -> None:
        """Count bytes that went straight into the ring."""
        with self._lock:
            self.ledger.entered += size_bytes
            self.ledger.left += size_bytes

    def _put(self, item: HostItem) -> bool:
        """Lock held. Append or count `item`; return True if the consumer must be woken although the queue was not empty."""
        if type(item) is not Transfer or self._transfers >= MAX_TRANSFERS:
            self._append(item)
            return False
        books = self.ledger
        size_bytes = len(item.data)
        held = books.held + size_bytes
        if held > self.max_bytes:
            self._append(item)
            return False
        books.entered += size_bytes
        books.held = held
        self._transfers += 1
        self.waiting.append(item)
        coalescer = self._coalescer
        return coalescer is not None and (item.monotonic_ns >= coalescer.next_ns or held >= GATHERED_BYTES)

    def take(self, max_bytes: int) -> list[HostItem]:
        """The oldest items: up to `max_bytes` of transfers, but at least one item if there is any."""
        with self._lock:
            items, books = self.waiting, self.ledger
            if books.held <= max_bytes:
                self.waiting = deque()
                books.left += books.held
                books.held = self._transfers = self._device_events = 0
            else:
                taken: list[HostItem] = []
                size_bytes = 0
                while items:
                    item = items[0]
                    if isinstance(item, Transfer):
                        if taken and size_bytes + len(item.data) > max_bytes:
                            break
                        size_bytes += len(item.data)
                        self._transfers -= 1
                    elif isinstance(item, DeviceEvent):
                        self._device_events -= 1
                    taken.append(items.popleft())
                books.left += size_bytes
                books.held -= size_bytes
                return taken
        return list(items)

    def snapshot(self) -> Ledger:
        """The books as they stood at one moment between two calls."""
        with self._lock:
            return Ledger.from_proto(self.ledger.to_proto())

    def _append(self, item: HostItem) -> None:
        """What is not a transfer for which there is room."""
        if isinstance(item, Transfer):
            size_bytes = len(item.data)
            self.ledger.entered += size_bytes
            self.ledger.lose(QUEUE_FULL, size_bytes)
            self._append_lost(Lost(pb.STAGE_HOST, QUEUE_FULL, size_bytes=size_bytes))
        elif isinstance(item, Lost):
            self._append_lost(item)
        elif self._device_events < MAX_DEVICE_EVENTS:
            self._device_events += 1
            self.waiting.append(item)
        else:
            self.ledger.count("happenings dropped")

    def _append_lost(self, lost: Lost) -> None:
        """Add a loss to an equal one that no transfer or device event separates from it, else append it."""
        for back in range(1, len(self.waiting) + 1):
            other = self.waiting[-back]
            if not isinstance(other, Lost):
                break
            if (other.stage, other.reason) == (lost.stage, lost.reason):
                self.waiting[-back] = replace(
                    other,
                    packets=other.packets + lost.packets,
                    size_bytes=other.size_bytes + lost.size_bytes,
                    at_least=other.at_least or lost.at_least,
                )
                return
        self.waiting.append(lost)

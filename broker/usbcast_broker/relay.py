"""A stream that comes encoded, from a recording or another node: its batches go to the outlet as they are.

The counterpart of the pipeline, which makes batches of what a device sent. Whoever fills the queue sees to epoch and numbers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from usbcast_broker.batcher import Encoded
from usbcast_broker.outlet import Outlet
from usbcast_broker.pipeline import TURN_BYTES, Feed
from usbcast_schemas.batch import encode_batch
from usbcast_schemas.ledger import Ledger, audit
from usbcast_schemas.v1 import usbcast_pb2 as pb

DEFAULT_MAX_BYTES = 16 * 1024 * 1024


class RelayQueue:
    """Batches on their way to the publisher. Bounded: what does not fit is refused, not dropped; the source waits.

    One thread offers, one takes. The doorbell rings when there is something in an empty queue.
    """

    def __init__(self, doorbell: Callable[[], None], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._doorbell = doorbell
        self._max_bytes = max_bytes
        self._items: deque[tuple[Encoded, bool]] = deque()
        self._lock = threading.Lock()
        self.held_bytes = 0

    def offer(self, batch: Encoded, *, last: bool = False) -> bool:
        """Take `batch`, the `last` one of its stream perhaps; False if there is no room now."""
        with self._lock:
            if self._items and self.held_bytes + batch.size_bytes > self._max_bytes:
                return False
            was_empty = not self._items
            self._items.append((batch, last))
            self.held_bytes += batch.size_bytes
        if was_empty:
            self._doorbell()
        return True

    def take(self, budget_bytes: int) -> list[tuple[Encoded, bool]]:
        """The oldest batches, at least one if there is any, together at most about so large."""
        taken: list[tuple[Encoded, bool]] = []
        with self._lock:
            while self._items and budget_bytes > 0:
                item = self._items.popleft()
                budget_bytes -= item[0].size_bytes
                self.held_bytes -= item[0].size_bytes
                taken.append(item)
        return taken


class Relay:
    """Turned under the publisher's lock, as a pipeline is."""

    def __init__(self, feed: Feed, queue: RelayQueue, outlet: Outlet) -> None:
        self.feed = feed
        self.outlet = outlet
        self._queue = queue
        self._books = Ledger("outlet", "packets")
        self._first: int | None = None
        self._missing = 0

    def turn(self, publish: Callable[[Encoded], None]) -> bool:
        """Publish what has come, up to a bound; True if there was anything."""
        items = self._queue.take(TURN_BYTES)
        for batch, last in items:
            if self._first is None:
                self._first = batch.first_sequence
            else:
                self._missing += batch.first_sequence - self.outlet.next_sequence
            self._books.enter(batch.packet_count)
            self.outlet.store(batch)
            self._books.leave(batch.packet_count)
            publish(batch)
            self.outlet.ended |= last
        return bool(items)

    @property
    def waiting_bytes(self) -> int:
        return self._queue.held_bytes

    @property
    def due_at_ns(self) -> int | None:
        """Nothing is ever held."""
        return None

    def end(self, reason: str, publish: Callable[[Encoded], None]) -> None:
        """Publish what the stopped feed has left and, unless that said it already, the end of the stream."""
        while self.turn(publish):
            pass
        outlet = self.outlet
        if outlet.ended:
            return
        end = pb.StreamEnd(reason=reason, packets=outlet.next_sequence, realtime_ns=time.time_ns())
        raw = encode_batch(
            epoch=outlet.epoch, number=outlet.next_number, first_sequence=outlet.next_sequence,
            packet_count=0, packet_size=0, payload=(), end=end,
        )  # fmt: skip
        last = Encoded(raw, outlet.next_number, outlet.next_sequence, 0)
        outlet.store(last)
        publish(last)
        outlet.ended = True

    def health(self) -> pb.StreamHealth:
        """The books, audited. To be called under the publisher's lock."""
        self._books.counters["missing_upstream"] = self._missing
        given = self.outlet.next_sequence - (self._first or 0)
        links = [
            (
                "packets out of stage outlet and missing upstream",
                self._books.left + self._missing,
                "sequences given",
                given,
            )
        ]
        return pb.StreamHealth(
            stream=self.outlet.stream,
            epoch=self.outlet.epoch,
            ledgers=[self._books.to_proto()],
            discrepancies=audit([self._books], links),
            attached=self.feed.attached,
            ended=self.outlet.ended,
            problem=self.feed.problem,
        )

"""A stream that comes encoded, from a recording or another node: its batches go to the outlet as they are.

The counterpart of the pipeline, which makes batches of what a device sent. Whoever fills the queue sees to epoch and numbers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from usbcast_broker.stream.coalescing import INLINE_BYTES
from usbcast_broker.stream.outlet import Description, Outlet
from usbcast_broker.stream.pipeline import TURN_BYTES, Feed, Publish
from usbcast_schemas.batch import Encoded, decode_batch, encode_batch
from usbcast_schemas.errors import RingUnavailable
from usbcast_schemas.ledger import Ledger, audit
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 16 * 1024 * 1024
RETRY_S = 1.0
"""Where there is no room for the ring of a new epoch, it is tried again this often."""

NO_RING = "no room for the ring"
TOO_LARGE = "larger than the ring of the bridge"


class EpochChange(NamedTuple):
    """What follows in the queue is of another epoch."""

    epoch: int
    description: Description


class RelayQueue:
    """Batches on their way to the publisher. Bounded: what does not fit is refused, not dropped; the source waits.

    One thread offers, one takes. The doorbell rings when there is something in an empty queue.
    """

    def __init__(self, doorbell: Callable[[], None], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._doorbell = doorbell
        self._max_bytes = max_bytes
        self._items: deque[tuple[Encoded, bool] | EpochChange] = deque()
        self._lock = threading.Lock()
        self.held_bytes = 0
        self.held_packets = 0

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, batch: Encoded, *, last: bool = False) -> bool:
        """Take `batch`, the `last` one of its epoch perhaps; False if there is no room now."""
        with self._lock:
            if self._items and self.held_bytes + batch.size_bytes > self._max_bytes:
                return False
            was_empty = not self._items
            self._items.append((batch, last))
            self.held_bytes += batch.size_bytes
            self.held_packets += batch.packet_count
        if was_empty:
            self._doorbell()
        return True

    def renew(self, renewal: EpochChange) -> bool:
        """Say that what follows is of another epoch; False if there is no room now."""
        with self._lock:
            if self._items and self.held_bytes >= self._max_bytes:
                return False
            was_empty = not self._items
            self._items.append(renewal)
        if was_empty:
            self._doorbell()
        return True

    def take(self, budget_bytes: int) -> list[tuple[Encoded, bool] | EpochChange]:
        """The oldest items, at least one if there is any, together at most about so large."""
        taken: list[tuple[Encoded, bool] | EpochChange] = []
        with self._lock:
            while self._items and budget_bytes > 0:
                item = self._items.popleft()
                taken.append(item)
                if isinstance(item, EpochChange):
                    continue
                budget_bytes -= item[0].size_bytes
                self.held_bytes -= item[0].size_bytes
                self.held_packets -= item[0].packet_count
        return taken


class RelayFeed(Feed, Protocol):
    """What fills a relay's queue, and accounts for what it brought."""

    def ledgers(self) -> Sequence[Ledger]:
        """The books of the stages ahead of the outlet; the last one's `left` is what was offered to the queue."""


class Relay:
    """Turned under the publisher's lock, as a pipeline is."""

    def __init__(
        self, feed: RelayFeed, queue: RelayQueue, outlet: Outlet, make_outlet: Callable[[Description, int], Outlet]
    ) -> None:
        self.feed = feed
        self.outlet = outlet
        self.over = False
        self._queue = queue
        self._make_outlet = make_outlet
        self._books = Ledger("outlet", "packets")
        self._given = 0
        """Sequences that former epochs gave."""
        self._first: int | None = None
        self._missing = 0
        self._pending: EpochChange | None = None
        self._retry_s = 0.0
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why nothing comes, in one sentence; empty while all is well."""
        return self._problem or self.feed.problem

    def process(self, publish: Publish) -> bool:
        """Publish what has come, up to a bound; True if there was anything."""
        items = self._queue.take(TURN_BYTES)
        for item in items:
            if isinstance(item, EpochChange):
                self._close_epoch()
                self._pending = item
                self._renew()
                continue
            batch, last = item
            self._books.enter(batch.packet_count)
            if self._pending is not None and not self._renew():
                self._books.lose(NO_RING, batch.packet_count)
                continue
            self._publish(batch, publish)
            self.outlet.ended |= last
        return bool(items)

    @property
    def waiting_bytes(self) -> int:
        return self._queue.held_bytes or int(bool(self._queue))

    @property
    def patience_bytes(self) -> int:
        return INLINE_BYTES

    @property
    def due_at_ns(self) -> int | None:
        """Nothing is ever held."""
        return None

    def end(self, reason: str, publish: Publish) -> None:
        """Publish what the stopped feed has left and, if the epoch is our own, its end."""
        while self.process(publish):
            pass
        self.over = True
        outlet = self.outlet
        if outlet.ended or outlet.source is not None:
            return  # an epoch of another node's is not ours to end: it goes on there
        end = pb.StreamEnd(reason=reason, packets=outlet.next_sequence, realtime_ns=time.time_ns())
        raw = encode_batch(
            epoch=outlet.epoch, number=outlet.next_number, first_sequence=outlet.next_sequence,
            packet_count=0, packet_size=0, payload=(), end=end,
        )  # fmt: skip
        last = Encoded(raw, outlet.next_number, outlet.next_sequence, 0)
        outlet.store(last)
        if publish is not None:
            publish(last.raw)
        outlet.ended = True

    def health(self) -> pb.StreamHealth:
        """The books, audited. To be called under the publisher's lock."""
        books, outlet = self._books, self.outlet
        ahead = self._ledgers_ahead()
        books.counters["missing_upstream"] = self._missing
        shown = self._entered()
        given = self._given + self._given_now
        links = [
            ("packets out of stage outlet and missing upstream", books.left + self._missing, "sequences given", given),
            *(
                (f"packets out of stage {a.stage}", a.left, f"packets into stage {b.stage}", b.entered)
                for a, b in pairwise((*ahead, shown))
            ),
        ]
        return pb.StreamHealth(
            stream=outlet.stream,
            epoch=outlet.epoch,
            ledgers=[ledger.to_proto() for ledger in (*ahead, shown)],
            discrepancies=audit([*ahead, shown], links),
            attached=self.feed.attached,
            ended=outlet.ended,
            problem=self.problem,
            source=outlet.source.endpoint if outlet.source else None,
            source_silent_ns=outlet.source_silent_ns(time.monotonic_ns()) if outlet.source else None,
        )

    @property
    def _given_now(self) -> int:
        """Sequences that this epoch gave."""
        return 0 if self._first is None else self.outlet.next_sequence - self._first

    def _entered(self) -> Ledger:
        """The outlet's books with what waits in the queue."""
        shown = Ledger.from_proto(self._books.to_proto())
        shown.held = self._queue.held_packets
        shown.entered += shown.held
        return shown

    def _ledgers_ahead(self) -> Sequence[Ledger]:
        """The feed's books and the queue from one moment: its thread may stand between offering a batch and counting it."""
        for _ in range(50):
            ahead = self.feed.ledgers()
            if not ahead or ahead[-1].left == self._entered().entered:
                break
            time.sleep(0.0002)
        return ahead

    def _publish(self, batch: Encoded, publish: Publish) -> None:
        if batch.size_bytes > self.outlet.ring.data_bytes:
            self._books.lose(TOO_LARGE, batch.packet_count)
            batch = self._without_packets(batch)
        if self._first is None:
            self._first = batch.first_sequence
        else:
            self._missing += batch.first_sequence - self.outlet.next_sequence
        self.outlet.store(batch)
        self._books.leave(batch.packet_count)
        if publish is not None:
            publish(batch.raw)

    def _without_packets(self, batch: Encoded) -> Encoded:
        """What stands in the place of a batch that no ring holds: the rest of what it says, and where its packets were."""
        said = decode_batch(batch.raw)
        log.warning(
            "stream %s: a batch of %d bytes does not fit into a ring of %d: make the ring larger with --ring-size",
            self.outlet.stream, batch.size_bytes, self.outlet.ring.data_bytes,
        )  # fmt: skip
        hole = pb.LostRange(
            first_sequence=said.first_sequence, count=said.packet_count, stage=pb.STAGE_BRIDGE, reason=TOO_LARGE
        )
        raw = encode_batch(
            epoch=said.epoch, number=said.number, first_sequence=said.end_sequence, packet_count=0, packet_size=0,
            payload=(), losses=said.losses, events=said.events, end=said.end, holes=[*said.holes, hole],
        )  # fmt: skip
        return Encoded(raw, said.number, said.end_sequence, 0)

    def _close_epoch(self) -> None:
        """Let go of the ring of the epoch that is over; who has it mapped may read on."""
        if self._pending is None:
            self._given += self._given_now
            self._first = None
            self.outlet.close()

    def _renew(self) -> bool:
        """Begin the epoch that is due; False if there is no room for its ring."""
        pending = self._pending
        assert pending is not None
        if time.monotonic() < self._retry_s:
            return False
        try:
            outlet = self._make_outlet(pending.description, pending.epoch)
        except RingUnavailable as error:
            self._problem = str(error)
            self._retry_s = time.monotonic() + RETRY_S
            log.error("%s", error)
            return False
        outlet.source = self.outlet.source
        self.outlet = outlet
        self._pending = None
        self._problem = ""
        return True

"""The listener of one bridged stream: turns the records of its receiver into what the relay publishes, and counts both sides.

What is made waits here while the relay's queue is full. It has neither sockets nor a clock: times are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from usbcast.bridge.restart import EpochTracker
from usbcast.bridge.upstream import Upstream
from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import SKIPPED, Delivery
from usbcast.receiving.event_builder import Record
from usbcast_broker.stream.relay import EpochChange, RelayQueue
from usbcast_schemas.batch import Encoded, EncodedBatch
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb


class BridgeListener:
    """Used by one thread."""

    def __init__(self, upstream: Upstream, info: pb.StreamInfo) -> None:
        self.epochs = EpochTracker(upstream, info)
        self.attached = info.attached
        """True if the device is attached, as far as the upstream has said."""
        self.counters = {"batches": 0, "bytes": 0, "outages": 0, "clock_steps": 0}
        self._reason = upstream.choice.reason
        self._latest = bool(upstream.choice.latest_hz)
        self._ledger = Ledger("bridge", "packets")
        self._made: deque[Encoded | EpochChange] = deque()
        """Items that wait for room in the queue."""
        self._last: set[int] = set()
        """Numbers of the batches in `_made` that end their epoch."""

    @property
    def is_waiting(self) -> bool:
        """True while something that was made waits for room in the queue."""
        return bool(self._made)

    def describe(self, info: pb.StreamInfo) -> None:
        """Note a new description by the upstream."""
        self.epochs.info = info
        self.attached = info.attached

    def take(self, record: Record, now_s: float) -> None:
        """Make what is published of `record`."""
        match record:
            case Delivery():
                self._deliver(record)
            case Gap():
                self._made.extend(self.epochs.carrier.lose(self._as_chosen(record)))
            case Restart():
                self.epochs.wait_for_description(record, now_s)
            case _:
                pass  # the feed watches for silence itself

    def leave_out(self, gap: Gap, until_number: int) -> None:
        """Declare packets that were not fetched because they are not wanted."""
        self._made.extend(self.epochs.carrier.lose(gap, until_number))

    def begin_epoch(self, described: int | None, now_s: float) -> bool:
        """Begin the epoch that waits for its description; return False if it has to wait longer."""
        change = self.epochs.begin_waiting(described, now_s)
        if change is not None:
            self._made.append(change)
        return change is not None

    def offer(self, queue: RelayQueue) -> bool:
        """Put what was made into `queue`; return False if the queue is full."""
        while self._made:
            item = self._made[0]
            if isinstance(item, EpochChange):
                if not queue.renew(item):
                    return False
            else:
                if not queue.offer(item, last=item.number in self._last):
                    return False
                self._last.discard(item.number)
                self._ledger.leave(item.packet_count)
            self._made.popleft()
        return True

    def ledgers(self, upstream: Ledger, figures: dict[str, int]) -> tuple[Ledger, Ledger]:
        """Return the ledger of what the upstream sent, and that of what the bridge made of it, with `figures` added."""
        # The receiver counts as lost what it skipped for the newest packets; here that is the user's choice.
        skipped = upstream.lost.pop(f"subscription: {SKIPPED}", 0)
        if skipped:
            upstream.overhead += skipped
            upstream.count(self._left_out, skipped)
        self._ledger.held = sum(item.packet_count for item in self._made if isinstance(item, Encoded))
        self._ledger.counters.update(figures | self.counters)
        return upstream, Ledger.from_proto(self._ledger.to_proto())

    @property
    def _left_out(self) -> str:
        return f"left out: {self._reason}"

    def _deliver(self, delivery: Delivery) -> None:
        batch = delivery.batch
        if batch.epoch != self.epochs.epoch:
            self._made.append(self.epochs.begin(batch.epoch))
        entered = batch.packet_count - delivery.skip
        self._ledger.enter(entered)
        self._note(batch)
        if self._latest:
            delivery.gaps = tuple(self._as_chosen(gap) for gap in delivery.gaps)
        made = self.epochs.carrier.deliver(delivery)
        left_out = entered - _packets(made)
        if left_out:
            self._ledger.overhead += left_out
            self._ledger.count(self._left_out, left_out)
        if batch.end is not None:
            self._last.add(made[-1].number)
        self._made.extend(made)

    def _note(self, batch: EncodedBatch) -> None:
        """Count the batch, and note the device events in it."""
        self.counters["batches"] += 1
        self.counters["bytes"] += len(batch.raw)
        for event in batch.events:
            if event.kind in (pb.DeviceEvent.KIND_ATTACHED, pb.DeviceEvent.KIND_DETACHED):
                self.attached = event.kind == pb.DeviceEvent.KIND_ATTACHED
            elif event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED:
                self.counters["clock_steps"] += 1

    def _as_chosen(self, gap: Gap) -> Gap:
        """Return the gap as it is published: packets skipped for the newest were left out on purpose."""
        return replace(gap, stage="bridge", reason=self._reason, on_purpose=True) if gap.reason == SKIPPED else gap


def _packets(batches: Iterable[Encoded]) -> int:
    return sum(batch.packet_count for batch in batches)

"""What continuity decided, as the application sees it: batches with their gaps, events in order, and the books of both."""

from __future__ import annotations

import time
from collections import deque

from usbcast.batch import Batch, DecodeContext, batch_maker
from usbcast.clock.clock_watch import ClockWatch
from usbcast.clock.dejitter import Dejitter, dejitter_of
from usbcast.events import DeviceEvent, End, Gap, Restart, Silence, device_event, gap_of_loss
from usbcast.layout import Layout
from usbcast.receiving.continuity import Continuity, Delivery
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.engine.protocols import SettledRead
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.places import host_id
from usbcast_schemas.v1 import usbcast_pb2 as pb

OVERWRITTEN_IN_USE = "overwritten in the ring while it was in use"
"""Of what was not copied. It may have been overwritten a moment before it was handed out, but not before it was taken."""

Event = Batch | Gap | Restart | DeviceEvent | Silence | End
Record = Delivery | Gap | Restart | Silence
"""The same, before the event builder: what a recorder or a bridge passes on."""


class EventBuilder:
    """Takes what waits in `core.out`, one at a time, when the application asks for it."""

    def __init__(self, core: Continuity, clock: ClockWatch) -> None:
        self.books = Ledger("subscription", "packets")
        self.lag_ns = 0
        """From the arrival of the last delivered packet at the reading host to its delivery, by the reading host's clock."""
        self._core = core
        self._clock = clock
        self._events: deque[Event] = deque()
        self._loaned: Batch | None = None
        """Batch that was handed out in place and not returned yet."""
        self._gaps: list[Gap] = []
        self._decode_by(DecodeContext(Layout((), 0), None, clock.offset))
        self.dejitter: Dejitter | None = None
        self._rate_hz = 0.0
        self._same_host = True
        self._lost_earlier = 0
        """Packets declared lost at stages before the ring; they have no sequences, so no span holds them."""

    def __bool__(self) -> bool:
        """True if there is anything to take."""
        return bool(self._events or self._core.out)

    @property
    def is_clear(self) -> bool:
        """True if no event or gap has to be delivered before or with the next batch."""
        return not (self._events or self._core.out or self._gaps or self._loaned is not None)

    def record_delivered(self, settled: SettledRead) -> None:
        """Count what the fast path delivered, and take over the batch that it has handed out in place, if any."""
        self.books.left += settled.delivered
        self._loaned = settled.loaned
        if self._same_host:
            self.lag_ns = settled.taken_ns - settled.monotonic_ns
        else:
            at_ns = time.time_ns() - (time.monotonic_ns() - settled.taken_ns)
            self.lag_ns = at_ns + self._clock.ahead_ns(at_ns) - settled.realtime_ns

    def describe(self, info: pb.StreamInfo) -> None:
        """Take the node's description of the stream: how to decode its packets, and which host's clock stamps them."""
        self._same_host = (info.reader_host_id or info.host_id) == host_id()
        if info.nominal_rate_hz != self._rate_hz:
            self._rate_hz = info.nominal_rate_hz
            self.dejitter = dejitter_of(self._rate_hz)
        self._decode_by(DecodeContext(Layout(info.fields, info.packet_size), self.dejitter, self._clock.offset))

    def _decode_by(self, context: DecodeContext) -> None:
        """Decode the batches that are delivered from now on by `context`."""
        self._context = context
        self.make_batch = batch_maker(context)
        """Makes of a plain batch the Batch that the application gets."""

    def _begin_dejitter(self) -> None:
        """Begin a new line of smoothed times. Batches that were handed out keep theirs."""
        self.dejitter = Dejitter(self._rate_hz) if self._rate_hz > 0 else None
        self._decode_by(self._context._replace(dejitter=self.dejitter))

    def say(self, silence: Silence) -> None:
        """Put an event of the receiver's own behind what has been expanded so far."""
        self._events.append(silence)

    def next_event(self) -> Event | None:
        """The next event, if there is one."""
        if self._loaned is not None:
            self.return_loan()
        events, out = self._events, self._core.out
        while not events:
            if not out:
                return None
            self._expand(out.popleft())
        event = events.popleft()
        if isinstance(event, Batch):
            self._deliver(event.encoded, len(event))
        elif isinstance(event, Gap):
            self._lose(event)
        return event

    def return_loan(self) -> None:
        """End the loan of the last batch: count it as delivered, or as a gap if it was overwritten meanwhile."""
        loaned, self._loaned = self._loaned, None
        if loaned is None:
            return
        if loaned.encoded.intact:
            self.books.left += len(loaned)
            return
        gap = Gap(
            loaned.first_sequence, loaned.last_sequence, len(loaned), "ring", OVERWRITTEN_IN_USE, epoch=loaned.epoch
        )
        self._events.appendleft(gap)
        self._gaps.append(gap)

    def left_out(self, gap: Gap) -> None:
        """Count a gap that does not go through `next_event`."""
        self._lose(gap)

    def next_record(self) -> Record | None:
        """As `next_event`, but batches as they were published, those without packets too. One of the two is used, not both."""
        if self._events:
            said = self._events.popleft()
            assert isinstance(said, Silence), "next_event and next_record are not mixed"
            return said
        if not self._core.out:
            return None
        item = self._core.out.popleft()
        if isinstance(item, Delivery):
            for gap in (*item.gaps, *self._earlier(item)):
                self._lose(gap)
            self._deliver(item.batch, item.batch.packet_count - item.skip)
        elif isinstance(item, Gap):
            self._lose(item)
        return item

    def ledger(self) -> Ledger:
        """Return the ledger as of now, in packets."""
        books, core = self.books, self._core
        books.entered = core.span + self._lost_earlier
        books.held = sum(map(_packets_of, self._events)) + (len(self._loaned) if self._loaned is not None else 0)
        for item in core.out:
            if isinstance(item, Delivery):
                books.held += item.batch.packet_count - item.skip + sum(gap.count for gap in item.gaps)
            elif isinstance(item, Gap):
                books.held += item.count
        books.counters.update(duplicates=core.duplicates, stale=core.stale)
        return books

    def _expand(self, item: Delivery | Restart | Gap) -> None:
        if isinstance(item, Restart):
            if self.dejitter:
                self.dejitter.restart()
            self._events.append(item)
            return
        if isinstance(item, Gap):
            self._gap(item)
            return
        batch = item.batch
        for gap in (*item.gaps, *self._earlier(item)):
            self._gap(gap)
        if not _is_cut(item):
            self._events.extend(device_event(event) for event in batch.events)
        if any(event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED for event in batch.events):
            self._begin_dejitter()
        if batch.packet_count > item.skip:
            self.learn_times(batch)
            self._events.append(Batch(batch, self._context, tuple(self._gaps), item.skip))
            self._gaps.clear()
        if batch.end is not None:
            self._events.append(End(batch.end.reason, batch.end.packets))

    def _earlier(self, item: Delivery) -> list[Gap]:
        """Return the losses that the batch declares from before numbering, at stages without sequences."""
        if _is_cut(item) or not item.batch.losses:
            return []
        self._lost_earlier += sum(loss.packets for loss in item.batch.losses)
        return [gap_of_loss(loss, item.batch.first_sequence, item.batch.epoch) for loss in item.batch.losses]

    def learn_times(self, batch: EncodedBatch) -> None:
        if self.dejitter is None:
            return
        last = batch.first_sequence - 1
        for n, realtime_ns in zip(batch.arrivals.packets, batch.arrivals.realtime_ns, strict=True):
            last += n
            self.dejitter.update(last, realtime_ns)

    def _gap(self, gap: Gap) -> None:
        self._events.append(gap)
        self._gaps.append(gap)

    def _lose(self, gap: Gap) -> None:
        if gap.on_purpose:
            self.books.overhead += gap.count
            self.books.count(f"left out: {gap.reason}", gap.count)
        else:
            self.books.lose(f"{gap.stage}: {gap.reason}", gap.count)

    def _deliver(self, batch: EncodedBatch, packets: int) -> None:
        self.books.left += packets
        arrivals = batch.arrivals
        if arrivals.packets:
            if self._same_host:
                self.lag_ns = time.monotonic_ns() - arrivals.monotonic_ns[-1]
            else:
                now_ns = time.time_ns()
                self.lag_ns = now_ns + self._clock.ahead_ns(now_ns) - arrivals.realtime_ns[-1]


def _is_cut(item: Delivery) -> bool:
    """Return True if the start lies inside this batch; its device events are then from before the start."""
    return 0 < item.skip < item.batch.packet_count


def _packets_of(event: Event) -> int:
    if isinstance(event, Batch):
        return len(event)
    return event.count if isinstance(event, Gap) else 0

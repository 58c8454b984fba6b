"""The fast path: how a subscription gets plain batches that follow one another, with no other work for each of them.

A `StreamReader` delivers them straight from the channel and counts them. Before anybody looks at continuity or the ledger, they
get its sums (`settle`). Whatever the reader refuses takes the other way: the channel's `pump`, and continuity.
"""

from __future__ import annotations

from usbcast.batch import Batch
from usbcast.receiving.continuity import Continuity, Delivery
from usbcast.receiving.event_builder import Event, EventBuilder, Record
from usbcast_schemas.engine.protocols import Expected, Limits, ReaderState, StreamReader
from usbcast_schemas.engine.pure_reader import ClosedReader


class FastPath:
    """The fast path of one receiver: open between two calls of `pump`, while nothing waits that must be delivered first."""

    def __init__(self, core: Continuity, event_builder: EventBuilder) -> None:
        self._core = core
        self._event_builder = event_builder
        self._reader: StreamReader = ClosedReader()
        self._left_as = ReaderState.CLOSED
        """The state in which settling found the reader, since it was opened last."""

    def read_by(self, reader: StreamReader) -> None:
        """Deliver what `reader` reads from now on."""
        self.settle()
        self._reader = reader
        self._left_as = ReaderState.CLOSED

    def next_event(self) -> Event | None:
        """Return the next event; None if there is none."""
        batch: Batch | None = self._reader.next_batch(self._event_builder.make_batch)
        if batch is None:
            return self._event_builder.next_event()
        if self._event_builder.dejitter is not None:
            self._event_builder.learn_times(batch.encoded)
        return batch

    def next_record(self) -> Record | None:
        """As `next_event`, but batches as they were published, those without packets too. One of the two is used, not both."""
        batch = self._reader.next_batch()
        return self._event_builder.next_record() if batch is None else Delivery(batch)

    def wait_for_batch(self, most_s: float) -> Batch | None:
        """Sleep up to `most_s` until a batch comes; return None, without sleep, if there is anything else to do."""
        batch: Batch | None = self._reader.wait_for_batch(most_s, self._event_builder.make_batch)
        if batch is not None and self._event_builder.dejitter is not None:
            self._event_builder.learn_times(batch.encoded)
        return batch

    def park_s(self) -> float:
        """Ask to be woken; return for how many seconds one may sleep. 0 if there is a batch or anything else to do."""
        return self._reader.park_s()

    @property
    def was_parked_in_vain(self) -> bool:
        """True if the caller slept, and something other than a batch ended that."""
        return self._left_as is ReaderState.PARKED

    def settle(self) -> bool:
        """Stop delivering; tell continuity and the ledger what was. Return True if that was any batch."""
        settled = self._reader.settle()
        if settled is None:
            return False
        self._left_as = settled.state
        if settled.batches or settled.delivered or settled.loaned is not None:
            self._core.record_delivered(settled.batches, settled.packets)
            self._event_builder.record_delivered(settled)
        return settled.batches > 0

    @property
    def can_open(self) -> bool:
        """True if `open` would open it, and the reader has not just refused what comes next."""
        opens = self._left_as is not ReaderState.REFUSED and not isinstance(self._reader, ClosedReader)
        return opens and self._expected() is not None

    def open(self, limits: Limits) -> bool:
        """Deliver from now on, unless something has to be delivered first; return True if a batch waits in the ring."""
        expected = self._expected()
        if expected is None:
            return False
        self._left_as = ReaderState.CLOSED
        return self._reader.open(expected, limits)

    def _expected(self) -> Expected | None:
        return self._core.expected() if self._event_builder.is_clear else None


__all__ = ["FastPath"]

"""The stream readers in Python: what `protocols.StreamReader` says, over a ring or over the messages of a socket."""

from __future__ import annotations

import time
from typing import Any

from usbcast_schemas.batch import Buffer, EncodedBatch, decode_plain
from usbcast_schemas.engine.protocols import Expected, Limits, Make, ReaderState, SettledRead, Waiter
from usbcast_schemas.errors import PeerError, RingTorn
from usbcast_schemas.messages import PyzmqMessages
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import BatchInPlace, RingReader, Slot
from usbcast_schemas.ring.layout import SPIN_WAIT_NS

_CLOSED, _OPEN, _REFUSED, _PARKED, _DUE = ReaderState


class _Count:
    """The state of a reader, the batch that it expects, and what it has delivered. The same for every source."""

    def __init__(self) -> None:
        self.state = _CLOSED
        self.taken = self.taken_ns = 0
        self._epoch = self._number = self._first_sequence = 0
        self._due_ns = self._park_until_ns = 0
        self._told = self._packets = self._delivered = 0
        self._realtime_ns = self._monotonic_ns = 0

    def _begin(self, expected: Expected, limits: Limits) -> None:
        self._epoch, self._number, self._first_sequence = expected
        self._due_ns, self._park_until_ns = limits
        self.state = _OPEN

    def _expects(self, batch: EncodedBatch) -> bool:
        return (
            batch.number == self._number
            and batch.first_sequence == self._first_sequence
            and batch.epoch == self._epoch
            and batch.packet_count > 0
        )

    def _count(self, batch: EncodedBatch) -> None:
        """Count `batch`, which is handed out now; the one behind it is expected next."""
        packets, arrivals = batch.packet_count, batch.arrivals
        self._realtime_ns, self._monotonic_ns = arrivals.realtime_ns[-1], arrivals.monotonic_ns[-1]
        self.taken_ns = taken_ns = time.monotonic_ns()
        self.state = _DUE if taken_ns >= self._due_ns else _OPEN
        self.taken += 1
        self._packets += packets
        self._number += 1
        self._first_sequence += packets

    def _settle(self, loaned: object) -> SettledRead | None:
        if self.state is _CLOSED:
            return None
        settled = SettledRead(
            self.state,
            self.taken - self._told,
            self._packets,
            self._delivered,
            self._realtime_ns,
            self._monotonic_ns,
            self.taken_ns,
            loaned,
        )
        self._told = self.taken
        self._packets = self._delivered = 0
        self.state = _CLOSED
        return settled


class PureRingReader(_Count):
    """Reads a ring. Without `copy` what it hands out is of type BatchInPlace, where the ring has no checksums."""

    def __init__(self, ring: RingReader, waiter: Waiter, *, copy: bool = True) -> None:
        super().__init__()
        self.at = 0
        self._ring = ring
        self._waiter = waiter
        self._in_place = not copy and not ring.has_checksums
        self._loaned: Any = None
        self._loaned_slot = self._loaned_packets = 0

    def open(self, expected: Expected, limits: Limits, /) -> bool:
        if not self._ring.is_open:
            raise ValueError("the ring is closed")
        self._begin(expected, limits)
        return self._ring.head > self.at

    def next_batch(self, make: Make | None = None, /) -> Any:
        if (self.state is not _OPEN and self.state is not _PARKED) or not self._ring.is_open:
            return None
        if self._loaned is not None and not self._return_loan():
            self.state = _DUE
            return None
        if self._ring.head <= self.at:
            return None
        batch = self._plain_batch(self.at)
        if batch is None:
            self.state = _REFUSED
            return None
        self._count(batch)
        made = batch if make is None else make(batch)
        if self._in_place:
            self._loaned, self._loaned_slot, self._loaned_packets = made, self.at, batch.packet_count
        else:
            self._delivered += batch.packet_count
        self.at += 1
        return made

    def wait_for_batch(self, most_s: float, make: Make | None = None, /) -> Any:
        park_s = self.park_s()
        if park_s <= 0:
            return None
        self._waiter.wait(min(park_s, most_s))
        return self.next_batch(make)

    def park_s(self) -> float:
        if self.state is not _OPEN or not self._ring.is_open or (self._loaned is not None and not self._return_loan()):
            return 0.0
        ring, at = self._ring, self.at
        if ring.head != at or ring.spin_wait(at, SPIN_WAIT_NS):
            return 0.0
        rest_ns = self._park_until_ns - time.monotonic_ns()
        if rest_ns <= 0 or not ring.will_sleep(at):
            return 0.0
        self.state = _PARKED
        return rest_ns / 1e9

    def settle(self) -> SettledRead | None:
        settled = self._settle(self._loaned)
        if settled is not None:
            self._loaned = None
        return settled

    def _plain_batch(self, at: int) -> EncodedBatch | None:
        """Return the batch in slot `at` if it is the expected one and plain, else None."""
        ring = self._ring
        if ring.has_checksums:
            return self._settled_batch(at)
        slot = ring.slot(at)
        if slot is None or slot.number != self._number or slot.first_sequence != self._first_sequence:
            return None
        batch = self._in_place_batch(slot) if self._in_place else self._copied_batch(slot)
        return batch if batch is not None and self._expects(batch) else None

    def _copied_batch(self, slot: Slot) -> EncodedBatch | None:
        if slot.size_bytes >= WORTH_BYTES:
            return None  # `RingReader.take` has buffers for such
        try:
            return decode_plain(self._ring.read(slot))
        except RingTorn:
            return None

    def _in_place_batch(self, slot: Slot) -> EncodedBatch | None:
        ring = self._ring
        found = decode_plain(ring.view(slot))
        if found is None or not ring.holds(slot.slot):
            return None
        return BatchInPlace(
            found.raw, found.epoch, found.number, found.first_sequence, found.packet_count, found.packet_size,
            (), found.arrivals, (), (), None, found.payload, (), ring, slot.slot,
        )  # fmt: skip

    def _settled_batch(self, at: int) -> EncodedBatch | None:
        """As `_plain_batch`, of a ring whose words may be visible late."""
        try:
            batch = self._ring.take(at)
        except PeerError:
            return None
        plain = decode_plain(batch.raw) if batch is not None else None
        return plain if plain is not None and self._expects(plain) else None

    def _return_loan(self) -> bool:
        """Take back what was handed out in place; return False, and keep it, if it was overwritten meanwhile."""
        if not self._ring.holds(self._loaned_slot):
            return False
        self._delivered += self._loaned_packets
        self._loaned = None
        return True


class PureMessageReader(_Count):
    """Reads the messages of a socket that come on `topic`. It never sleeps: whatever comes is told by the socket."""

    def __init__(self, messages: PyzmqMessages, topic: bytes) -> None:
        super().__init__()
        self._messages = messages
        self._topic = topic

    def open(self, expected: Expected, limits: Limits, /) -> bool:
        self._begin(expected, limits)
        return False

    def next_batch(self, make: Make | None = None, /) -> Any:
        if (self.state is not _OPEN and self.state is not _PARKED) or not self._messages.is_open:
            return None
        frames = self._messages.receive()
        if frames is None:
            return None
        batch = self._plain_batch(frames)
        if batch is None:
            self._messages.put_back(frames)
            self.state = _REFUSED
            return None
        self._count(batch)
        self._delivered += batch.packet_count
        return batch if make is None else make(batch)

    def wait_for_batch(self, _most_s: float, _make: Make | None = None, /) -> Any:
        return None

    def park_s(self) -> float:
        return 0.0

    def settle(self) -> SettledRead | None:
        return self._settle(None)

    def _plain_batch(self, frames: list[Buffer]) -> EncodedBatch | None:
        if len(frames) != 2 or frames[0] != self._topic:
            return None
        batch = decode_plain(frames[1])
        return batch if batch is not None and self._expects(batch) else None


class ClosedReader(_Count):
    """Reads nothing, and never opens: where there is no source, or none that brings batches one by one."""

    at = 0

    def open(self, _expected: Expected, _limits: Limits, /) -> bool:
        return False

    def next_batch(self, _make: Make | None = None, /) -> None:
        return None

    def wait_for_batch(self, _most_s: float, _make: Make | None = None, /) -> None:
        return None

    def park_s(self) -> float:
        return 0.0

    def settle(self) -> None:
        return None

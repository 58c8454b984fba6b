"""Keep reads of one endpoint queued, and return their outcomes in the order in which they were submitted.

A device without a queued read has nowhere to put its data, and a small device buffer overflows within a millisecond. So several
reads are in flight at any time. The host controller fills them in order; only the oldest one is ever looked at, so outcomes
keep that order even if a later read is reported first.

Failures: one read that fails stops the queueing until the reader has been told of it, at its place in the order, and reads
again. One fault may end every read in flight: failures with the same code, of reads that were submitted before the first of
them was told, are one failure.

Latency: a read ends when its buffer is full or a short packet comes, so a slow device could keep data in it for long. A read that
has been the oldest for too long is cancelled, and what it holds is taken over as if it had ended by itself. No byte is lost or
reordered by that: data comes into the oldest read only, so what follows goes into the next one.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from usbcast_broker.flow import Transfer
from usbcast_broker.sources.usb.read_sizes import ReadSizes

CANCELLED: Final = 1
"""Beside 0 and libusb's error codes, which are negative."""
IO_ERROR: Final = -1
OVERFLOW: Final = -8
NO_DEVICE: Final = -4
NO_MEMORY: Final = -11

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
MAX_WAITING: Final = 16384


@dataclass(frozen=True, slots=True)
class Completion:
    """How a transfer ended: 0, CANCELLED or libusb's error code, and the bytes that it holds all the same."""

    code: int
    data: bytes = b""


class Slot(Protocol):
    """One transfer, used again and again."""

    def submit(self, size_bytes: int) -> int:
        """Ask for so many bytes; 0, or libusb's error code."""

    def cancel(self) -> None:
        """Ask for its end. It may have ended already."""

    def completion(self) -> Completion | None:
        """How it ended; None while it is under way."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A transfer failed here."""

    code: int


@dataclass(slots=True)
class _Flight:
    """A read that is queued."""

    slot: Slot
    number: int
    size_bytes: int
    ended_early: bool = False


class Figures:
    """What is counted over all openings of a device."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.held_since_ns: int | None = None
        """Since when the oldest read may hold bytes; None while it cannot."""
        self.ended_early = 0
        self.starved = 0
        self.starved_ns = 0
        self.failed_together = 0
        self.refused = 0
        self.discarded_bytes = 0

    def as_counters(self) -> Mapping[str, int]:
        """in_flight now, reads ended early, starved moments and starved_us in all, failures that were part of another, …"""
        return {
            "in_flight": self.in_flight,
            "ended_early": self.ended_early,
            "starved": self.starved,
            "starved_us": self.starved_ns // 1000,
            "failed_together": self.failed_together,
            "queue_refused": self.refused,
            "read_ahead_discarded": self.discarded_bytes,
        }

    def held_ns(self, now_ns: int) -> int:
        """For how long at most a read has been holding bytes; from any thread."""
        since_ns = self.held_since_ns
        return 0 if since_ns is None else max(0, now_ns - since_ns)


class ReadAhead:
    """Call `collect` after each handling of events, and `take` for what is next, or `take_readings` during a command.

    Call `end_overdue` when `deadline_ns` has come, and `collect` what comes of it. It keeps `queue` reads of the largest
    size queued, or as many bytes in more of them.
    """

    def __init__(self, slots: Sequence[Slot], figures: Figures, sizes: ReadSizes, queue: int) -> None:
        self._figures = figures
        self._sizes = sizes
        self._queue = queue
        self._most_flying_bytes = queue * sizes.most_bytes
        self._idle: list[Slot] = list(slots)
        self._flying: deque[_Flight] = deque()
        self._flying_bytes = 0
        self._oldest_since_ns = 0
        self._ready: deque[Transfer | Failure] = deque()
        self._ready_bytes = 0
        self._submitted = 0
        self._halted = self._cancelled = False
        self._untold = self._telling = False
        self._failure: int | None = None
        self._horizon = 0
        self._starved_since_ns: int | None = None

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def take(self, monotonic_ns: int) -> list[Transfer] | Failure:
        """Queue what is idle, and return all that has been read, up to a failure; if one is next, the failure.

        To be called again is to be told that the failure has been dealt with. Empty if nothing has ended yet.
        """
        if self._telling:
            self._telling = self._untold = False
        if self._idle:
            self._fill(monotonic_ns)
        transfers = self.take_readings()
        if transfers or not self._ready:
            return transfers
        failure = self._ready.popleft()
        assert isinstance(failure, Failure)
        self._telling = True
        return failure

    def take_readings(self) -> list[Transfer]:
        """Return all that has been read and is next, up to a failure; queue nothing."""
        taken: list[Transfer] = []
        ready = self._ready
        while ready and isinstance(transfer := ready[0], Transfer):
            ready.popleft()
            self._ready_bytes -= len(transfer.data)
            taken.append(transfer)
        return taken

    def collect(self, realtime_ns: int, monotonic_ns: int, away_ns: int = 0) -> None:
        """Take over what has ended by now. `away_ns`: for how long nobody had looked before the last wait for events."""
        flight: _Flight | None = None
        came_bytes = 0
        while self._flying and (completion := self._flying[0].slot.completion()) is not None:
            flight = self._flying.popleft()
            self._idle.append(flight.slot)
            self._flying_bytes -= flight.size_bytes
            came_bytes += len(completion.data)
            self._take_over(completion, flight, realtime_ns, monotonic_ns)
        if flight is not None:
            self._oldest_since_ns = monotonic_ns
            self._sizes.count(came_bytes, monotonic_ns)
            if not (self._flying or self._halted or flight.ended_early):
                self._figures.starved += 1
                self._starved_since_ns = monotonic_ns - away_ns
        if self._idle:
            self._fill(monotonic_ns)

    @property
    def deadline_ns(self) -> int | None:
        """When the oldest read has to be ended; None while there is no need."""
        oldest = self._flying[0] if self._flying else None
        if oldest is None or oldest.ended_early or self._halted:
            return None
        return self._sizes.deadline_ns(oldest.size_bytes, self._oldest_since_ns)

    def end_overdue(self, now_ns: int) -> bool:
        """End the oldest read if its time has come; return whether it had."""
        deadline_ns = self.deadline_ns
        if deadline_ns is None or now_ns < deadline_ns:
            return False
        oldest = self._flying[0]
        oldest.ended_early = True
        self._figures.ended_early += 1
        oldest.slot.cancel()
        return True

    def halt(self) -> None:
        """Submit nothing more, until `resume`."""
        self._halted = True
        self._starved_since_ns = None

    def cancel(self) -> None:
        """Halt, and ask for the end of all that is in flight: collect until nothing is."""
        self.halt()
        self._cancelled = True
        for flight in self._flying:
            flight.slot.cancel()

    def resume(self) -> None:
        """Go on after `halt`. Failures that nobody was told of are of the past."""
        self._halted = self._cancelled = self._untold = self._telling = False
        self._failure = None
        readings: deque[Transfer | Failure] = deque(outcome for outcome in self._ready if isinstance(outcome, Transfer))
        self._figures.failed_together += len(self._ready) - len(readings)
        self._ready = readings

    def rest(self) -> list[Transfer]:
        """All that was read and not taken."""
        rest = [outcome for outcome in self._ready if isinstance(outcome, Transfer)]
        self._ready.clear()
        self._ready_bytes = 0
        return rest

    def abandon(self) -> list[Slot]:
        """Forget and return what is in flight still."""
        left = [flight.slot for flight in self._flying]
        self._flying.clear()
        self._flying_bytes = 0
        self._note_flying()
        return left

    def _take_over(self, completion: Completion, flight: _Flight, realtime_ns: int, monotonic_ns: int) -> None:
        code, data = completion.code, completion.data
        # What came before the fault in the same transfer counts, but after an overflow nothing in it can be trusted.
        if code == 0 or (data and code != OVERFLOW):
            self._ready.append(Transfer(data, realtime_ns, monotonic_ns))
            self._ready_bytes += len(data)
            self._failure = None
        if code == 0 or (code == CANCELLED and (self._cancelled or flight.ended_early)):
            return
        self._fail(IO_ERROR if code == CANCELLED else code, flight.number)

    def _fail(self, code: int, number: int) -> None:
        """One fault may end every transfer in flight: those that follow one another so are told once."""
        if self._cancelled or (code == self._failure and number <= self._horizon and code != OVERFLOW):
            self._figures.failed_together += 1
            return
        self._failure = code
        self._horizon = self._submitted
        self._untold, self._telling = True, False
        self._ready.append(Failure(code))

    def _fill(self, monotonic_ns: int) -> None:
        full = self._ready_bytes >= MAX_WAITING_BYTES or len(self._ready) >= MAX_WAITING
        while self._idle and not (self._halted or self._untold or full):
            size_bytes = self._sizes.next_bytes
            if len(self._flying) >= self._queue and self._flying_bytes + size_bytes > self._most_flying_bytes:
                break
            code = self._idle[-1].submit(size_bytes)
            if code == 0:
                self._submitted += 1
                if not self._flying:
                    self._oldest_since_ns = monotonic_ns
                # The slot that was used last: its buffer is of this size already.
                self._flying.append(_Flight(self._idle.pop(), self._submitted, size_bytes))
                self._flying_bytes += size_bytes
                if self._starved_since_ns is not None:
                    self._figures.starved_ns += max(0, monotonic_ns - self._starved_since_ns)
                    self._starved_since_ns = None
            elif not self._flying:
                self._fail(code, self._submitted + 1)
            elif code == NO_MEMORY:
                self._figures.refused += max(0, self._queue - len(self._flying))
                self._idle.clear()
            else:
                break  # those in flight will fail in the same way, each in its turn
        self._note_flying()

    def _note_flying(self) -> None:
        figures, flying = self._figures, self._flying
        figures.in_flight = len(flying)
        holds_back = flying and self._sizes.holds_back(flying[0].size_bytes)
        figures.held_since_ns = self._oldest_since_ns if holds_back else None

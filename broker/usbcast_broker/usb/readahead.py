"""Keeps reads of one endpoint queued, and hands out what became of them in the order in which they were submitted. Pure.

Rule: one read that fails stops the queueing until whoever reads has been told, at its place in the order, and reads again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from usbcast_broker.flow import Transfer

CANCELLED: Final = 1
"""Beside 0 and libusb's error codes, which are negative."""
IO_ERROR: Final = -1
OVERFLOW: Final = -8
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

    def submit(self) -> int:
        """0, or libusb's error code."""

    def cancel(self) -> None:
        """Ask for its end. It may have ended already."""

    def completion(self) -> Completion | None:
        """How it ended; None while it is under way."""


Reading = Transfer
"""What was read is handed on as it is; its times are those at which it was found complete."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A transfer failed here."""

    code: int


class Figures:
    """What is counted over all openings of a device."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.starved = 0
        self.starved_ns = 0
        self.failed_together = 0
        self.refused = 0
        self.discarded_bytes = 0

    def as_counters(self) -> Mapping[str, int]:
        """in_flight now, starved moments and starved_us in all, failures that were part of another, refused transfers."""
        return {
            "in_flight": self.in_flight,
            "starved": self.starved,
            "starved_us": self.starved_ns // 1000,
            "failed_together": self.failed_together,
            "queue_refused": self.refused,
            "read_ahead_discarded": self.discarded_bytes,
        }


class ReadAhead:
    """Call `collect` after each handling of events, `take` for what is next, and `take_readings` for what came with it."""

    def __init__(self, slots: Sequence[Slot], figures: Figures) -> None:
        self._figures = figures
        self._idle: deque[Slot] = deque(slots)
        self._flying: deque[tuple[Slot, int]] = deque()
        self._ready: deque[Reading | Failure] = deque()
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

    @property
    def waiting(self) -> int:
        """How many outcomes are ready to be taken."""
        return len(self._ready)

    def take(self, monotonic_ns: int) -> Reading | Failure | None:
        """What is next; None if nothing has ended yet."""
        if self._telling:
            self._telling = self._untold = False
        if self._idle:
            self._fill(monotonic_ns)
        if not self._ready:
            return None
        outcome = self._ready.popleft()
        if isinstance(outcome, Reading):
            self._ready_bytes -= len(outcome.data)
        else:
            self._telling = True
        return outcome

    def take_readings(self) -> list[Reading]:
        """All that has been read and is next, up to a failure; without waiting, and without asking for more."""
        taken: list[Reading] = []
        while self._ready and isinstance(reading := self._ready[0], Reading):
            self._ready.popleft()
            self._ready_bytes -= len(reading.data)
            taken.append(reading)
        return taken

    def put_back(self, rest: Reading) -> None:
        """What there was no room for comes next."""
        self._ready.appendleft(rest)
        self._ready_bytes += len(rest.data)

    def collect(self, realtime_ns: int, monotonic_ns: int, away_ns: int = 0) -> None:
        """Take over what has ended by now. `away_ns`: for how long nobody had looked before the last wait for events."""
        flying = len(self._flying)
        while self._flying:
            slot, number = self._flying[0]
            completion = slot.completion()
            if completion is None:
                break
            self._flying.popleft()
            self._idle.append(slot)
            self._take_over(completion, number, realtime_ns, monotonic_ns)
        emptied = flying > 0 and not self._flying and not self._halted
        if emptied:
            self._figures.starved += 1
            self._starved_since_ns = monotonic_ns - away_ns
        if self._idle:
            self._fill(monotonic_ns)

    def halt(self) -> None:
        """Submit nothing more, until `resume`."""
        self._halted = True
        self._starved_since_ns = None

    def cancel(self) -> None:
        """Halt, and ask for the end of all that is in flight: collect until nothing is."""
        self.halt()
        self._cancelled = True
        for slot, _ in self._flying:
            slot.cancel()

    def resume(self) -> None:
        """Go on after `halt`. Failures that nobody was told of are of the past."""
        self._halted = self._cancelled = self._untold = self._telling = False
        self._failure = None
        readings: deque[Reading | Failure] = deque(outcome for outcome in self._ready if isinstance(outcome, Reading))
        self._figures.failed_together += len(self._ready) - len(readings)
        self._ready = readings

    def rest(self) -> list[Reading]:
        """All that was read and not taken."""
        rest = [outcome for outcome in self._ready if isinstance(outcome, Reading)]
        self._ready.clear()
        self._ready_bytes = 0
        return rest

    def abandon(self) -> list[Slot]:
        """Forget and return what is in flight still."""
        left = [slot for slot, _ in self._flying]
        self._flying.clear()
        self._figures.in_flight = 0
        return left

    def _take_over(self, completion: Completion, number: int, realtime_ns: int, monotonic_ns: int) -> None:
        code, data = completion.code, completion.data
        # What came before the fault in the same transfer counts, but after an overflow nothing in it can be trusted.
        if code == 0 or (data and code != OVERFLOW):
            self._ready.append(Reading(data, realtime_ns, monotonic_ns))
            self._ready_bytes += len(data)
            self._failure = None
        if code == 0 or (code == CANCELLED and self._cancelled):
            return
        self._fail(IO_ERROR if code == CANCELLED else code, number)

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
            slot = self._idle[0]
            code = slot.submit()
            if code == 0:
                self._idle.popleft()
                self._submitted += 1
                self._flying.append((slot, self._submitted))
                if self._starved_since_ns is not None:
                    self._figures.starved_ns += max(0, monotonic_ns - self._starved_since_ns)
                    self._starved_since_ns = None
            elif not self._flying:
                self._fail(code, self._submitted + 1)
            elif code == NO_MEMORY:
                self._figures.refused += len(self._idle)
                self._idle.clear()
            else:
                break  # those in flight will fail in the same way, each in its turn
        self._figures.in_flight = len(self._flying)

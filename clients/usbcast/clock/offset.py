"""Offset of another host's clock, with its uncertainty and drift, from probes.

A probe is a question and its answer, each stamped by both hosts, as in NTP (RFC 5905, section 8). Nothing is assumed of the
way but that an answer comes after its question; so the offset lies in an interval as wide as the round trip, and the middle
of it is NTP's ((t1 - t0) + (t2 - t3)) / 2. Of probes sent together, the one with the shortest round trip counts (RFC 5905's
clock filter). Intervals of different times are carried on to now, each widened by what the clocks may have drifted apart, and
the truth lies where all overlap (K. Marzullo, S. Owicki, "Maintaining the time in a distributed system", 1983). The drift is
bounded by the lines that pass through all intervals (S. Moon, P. Skelly, D. Towsley, "Estimation and removal of clock skew
from network delay measurements", 1999).

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 16
"""Number of intervals kept; at one in 30 s these are the last eight minutes."""

MAX_DRIFT = 500e-6
"""Two clocks drift apart no faster: what RFC 5905 lets a daemon slew one (MAXFREQ). While nothing is known, it is this much."""

WANDER = 15e-6
"""A measured drift may change by this much (RFC 5905's PHI, the tolerance of a disciplined clock)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One request for the time and its answer. Realtime clocks in nanoseconds since 1970, except `monotonic_ns`."""

    sent_ns: int
    """Time of sending, by this host's clock (RFC 5905's t0)."""
    received_ns: int
    """Time of arrival, by the other host's clock (t1)."""
    replied_ns: int
    """Time of the answer, by the other host's clock (t2)."""
    returned_ns: int
    """Time of the answer's arrival, by this host's clock (t3)."""
    monotonic_ns: int
    """This host's monotonic clock when the answer came."""
    reader_ahead_ns: int = 0
    """Offset that the peer reports of a clock behind it: along a chain of bridges offsets and uncertainties add up."""
    reader_uncertainty_ns: int = 0

    @property
    def least_ns(self) -> int:
        """The offset cannot be less: the answer came after it was sent."""
        return self.replied_ns - self.returned_ns + self.reader_ahead_ns - self.reader_uncertainty_ns

    @property
    def most_ns(self) -> int:
        """The offset cannot be more: the question came after it was sent."""
        return self.received_ns - self.sent_ns + self.reader_ahead_ns + self.reader_uncertainty_ns


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far the reading host's realtime clock is ahead of this host's, with the largest possible error."""

    offset_ns: int
    uncertainty_ns: int
    drift_ppm: float
    """Growth of the offset, in parts per million."""
    drift_uncertainty_ppm: float
    at_ns: int
    """Time at which the offset holds, by this host's realtime clock."""
    age_ns: int = 0
    """Time since the last answer of the other clock."""

    def ahead_ns(self, local_ns: int) -> int:
        """The offset at `local_ns`, this host's realtime clock."""
        return self.offset_ns + round((local_ns - self.at_ns) * self.drift_ppm * 1e-6)

    def local_ns(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,): what this host's clock showed when the reading host's showed `times_ns`."""
        import numpy as np

        rate = self.drift_ppm * 1e-6
        since_ns = times_ns - (self.at_ns + self.offset_ns)
        local: NDArray[np.int64] = self.at_ns + since_ns - np.rint(since_ns * (rate / (1 + rate))).astype(np.int64)
        return local

    def error_ns(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,): how wrong each of `local_ns(times_ns)` may be at the most; it grows with the distance from `at_ns`."""
        import numpy as np

        distance_ns = np.abs(times_ns - (self.at_ns + self.offset_ns))
        error: NDArray[np.int64] = self.uncertainty_ns + np.ceil(
            distance_ns * (self.drift_uncertainty_ppm * 1e-6)
        ).astype(np.int64)
        return error


Clock = Callable[[], ClockOffset | None]
"""Gives what is known now; None while nothing is."""


@dataclass(frozen=True, slots=True)
class KnownClock:
    """A clock that was asked once, and always answers the same."""

    known: ClockOffset | None

    def __call__(self) -> ClockOffset | None:
        return self.known


def same_clock(at_ns: int) -> ClockOffset:
    """Return the offset between two processes that read the same clock: zero."""
    return ClockOffset(0, 0, 0.0, 0.0, at_ns)


@dataclass(frozen=True, slots=True)
class _Interval:
    """Bounds of the offset at one time, in nanoseconds from the tracker's base."""

    at_ns: int
    least: int
    most: int


class OffsetTracker:
    """Takes the probes of one other clock as they come, and tells the offset at any time. Not for several threads at once."""

    def __init__(self) -> None:
        self._kept: deque[_Interval] = deque(maxlen=WINDOW)
        self._base_ns = 0
        """Offsets are counted from here, so that floating point has room for nanoseconds."""
        self._drift = 0.0
        self._drift_error = MAX_DRIFT
        self.steps = 0
        """Number of times that a clock was set, so that all intervals had to be dropped."""

    def add(self, probes: Sequence[Probe]) -> None:
        """Learn from probes that were sent together, at least one."""
        best = min(probes, key=lambda probe: probe.most_ns - probe.least_ns)
        if best.most_ns < best.least_ns:
            return  # an answer before its question: a clock was set in between
        # The bounds hold for moments of the round trip, and the clocks drift during it, too.
        drifted_ns = int(MAX_DRIFT * (best.returned_ns - best.sent_ns)) + 1
        least_ns, most_ns = best.least_ns - drifted_ns, best.most_ns + drifted_ns
        if not self._kept:
            self._base_ns = least_ns
        new = _Interval(best.monotonic_ns, least_ns - self._base_ns, most_ns - self._base_ns)
        if self._kept:
            least, most = self._carried(new.at_ns)
            if new.most < least or new.least > most:
                self.steps += 1
                self._kept.clear()
                self._base_ns = least_ns
                new = _Interval(new.at_ns, 0, most_ns - least_ns)
        self._kept.append(new)
        self._learn_drift()

    def offset(self, monotonic_ns: int, realtime_ns: int) -> ClockOffset | None:
        """Return the estimate for this time, given by both clocks of this host; None before the first probe."""
        if not self._kept:
            return None
        least, most = self._carried(monotonic_ns)
        return ClockOffset(
            offset_ns=self._base_ns + round((least + most) / 2),
            uncertainty_ns=int((most - least) / 2) + 1,
            drift_ppm=self._drift * 1e6,
            drift_uncertainty_ppm=(self._drift_error + WANDER) * 1e6,
            at_ns=realtime_ns,
            age_ns=max(0, monotonic_ns - self._kept[-1].at_ns),
        )

    def _learn_drift(self) -> None:
        """Bound the drift by all straight lines through the intervals; if there is none, drop the oldest interval."""
        while True:
            slowest, fastest = -MAX_DRIFT, MAX_DRIFT
            for before, after in combinations(self._kept, 2):
                elapsed_ns = after.at_ns - before.at_ns
                if elapsed_ns > 0:
                    slowest = max(slowest, (after.least - before.most) / elapsed_ns)
                    fastest = min(fastest, (after.most - before.least) / elapsed_ns)
            if slowest <= fastest:
                break
            self._kept.popleft()
        self._drift = (slowest + fastest) / 2
        self._drift_error = (fastest - slowest) / 2

    def _carried(self, at_ns: int) -> tuple[float, float]:
        """Return the overlap of all intervals carried to `at_ns`; the newest interval alone if they do not overlap."""
        carried = []
        for interval in self._kept:
            elapsed_ns = at_ns - interval.at_ns
            moved, widened = self._drift * elapsed_ns, (self._drift_error + WANDER) * abs(elapsed_ns)
            carried.append((interval.least + moved - widened, interval.most + moved + widened))
        least, most = max(one[0] for one in carried), min(one[1] for one in carried)
        return (least, most) if least <= most else carried[-1]


__all__ = [
    "MAX_DRIFT",
    "WANDER",
    "WINDOW",
    "Clock",
    "ClockOffset",
    "KnownClock",
    "OffsetTracker",
    "Probe",
    "same_clock",
]

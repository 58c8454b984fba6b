"""The decisions of a recorder: when a new segment begins, which old ones go, when to stop, whether a rate is right.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHANNELS = 10_000
"""Channels of one file; each epoch of a stream takes one, and MCAP numbers them with 16 bits."""

RATE_TOLERANCE = 0.1
RATE_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a segment is full."""

    size_bytes: int = 1 << 30
    duration_s: float = 3600.0

    def reason(self, size_bytes: int, age_s: float, channels: int) -> str | None:
        """Return why a new segment is due; None while it is not."""
        if size_bytes >= self.size_bytes:
            return f"the segment has reached {self.size_bytes} bytes"
        if age_s >= self.duration_s:
            return f"the segment has reached {self.duration_s:g} s"
        if channels >= MAX_CHANNELS:
            return f"the segment has {MAX_CHANNELS} channels"
        return None


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of a recording stays on the disk; None for all of it."""

    segments: int | None = None
    size_bytes: int | None = None

    def surplus(self, sizes_bytes: Sequence[int]) -> int:
        """Return how many of these segments, oldest first, to remove. The newest, which is being written, always stays.

        >>> Keep(segments=2).surplus([5, 5, 5])
        1
        """
        most = len(sizes_bytes) - 1
        gone = 0
        if self.segments is not None:
            gone = max(0, len(sizes_bytes) - self.segments)
        if self.size_bytes is not None:
            rest = sum(sizes_bytes[gone:])
            while gone < most and rest > self.size_bytes:
                rest -= sizes_bytes[gone]
                gone += 1
        return max(0, min(gone, most))


@dataclass(frozen=True, slots=True)
class Limits:
    """When a recording is complete; None disables a limit."""

    packets: int | None = None
    duration_s: float | None = None
    until_realtime_ns: int | None = None
    at_end: bool = False

    def reached(self, *, packets: int, elapsed_s: float, realtime_ns: int, ended: bool) -> str | None:
        """Return why it is complete; None while it is not."""
        if self.packets is not None and packets >= self.packets:
            return f"{self.packets} packets are recorded"
        if self.duration_s is not None and elapsed_s >= self.duration_s:
            return f"{self.duration_s:g} s are recorded"
        if self.until_realtime_ns is not None and realtime_ns >= self.until_realtime_ns:
            return "the time to stop has come"
        if self.at_end and ended:
            return "every stream has ended"
        return None


class RateWatch:
    """Detects when a stream has no packets or is off its nominal rate, and when that is over. Times are handed in."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._complaint = ""

    def look(self, packets: int, nominal_hz: float, now_s: float) -> str | None:
        """Note the counter; return a sentence if the state of the rate has changed."""
        self._seen.append((now_s, packets))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= RATE_WINDOW_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        if now_s - first_s < RATE_WINDOW_S:
            return None
        rate = (packets - first) / (now_s - first_s)
        kind = "" if not nominal_hz or abs(rate - nominal_hz) <= RATE_TOLERANCE * nominal_hz else "off"
        if packets == first:
            kind = "nothing"
        before, self._complaint = self._complaint, kind
        if kind == before:
            return None
        if kind == "nothing":
            return f"gives nothing: no packet for {RATE_WINDOW_S:g} s"
        if kind == "off":
            return f"gives {rate:,.1f} packets/s where its profile says {nominal_hz:,.1f}"
        return f"is well again: {rate:,.1f} packets/s"

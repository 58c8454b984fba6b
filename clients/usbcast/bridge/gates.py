"""Gates: when a bridge that carries a part may fetch more, and how much. Times are monotonic nanoseconds.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast.bridge.choice import Choice
from usbcast.receiving.fetching import Gate
from usbcast.receiving.pace import MOST_BYTES

SECOND_NS = 1_000_000_000
BURST_NS = SECOND_NS
"""An unused limit accumulates for at most this time."""

OPEN_NS = 5 * SECOND_NS
"""A client that asked for the stream within this time is a subscriber; each subscriber reports once a second."""


class LatestGate:
    """Opens at a fixed rate."""

    always = True

    def __init__(self, rate_hz: float) -> None:
        self._gap_ns = int(SECOND_NS / rate_hz)
        self._next_ns = 0

    def budget(self, now_ns: int) -> int:
        return MOST_BYTES if now_ns >= self._next_ns else 0

    def due_ns(self, now_ns: int) -> int:
        return max(now_ns, self._next_ns)

    def took(self, size_bytes: int, now_ns: int) -> None:  # noqa: ARG002 - the size does not matter
        # On a fixed grid, so that the rate is exact; missed openings are not made up for.
        self._next_ns = max(self._next_ns + self._gap_ns, now_ns)


class LimitGate:
    """A token bucket: a batch may overdraw it, and then it must fill up again first.

    >>> gate = LimitGate(1000)
    >>> gate.budget(0), gate.took(3000, 0), gate.budget(0), gate.due_ns(0), gate.budget(2_500_000_000)
    (1000, None, 0, 2001000000, 500)
    """

    always = True

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._tokens = float(bytes_per_s) * BURST_NS / SECOND_NS
        self._at_ns: int | None = None

    def budget(self, now_ns: int) -> int:
        self._fill(now_ns)
        return max(0, min(int(self._tokens), MOST_BYTES))

    def due_ns(self, now_ns: int) -> int:
        self._fill(now_ns)
        return now_ns + max(0, int((1 - self._tokens) * SECOND_NS / self._rate))

    def took(self, size_bytes: int, now_ns: int) -> None:
        self._fill(now_ns)
        self._tokens -= size_bytes

    def _fill(self, now_ns: int) -> None:
        if self._at_ns is not None:
            most = self._rate * BURST_NS / SECOND_NS
            self._tokens = min(most, self._tokens + (now_ns - self._at_ns) * self._rate / SECOND_NS)
        self._at_ns = now_ns


class DemandGate:
    """Open while somebody subscribes."""

    always = False

    def __init__(self) -> None:
        self.asked_ns: int | None = None
        """When a client last asked for the stream."""

    def budget(self, now_ns: int) -> int:
        return MOST_BYTES if self.is_open(now_ns) else 0

    def due_ns(self, now_ns: int) -> int:
        return now_ns + SECOND_NS // 10

    def took(self, size_bytes: int, now_ns: int) -> None:
        """No-op: the size does not matter."""

    def is_open(self, now_ns: int) -> bool:
        return self.asked_ns is not None and now_ns - self.asked_ns < OPEN_NS


def gate_of(choice: Choice) -> Gate | None:
    """Return the gate for this choice; None if it needs none."""
    if choice.latest_hz:
        return LatestGate(choice.latest_hz)
    if choice.limit:
        return LimitGate(choice.limit)
    return DemandGate() if choice.on_demand else None

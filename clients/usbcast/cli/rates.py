"""Rates of counters over the last seconds, for live views."""

from __future__ import annotations

from collections import deque

WINDOW_S = 2.0


class Rate:
    """Growth of a counter over the last two seconds. The caller supplies the time.

    >>> rate = Rate()
    >>> rate.at(0, 10.0), rate.at(100, 11.0)
    (0.0, 100.0)
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, count: int, now_s: float) -> float:
        """Note that the counter stands at `count`; return its growth per second."""
        self._seen.append((now_s, count))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (count - first) / (now_s - first_s) if now_s > first_s else 0.0

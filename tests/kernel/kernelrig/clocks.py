"""How far the guest's clock is ahead of the host's, measured again and again: an emulated machine's clock drifts."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from types import TracebackType

from usbcast import NodeClient
from usbcast_schemas.errors import UsbcastError

REQUESTS = 12
EVERY_S = 3.0


class ClockTrack:
    """Asks the node by a thread of its own until it is closed; a context manager that closes it.

    Of some requests the quickest counts (RFC 5905, clock filter); between two such moments the offset is a straight line.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._points: list[tuple[int, int, int]] = []
        self._over = threading.Event()
        self._measure()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        self._thread.start()

    def __enter__(self) -> ClockTrack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def uncertainty_ns(self) -> int:
        """The worst of all moments, half of the time that the quickest request was under way."""
        return max(uncertainty_ns for _, _, uncertainty_ns in self._points)

    @property
    def drift_ns(self) -> int:
        """By how much the offset has changed between the first moment and the last."""
        return self._points[-1][1] - self._points[0][1]

    def offset_ns(self, now_ns: int) -> int:
        """How far the node's monotonic clock was ahead of the host's at `now_ns` of the latter."""
        points = self._points
        after = bisect_right(points, (now_ns, 0, 0))
        if after in (0, len(points)):
            return points[min(after, len(points) - 1)][1]
        (begin_ns, first, _), (end_ns, second, _) = points[after - 1], points[after]
        return first + (second - first) * (now_ns - begin_ns) // (end_ns - begin_ns)

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._measure()
            except UsbcastError:  # the node has ended
                return

    def _measure(self) -> None:
        found = []
        with NodeClient(self._endpoint, timeout_s=10) as node:
            for _ in range(REQUESTS):
                sent_ns = time.monotonic_ns()
                reply = node.clock()
                got_ns = time.monotonic_ns()
                middle_ns = (sent_ns + got_ns) // 2
                there_ns = (reply.received_monotonic_ns + reply.replied_monotonic_ns) // 2
                away_ns = got_ns - sent_ns - (reply.replied_monotonic_ns - reply.received_monotonic_ns)
                found.append((away_ns // 2, middle_ns, there_ns - middle_ns))
        uncertainty_ns, middle_ns, offset_ns = min(found)
        self._points.append((middle_ns, offset_ns, uncertainty_ns))

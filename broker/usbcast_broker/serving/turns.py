"""Turns: requests that wait to be answered; the connection for which the least work was done comes first.

So a client that asks for little waits for one answer at the most, however many others ask for much. Work is bounded as well:
a connection with more than its share of the processor waits, whether or not anybody else
asks, as the processor is needed to read the device.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from usbcast_broker.access.rate_limit import HALF_LIFE_NS

MAX_OF_ONE = 16
"""Requests of one connection that wait."""

MAX_WAITING = 16_384
"""Most requests that wait, over all connections."""

MAX_WORK_NS = 180_000_000
"""Recent work for a connection beyond which it waits: with the half-life, a quarter of a processor in the long run."""

_DUE_BEFORE_NS = HALF_LIFE_NS * math.log2(MAX_WORK_NS)
"""Time before a connection's work is forgotten at which less than MAX_WORK_NS of it is left."""

T = TypeVar("T")


class Turns(Generic[T]):
    """Pure; used by one thread. `forgotten_ns` says when the work done for a connection is forgotten (`RateLimiter`)."""

    def __init__(self, forgotten_ns: Callable[[bytes], float]) -> None:
        self._forgotten_ns = forgotten_ns
        self._waiting: dict[bytes, deque[T]] = {}
        """Waiting requests by connection, in the order in which the connections began to wait."""
        self._count = 0

    def add(self, connection: bytes, request: T) -> bool:
        """Take a request; False if there is no room for it."""
        waiting = self._waiting.get(connection)
        if self._count >= MAX_WAITING or (waiting is not None and len(waiting) >= MAX_OF_ONE):
            return False
        if waiting is None:
            waiting = self._waiting[connection] = deque()
        waiting.append(request)
        self._count += 1
        return True

    def next(self, now_ns: int) -> T | None:
        """Take out the request whose turn it is; None if none is due."""
        if not self._waiting:
            return None
        connection = min(self._waiting, key=self._forgotten_ns)
        if self._forgotten_ns(connection) - _DUE_BEFORE_NS > now_ns:
            return None
        waiting = self._waiting.pop(connection)
        request = waiting.popleft()
        self._count -= 1
        if waiting:  # behind those that have waited meanwhile
            self._waiting[connection] = waiting
        return request

    def forget(self, connection: bytes) -> None:
        """Drop what waits of a connection that was cut."""
        self._count -= len(self._waiting.pop(connection, ()))

    def due_ns(self) -> float | None:
        """Return when the next request is due, possibly in the past; None if none waits."""
        if not self._waiting:
            return None
        return min(map(self._forgotten_ns, self._waiting)) - _DUE_BEFORE_NS

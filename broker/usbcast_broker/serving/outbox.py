"""Answers for which a client has no room at the moment: kept for a while, within bounds, and tried again."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from usbcast_schemas.batch import Buffer

MAX_CLIENTS = 64
MAX_ANSWERS = 1_000
MAX_BYTES = 1024 * 1024
"""Most bytes kept for one client. The client asks again for a larger answer, the batches of a fetch."""

MAX_TOTAL_BYTES = 16 * 1024 * 1024
"""Most bytes kept for all clients together."""

KEPT_NS = 5_000_000_000
"""Time after which an answer that the client has not taken is given up."""

C = TypeVar("C")
"""A client, of any kind that can be the key of a dictionary."""


class _Waiting:
    """Answers for one client, the oldest first, each with the time at which it began to wait."""

    __slots__ = ("answers", "size_bytes")

    def __init__(self) -> None:
        self.answers: deque[tuple[Sequence[Buffer], int]] = deque()
        self.size_bytes = 0


class Outbox(Generic[C]):
    """Used by one thread; monotonic nanoseconds are handed in."""

    def __init__(self) -> None:
        self._clients: OrderedDict[C, _Waiting] = OrderedDict()
        self._size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._clients)

    def waits(self, client: C) -> bool:
        """Return True if earlier answers to `client` wait, so that later ones must wait behind them."""
        return client in self._clients

    def keep(self, client: C, frames: Sequence[Buffer], now_ns: int, *, first: bool = False) -> bool:
        """Take an answer to `client`; False if that is beyond the bounds. One that goes `first` may go twice as far beyond."""
        further = 2 if first else 1
        size = sum(map(len, frames))
        waiting = self._clients.get(client)
        if self._size_bytes + size > MAX_TOTAL_BYTES * further:
            return False
        if waiting is None:
            if len(self._clients) >= MAX_CLIENTS or size > MAX_BYTES:
                return False
            waiting = self._clients[client] = _Waiting()
        elif len(waiting.answers) >= MAX_ANSWERS * further or waiting.size_bytes + size > MAX_BYTES * further:
            return False
        if first:
            waiting.answers.appendleft((frames, now_ns))
        else:
            waiting.answers.append((frames, now_ns))
        waiting.size_bytes += size
        self._size_bytes += size
        return True

    def retry(self, send: Callable[[C, Sequence[Buffer]], bool], now_ns: int) -> int:
        """Send as many answers as there is room for; return the number given up because they waited for too long.

        `send` returns False if there is no room; an answer that can never be sent counts as sent.
        """
        given_up = 0
        for client, waiting in list(self._clients.items()):
            while waiting.answers:
                frames, since_ns = waiting.answers[0]
                if now_ns - since_ns > KEPT_NS:
                    given_up += 1
                elif not send(client, frames):
                    break
                waiting.answers.popleft()
                size = sum(map(len, frames))
                waiting.size_bytes -= size
                self._size_bytes -= size
            if not waiting.answers:
                del self._clients[client]
        return given_up

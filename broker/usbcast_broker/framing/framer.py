"""The interface of every framer, and the shared part of those that scan: held bytes, and runs of thrown-away bytes.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from usbcast_broker.flow import EMPTY, Discarded, Framed, Packets

JOINED = "joined in mid-packet"


class Framer(Protocol):
    """Cuts a stream of bytes into packets. What it returns does not depend on how the bytes were divided among calls.

    Never raises, whatever the bytes; fed = packet bytes + overhead + discarded + held, at every moment.
    """

    def feed(self, data: bytes | memoryview) -> Framed:
        """Take the next bytes of the stream; return the packets that they complete and what was thrown away, in order."""

    def reset(self, reason: str, missing_bytes: int = 0) -> Framed:
        """Throw away the partial packet that is held, for `reason`; what comes next may begin in the middle of a packet.

        `missing_bytes` is how much of the stream is missing here, where that is known.
        """

    @property
    def held_bytes(self) -> int:
        """Bytes of a packet that is not complete yet."""

    @property
    def bypass_size(self) -> int:
        """Packet size if the next transfers, each of whole packets, may bypass framing: no byte would be looked at; else 0."""


class Pieces:
    """Collects what one call of a framer found, in order."""

    __slots__ = ("items", "overhead_bytes", "packet_bytes")

    def __init__(self) -> None:
        self.items: list[Packets | Discarded] = []
        self.packet_bytes = 0
        self.overhead_bytes = 0

    def packets(self, payload: bytes | memoryview, count: int, size: int, ends: tuple[int, ...] = ()) -> None:
        self.items.append(Packets(payload, count, size, ends))
        self.packet_bytes += len(payload)

    def discard(self, size_bytes: int, reason: str) -> None:
        last = self.items[-1] if self.items else None
        if isinstance(last, Discarded) and last.reason == reason:
            self.items[-1] = Discarded(last.size_bytes + size_bytes, reason)
        else:
            self.items.append(Discarded(size_bytes, reason))

    def framed(self) -> Framed:
        if not self.items and not self.overhead_bytes:
            return EMPTY
        return Framed(tuple(self.items), self.overhead_bytes, self.packet_bytes)


class ScanningFramer(ABC):
    """Packets recognised by a pattern at their head, their size, their checksum, or all of these.

    If there is no valid packet at the expected place, one byte is thrown away and the next possible start is tried, so
    that no whole packet behind garbage is missed. A run of thrown-away bytes has the reason of its first one.
    """

    _INCOMPLETE = ""
    _NO_SYNC = "resynchronise"

    def __init__(self, sync: bytes) -> None:
        self._sync = sync
        self._held = bytearray()
        self._need = 1
        """Number of held bytes that the next decision needs."""
        self._joined = False
        self._run_reason = ""

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    @property
    def bypass_size(self) -> int:
        return 0

    def feed(self, data: bytes | memoryview) -> Framed:
        if not isinstance(data, bytes):
            data = bytes(data)
        if len(self._held) + len(data) < self._need:
            self._held += data
            return EMPTY
        if self._held:
            data = b"".join((self._held, data))
            self._held.clear()
        return self._cut(data)

    def reset(self, reason: str, missing_bytes: int = 0) -> Framed:  # noqa: ARG002
        pieces = Pieces()
        if self._held:
            pieces.discard(len(self._held), reason)
            self._held.clear()
        self._need, self._joined, self._run_reason = 1, False, ""
        return pieces.framed()

    @abstractmethod
    def _run(self, data: bytes, view: memoryview, start: int, pieces: Pieces) -> int:
        """Add the whole packets that stand back to back from `start` on; return where they end."""

    @abstractmethod
    def _fault(self, data: bytes, view: memoryview, start: int) -> str | None:
        """Return why no packet begins at `start`; None if one does; _INCOMPLETE, with _need set, if more bytes will tell."""

    def _cut(self, data: bytes) -> Framed:
        pieces = Pieces()
        view = memoryview(data)
        at = 0
        while True:
            end = self._run(data, view, at, pieces)
            if end > at:
                at, self._joined, self._run_reason = end, True, ""
            fault = self._fault(data, view, at)
            if not fault:
                break
            self._run_reason = self._run_reason or (fault if self._joined else JOINED)
            start = self._next_start(data, view, at + 1)
            pieces.discard(start - at, self._run_reason)
            at = start
        self._held += view[at:]
        return pieces.framed()

    def _next_start(self, data: bytes, view: memoryview, at: int) -> int:
        """The first place from `at` on where a packet begins or, as far as the bytes go, might."""
        while True:
            found = data.find(self._sync, at)
            if found < 0:
                return self._sync_tail(data, at)
            if not self._fault(data, view, found):
                return found
            at = found + 1

    def _sync_tail(self, data: bytes, at: int) -> int:
        """Return the start of the trailing bytes that may begin a sync pattern."""
        for size in range(min(len(self._sync) - 1, len(data) - at), 0, -1):
            if data.endswith(self._sync[:size]):
                return len(data) - size
        return len(data)

    def _sync_fault(self, data: bytes, start: int) -> str | None:
        """Return the same as `_fault`, for the sync pattern alone."""
        if data.startswith(self._sync, start):
            return None
        there = data[start : start + len(self._sync)]
        if not self._sync.startswith(there):
            return self._NO_SYNC
        self._need = len(there) + 1
        return self._INCOMPLETE

"""How large reads are, so that no byte waits in one for long.

A bulk or interrupt read ends when it is full or a short packet comes (USB 2.0 specification, 5.8.3), and nothing tells
how far it has come. A read of one packet holds nothing back, a larger one may: it has to be full soon, or be ended.

Rule: a read is half as large as what came during the last `latency_ns`, in whole packets, so that a device that goes on
as before fills it in half of that time. What is still larger, because the device has slowed down, is ended by whoever
reads when it has been the oldest for `latency_ns`.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from typing import Final

MAX_READS: Final = 64
"""Queued at most: small reads are more of them, so that as many bytes are queued as with large ones."""


class ReadSizes:
    """Tells it with `count` what came; `next_bytes` is the size of the next read, always whole packets.

    With `latency_ns` 0 a read may hold bytes back for ever, and `next_bytes` is always `most_bytes`. With `whole` it is
    so too, but reads are ended in time.
    """

    def __init__(
        self,
        most_bytes: int,
        packet_bytes: int = 1,
        latency_ns: int = 0,
        *,
        bytes_per_s: float = 0.0,
        transaction_bytes: int | None = None,
        can_end: bool = True,
        whole: bool = False,
    ) -> None:
        """`bytes_per_s`: what the device means to send, 0 if unknown.

        `packet_bytes`: what reads are a multiple of; `transaction_bytes` (less only where an endpoint has several
        transactions in a microframe): what one has to hold to be sure to have ended. `can_end`: whether a read that is
        ended keeps what it holds on this system.
        """
        self.most_bytes = most_bytes
        self.next_bytes = most_bytes
        self._packet_bytes = packet_bytes
        self._transaction_bytes = transaction_bytes or packet_bytes
        self._latency_ns = latency_ns
        self._can_end = can_end
        self._adapts = latency_ns > 0 and not whole
        self._before = bytes_per_s * latency_ns / 1e9
        self._came = 0
        self._since_ns: int | None = None
        self._last_ns = 0
        if self._adapts:
            self._choose()

    def reads(self, queue: int) -> int:
        """How many reads there may be, if `queue` of the largest size are wanted."""
        return max(queue, MAX_READS) if self._adapts else queue

    def holds_back(self, size_bytes: int) -> bool:
        """Whether a read of this size may hold bytes while the device is still."""
        return size_bytes > self._transaction_bytes

    def deadline_ns(self, size_bytes: int, oldest_since_ns: int) -> int | None:
        """When a read has to be ended that has been the oldest since then; None: never."""
        if not (self._latency_ns and self._can_end and self.holds_back(size_bytes)):
            return None
        return oldest_since_ns + self._latency_ns

    def count(self, size_bytes: int, now_ns: int) -> None:
        """So many bytes have come since the last time."""
        if not self._adapts:
            return
        latency_ns, since_ns = self._latency_ns, self._since_ns
        if since_ns is None:
            self._since_ns = since_ns = self._last_ns = now_ns
        gap_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if now_ns - since_ns >= latency_ns:
            self._before = self._came * latency_ns / (now_ns - since_ns)
            self._since_ns, self._came = now_ns, 0
        # What was collected late came over all of that time.
        self._came += size_bytes if gap_ns <= latency_ns else size_bytes * latency_ns // gap_ns
        self._choose()

    def _choose(self) -> None:
        packets = int(max(self._before, self._came)) // (2 * self._packet_bytes)
        self.next_bytes = min(self.most_bytes, max(1, packets) * self._packet_bytes)

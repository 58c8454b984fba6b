"""The host controller of a simulated device: fills a read with what the device sends, and ends it.

As in the USB 2.0 specification, 5.8.3: a read ends when it is full or a short packet comes, one of no length included. A
transfer of whole packets goes on in the same read; what that read holds when it is cancelled or its time is up is kept.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast_broker.sources.simulator.source import Signal, Source


class Read:
    """A read under way."""

    def __init__(self, source: Source, room_bytes: int, packet_bytes: int) -> None:
        self._source = source
        self._room_bytes = room_bytes
        self._packet_bytes = packet_bytes
        self._parts: list[bytes] = []
        self.held_bytes = 0
        """Bytes taken so far."""

    def poll(self, now_ns: int) -> bytes | Signal | None:
        """Return the outcome; None while the read is under way.

        If the device fails, the bytes held are returned first: the failure belongs to the next read.
        """
        source = self._source
        while True:
            left_bytes = self._room_bytes - self.held_bytes
            if self.held_bytes and source.fails(now_ns, left_bytes):
                return self.take()
            sent = source.poll(now_ns, left_bytes)
            if not isinstance(sent, bytes):
                return sent
            self._parts.append(sent)
            self.held_bytes += len(sent)
            short = not sent or len(sent) % self._packet_bytes != 0
            if short or self.held_bytes >= self._room_bytes:
                return self.take()

    def take(self) -> bytes:
        """Return the bytes held, after a cancellation or a timeout."""
        parts, self._parts, self.held_bytes = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def wake_ns(self) -> int | None:
        """Return the time of the next poll; None if only a change of the device can complete the read."""
        return self._source.wake_ns(self._room_bytes - self.held_bytes)

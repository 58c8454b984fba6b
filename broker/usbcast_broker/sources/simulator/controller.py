"""The host controller of a simulated device: fills a read with what the device sends, and ends it.

As in the USB 2.0 specification, 5.8.3: a read ends when it is full or a short packet comes, one of no length included. A
transfer of whole packets goes on in the same read; what that read holds when it is cancelled or its time is up is kept.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast_broker.sources.simulator.source import Signal, Source


class Read:
    """One read under way."""

    def __init__(self, source: Source, room_bytes: int, packet_bytes: int) -> None:
        self._source = source
        self._room_bytes = room_bytes
        self._packet_bytes = packet_bytes
        self._parts: list[bytes] = []
        self.held_bytes = 0
        """How much it has taken so far."""

    def poll(self, now_ns: int) -> bytes | Signal | None:
        """How it ends; None while it is under way.

        What it holds when the device fails comes first: the failure is the next read's.
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
        """What it holds: it is cancelled, or its time is up."""
        parts, self._parts, self.held_bytes = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def wake_ns(self) -> int | None:
        """When to poll it again; None: only when something is done to the device."""
        return self._source.wake_ns(self._room_bytes - self.held_bytes)

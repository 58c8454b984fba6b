"""Packets of one size, with or without a pattern at their head, with or without a checksum.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast_broker.flow import Discarded, Framed, Packets
from usbcast_broker.framing.checks import Check
from usbcast_broker.framing.framer import JOINED, Pieces, ScanningFramer
from usbcast_schemas.profile import Checksum


class FixedSizeFramer(ScanningFramer):
    """Without pattern and checksum it cuts every `size` bytes and cannot know whether it cuts in the right place.

    With a checksum and no pattern it slides over garbage at the cost of one checksum per byte, hence O(bytes * size); the
    profile bounds `size` there. With a pattern, only its occurrences cost a checksum.
    """

    def __init__(self, size: int, sync: bytes = b"", checksum: Checksum | None = None) -> None:
        super().__init__(sync)
        self._size = size
        self._check = Check(checksum) if checksum else None
        self._plain = not sync and checksum is None
        self._skip_bytes = 0

    def feed(self, data: bytes | memoryview) -> Framed:
        if self._skip_bytes:
            return self._skip(data)
        if self._plain and not self._held and len(data) == self._size and isinstance(data, bytes):
            return Framed((Packets(data, 1, self._size),), 0, self._size)
        return super().feed(data)

    @property
    def bypass_size(self) -> int:
        return self._size if self._plain and not self._held and not self._skip_bytes else 0

    def reset(self, reason: str, missing_bytes: int = 0) -> Framed:
        """Begin anew, as in every framer; without a sync pattern, packet boundaries are counted on over `missing_bytes`."""
        inside = len(self._held) - self._skip_bytes + missing_bytes
        self._skip_bytes = -inside % self._size if self._plain and missing_bytes else 0
        return super().reset(reason, missing_bytes)

    def _skip(self, data: bytes | memoryview) -> Framed:
        skipped = min(self._skip_bytes, len(data))
        self._skip_bytes -= skipped
        framed = super().feed(data[skipped:])
        return Framed((Discarded(skipped, JOINED), *framed.items), 0, framed.packet_bytes) if skipped else framed

    def _run(self, data: bytes, view: memoryview, start: int, pieces: Pieces) -> int:
        size = self._size
        if self._check is not None:
            end = self._check.run_end(data, start, size, self._sync)
        elif not self._sync:
            end = start + (len(data) - start) // size * size
        else:
            end = start
            while len(data) - end >= size and data.startswith(self._sync, end):
                end += size
        if end > start:
            pieces.packets(data if end - start == len(data) else view[start:end], (end - start) // size, size)
        return end

    def _fault(self, data: bytes, view: memoryview, start: int) -> str | None:
        end = start + self._size
        fault = self._sync_fault(data, start)
        if fault is not None:
            return fault
        if end > len(data):
            self._need = self._size
            return self._INCOMPLETE
        if self._check is not None and not self._check.fits(view, start, end):
            return "checksum"
        return None

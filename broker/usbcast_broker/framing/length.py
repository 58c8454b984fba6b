"""Packets that say how long they are, with or without a pattern at their head, with or without a checksum.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import struct
from typing import Final

from usbcast_broker.framing.checks import Check
from usbcast_broker.framing.framer import Pieces, ScanningFramer
from usbcast_schemas.profile import ByteOrder, Checksum

_LENGTH: Final[dict[tuple[int, str], str]] = {
    (1, "little"): "<B",
    (2, "little"): "<H",
    (4, "little"): "<I",
    (1, "big"): ">B",
    (2, "big"): ">H",
    (4, "big"): ">I",
}


class LengthFramer(ScanningFramer):
    """A wrong length is believed, if it is a possible one, until that many bytes have come: keep `max_size` small."""

    def __init__(
        self,
        *,
        offset: int,
        width: int,
        adjust: int,
        byte_order: ByteOrder,
        max_size: int,
        sync: bytes = b"",
        checksum: Checksum | None = None,
    ) -> None:
        super().__init__(sync)
        self._check = Check(checksum) if checksum else None
        self._length = struct.Struct(_LENGTH[width, byte_order])
        self._offset = offset
        self._adjust = adjust
        self._header_bytes = offset + width
        self._min_bytes = max(self._header_bytes, checksum.smallest_packet if checksum else 0)
        self._max_bytes = max_size

    def _run(self, data: bytes, view: memoryview, start: int, pieces: Pieces) -> int:
        end = start
        ends: list[int] = []
        while self._fault(data, view, end) is None:
            end += self._size_at(data, end)
            ends.append(end - start)
        if ends:
            pieces.packets(data if end - start == len(data) else view[start:end], len(ends), 0, tuple(ends))
        return end

    def _size_at(self, data: bytes, start: int) -> int:
        return int(self._length.unpack_from(data, start + self._offset)[0]) + self._adjust

    def _fault(self, data: bytes, view: memoryview, start: int) -> str | None:
        fault = self._sync_fault(data, start)
        if fault is not None:
            return fault
        available = len(data) - start
        if available < self._header_bytes:
            self._need = self._header_bytes
            return self._INCOMPLETE
        size = self._size_at(data, start)
        if not self._min_bytes <= size <= self._max_bytes:
            return "length"
        if available < size:
            self._need = size
            return self._INCOMPLETE
        if self._check is not None and not self._check.fits(view, start, start + size):
            return "checksum"
        return None

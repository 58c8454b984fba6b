"""Packets that end in a pattern: as they stand, or encoded so that the pattern cannot occur in them (COBS).

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from itertools import accumulate

from cobs import cobs

from usbcast_broker.flow import Framed
from usbcast_broker.framing.checks import Check
from usbcast_broker.framing.framer import JOINED, Pieces
from usbcast_schemas.profile import Checksum


class DelimitedFramer:
    """Packets that end in a delimiter. Without one within `max_size`, bytes are thrown away up to the next delimiter.

    Size, checksum and bound are those of the packet as it is delivered. Two delimiters in succession hold no packet.
    The first packet of an attachment is most often the tail of one: where neither a size nor a checksum can tell, it is
    thrown away.
    """

    def __init__(
        self,
        delimiter: bytes,
        *,
        max_size: int,
        keep: bool = False,
        size: int | None = None,
        checksum: Checksum | None = None,
    ) -> None:
        self._delimiter = delimiter
        self._kept = delimiter if keep else b""
        self._size = size or 0
        self._max_size = max_size
        self._check = Check(checksum) if checksum else None
        self._held = bytearray()
        self._joined = False
        self._skipping = False
        self._longest = self._longest_piece()

    def _longest_piece(self) -> int:
        """Bytes before the delimiter of the largest packet."""
        return self._max_size - len(self._kept)

    def _decode(self, piece: bytes) -> bytes | None:
        """Return the packet before a delimiter; None if the bytes are not a valid packet."""
        return piece + self._kept

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    @property
    def bypass_size(self) -> int:
        return 0

    def feed(self, data: bytes | memoryview) -> Framed:
        if not isinstance(data, bytes):
            data = bytes(data)
        pieces = Pieces()
        # Only the new bytes are searched, and as many before them as a delimiter may reach back: held bytes but once.
        reach = len(self._delimiter) - 1
        across = bytes(self._held[len(self._held) - reach :]) + data[:reach] if reach and self._held else b""
        if self._delimiter not in data and self._delimiter not in across:
            self._held += data
        else:
            *ended, rest = b"".join((self._held, data)).split(self._delimiter)
            self._held[:] = rest
            self._take(ended, pieces)
        self._bound(pieces)
        return pieces.framed()

    def reset(self, reason: str, missing_bytes: int = 0) -> Framed:  # noqa: ARG002
        pieces = Pieces()
        if self._held:
            pieces.discard(len(self._held), reason)
            self._held.clear()
        self._joined = self._skipping = False
        return pieces.framed()

    def _take(self, ended: list[bytes], pieces: Pieces) -> None:
        width = len(self._delimiter)
        good: list[bytes] = []
        for piece in ended:
            packet = self._decode(piece)
            fault = self._fault(piece, packet)
            self._joined, self._skipping = True, False
            if piece and packet and fault is None:
                good.append(packet)
                pieces.overhead_bytes += len(piece) + width - len(packet)
            elif fault is None:
                pieces.overhead_bytes += len(piece) + width
            else:
                self._flush(good, pieces)
                pieces.discard(len(piece) + width, fault)
        self._flush(good, pieces)

    def _fault(self, piece: bytes, packet: bytes | None) -> str | None:
        """Return why a piece is neither a packet nor empty."""
        if self._skipping or len(piece) > self._longest:
            return "oversized" if self._joined else JOINED
        if not piece or (packet is not None and not packet):
            return None
        if not self._joined and not self._size and self._check is None:
            return JOINED
        if packet is None:
            fault = "encoding"
        elif len(packet) > self._max_size:
            fault = "oversized"
        elif self._size and len(packet) != self._size:
            fault = "wrong size"
        elif self._check is not None and not self._check.fits(memoryview(packet), 0, len(packet)):
            fault = "checksum"
        else:
            return None
        return fault if self._joined else JOINED

    def _flush(self, good: list[bytes], pieces: Pieces) -> None:
        if good:
            ends = () if self._size else tuple(accumulate(map(len, good)))
            pieces.packets(good[0] if len(good) == 1 else b"".join(good), len(good), self._size, ends)
            good.clear()

    def _bound(self, pieces: Pieces) -> None:
        """Throw away what is held where no packet can come of it, but for the bytes that may begin a delimiter."""
        excess = len(self._held) - (len(self._delimiter) - 1)
        if excess > self._longest or (self._skipping and excess > 0):
            pieces.discard(excess, "oversized" if self._joined else JOINED)
            del self._held[:excess]
            self._skipping = True


class CobsFramer(DelimitedFramer):
    """Consistent overhead byte stuffing: S. Cheshire, M. Baker, IEEE/ACM Transactions on Networking 7(2), 1999."""

    def __init__(self, *, max_size: int, size: int | None = None, checksum: Checksum | None = None) -> None:
        super().__init__(b"\0", max_size=max_size, size=size, checksum=checksum)

    def _longest_piece(self) -> int:
        return self._max_size + self._max_size // 254 + 1

    def _decode(self, piece: bytes) -> bytes | None:
        try:
            return bytes(cobs.decode(piece))
        except cobs.DecodeError:
            return None

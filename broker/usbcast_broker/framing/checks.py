"""Checksums of packets, by the names that profiles use.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import numpy as np
from fastcrc import crc8, crc16, crc32

from usbcast_schemas.profile import Checksum

Compute = Callable[[bytes | memoryview], int]


def _xor8(data: bytes | memoryview) -> int:
    return int(np.bitwise_xor.reduce(np.frombuffer(data, np.uint8)))


def _sum8(data: bytes | memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).sum()) & 0xFF


def _sum16(data: bytes | memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).sum()) & 0xFFFF


# The CRCs are those of Greg Cook's catalogue of parametrised CRC algorithms, under the names that devices' manuals use.
METHODS: Final[dict[str, Compute]] = {
    "crc32": crc32.iso_hdlc,
    "crc32c": crc32.iscsi,
    "crc32-bzip2": crc32.bzip2,
    "crc32-mpeg2": crc32.mpeg_2,
    "crc16-arc": crc16.arc,
    "crc16-ccitt-false": crc16.ibm_3740,
    "crc16-dnp": crc16.dnp,
    "crc16-kermit": crc16.kermit,
    "crc16-maxim": crc16.maxim_dow,
    "crc16-modbus": crc16.modbus,
    "crc16-usb": crc16.usb,
    "crc16-x25": crc16.ibm_sdlc,
    "crc16-xmodem": crc16.xmodem,
    "crc8": crc8.smbus,
    "crc8-maxim": crc8.maxim_dow,
    "xor8": _xor8,
    "sum8": _sum8,
    "sum16": _sum16,
}

_STORED = {
    (1, "little"): "<B",
    (2, "little"): "<H",
    (4, "little"): "<I",
    (1, "big"): ">B",
    (2, "big"): ">H",
    (4, "big"): ">I",
}


FIRST_CHUNK: Final = 8
"""Packets from which on numpy is faster than a loop."""

MOST_AT_ONCE: Final = 1024


class Check:
    """Tells whether the checksum in a packet is that of the packet."""

    __slots__ = ("_compute", "_dtype", "_smallest", "_spec", "_stored")

    def __init__(self, spec: Checksum) -> None:
        self._spec = spec
        self._compute = METHODS[spec.method]
        self._stored = struct.Struct(_STORED[spec.width, spec.byte_order])
        self._dtype = np.dtype(f"{'<' if spec.byte_order == 'little' else '>'}u{spec.width}")
        self._smallest = spec.smallest_packet

    def fits(self, view: memoryview, start: int, end: int) -> bool:
        """Return True if the packet at [start, end) has a valid checksum; False if it is too short for one."""
        size = end - start
        if size < self._smallest:
            return False
        at = self._spec.position(size)
        covered = view[start + self._spec.start : end if self._spec.precedes else start + at]
        return bool(self._compute(covered) == self._stored.unpack_from(view, start + at)[0])

    def run_end(self, data: bytes, start: int, size: int, sync: bytes) -> int:
        """Return the end offset of the run of valid packets (`size` bytes each, starting with `sync`) that begins at `start`.

        Checks more and more packets at once, as long as all are valid.
        """
        compute, unpack = self._compute, self._stored.unpack_from
        at = self._spec.position(size)
        first, last = self._spec.start, size if self._spec.precedes else at
        chunk = FIRST_CHUNK
        while (count := min((len(data) - start) // size, chunk)) > 0:
            end = start + count * size
            # Slices of bytes are copies, and yet cost half of what views do.
            if count < FIRST_CHUNK:
                found = [
                    data.startswith(sync, begin)
                    and compute(data[begin + first : begin + last]) == unpack(data, begin + at)[0]
                    for begin in range(start, end, size)
                ]
            else:
                heads = np.ndarray((count, len(sync)), np.uint8, data, start, (size, 1))
                stored = np.ndarray((count,), self._dtype, data, start + at, (size,))
                computed = [compute(data[begin + first : begin + last]) for begin in range(start, end, size)]
                good = np.asarray(computed, np.uint32) == stored
                if sync:
                    good &= (heads == np.frombuffer(sync, np.uint8)).all(axis=1)
                found = [True] * count if good.all() else good.tolist()
            if not all(found):
                return start + found.index(False) * size
            start = end
            chunk = min(2 * chunk, MOST_AT_ONCE)
        return start

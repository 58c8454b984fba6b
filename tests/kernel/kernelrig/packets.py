"""Packets that prove themselves: a number to see what is missing, a CRC-32 to see what is damaged."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

SIZE = 112

_PATTERN = bytes((i * 29 + 5) & 0xFF for i in range(92))
_HEAD = struct.Struct("<4sIQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def numbered_packet(number: int, sent_ns: int) -> bytes:
    """A packet as the shipped profile ftdi-numbered describes it."""
    body = _HEAD.pack(b"PKT1", number, sent_ns) + _PATTERN
    return body + _U32.pack(zlib.crc32(body))


@dataclass(frozen=True)
class Shape:
    """Where a packet has its number and its time, and what it begins with. The last four bytes are the CRC-32 of the rest."""

    number_offset: int
    time_offset: int
    time_unit_ns: int
    begins: bytes = b""

    def made_ns(self, packet: bytes) -> int:
        """When the packet was made, on the monotonic clock of the host."""
        return int(_U64.unpack_from(packet, self.time_offset)[0]) * self.time_unit_ns


SHAPES = {"ftdi-numbered": Shape(4, 8, 1, b"PKT1"), "first-case": Shape(0, 4, 1000)}
"""By the name of the profile."""


@dataclass
class Examiner:
    """Takes packets in the order in which they were delivered, and what lies between them, and keeps the story.

    The story is a list of ["packets", first number, last number] and of whatever else was told, in order: a run of packets
    ends where a number does not follow on the one before.
    """

    shape: Shape
    good: int = 0
    damaged: int = 0
    story: list[list[str | int]] = field(default_factory=list)

    def take(self, packet: bytes) -> bool:
        """Whether the packet is whole."""
        if (
            len(packet) != SIZE
            or not packet.startswith(self.shape.begins)
            or _U32.unpack_from(packet, SIZE - 4)[0] != zlib.crc32(packet[:-4])
        ):
            self.damaged += 1
            self.tell("damaged")
            return False
        self.good += 1
        number = int(_U32.unpack_from(packet, self.shape.number_offset)[0])
        last = self.story[-1] if self.story else ["nothing"]
        if last[0] == "packets" and last[2] == number - 1:
            last[2] = number
        else:
            self.tell("packets", number, number)
        return True

    def tell(self, *what: str | int) -> None:
        self.story.append(list(what))

    @property
    def last_number(self) -> int:
        """The number of the packet that came last; -1 before any."""
        runs = [entry for entry in self.story if entry[0] == "packets"]
        return int(runs[-1][2]) if runs else -1

"""Which framer serves which framing method of a profile.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from typing import assert_never

from usbcast_broker.framing.delimited import CobsFramer, DelimitedFramer
from usbcast_broker.framing.fixed import FixedSizeFramer
from usbcast_broker.framing.framer import Framer
from usbcast_broker.framing.length import LengthFramer
from usbcast_schemas.profile import CobsFraming, DelimiterFraming, FixedFraming, Framing, LengthFraming, SyncFraming


def make_framer(framing: Framing) -> Framer:
    """A framer for the `framing` table of a profile that has been checked."""
    match framing:
        case FixedFraming():
            return FixedSizeFramer(framing.size, checksum=framing.checksum)
        case LengthFraming():
            return _length(framing, framing.length_offset, framing.length_width)
        case DelimiterFraming():
            return DelimitedFramer(
                framing.delimiter,
                max_size=framing.max_size,
                keep=framing.keep,
                size=framing.size,
                checksum=framing.checksum,
            )
        case CobsFraming():
            return CobsFramer(max_size=framing.max_size, size=framing.size, checksum=framing.checksum)
        case SyncFraming():
            if framing.length_offset is not None and framing.length_width is not None:
                return _length(framing, framing.length_offset, framing.length_width, framing.sync)
            return FixedSizeFramer(framing.packet_size, framing.sync, framing.checksum)
        case _:
            assert_never(framing)


def _length(framing: LengthFraming | SyncFraming, offset: int, width: int, sync: bytes = b"") -> LengthFramer:
    return LengthFramer(
        offset=offset,
        width=width,
        adjust=framing.length_adjust,
        byte_order=framing.byte_order,
        max_size=framing.max_size,
        sync=sync,
        checksum=framing.checksum,
    )

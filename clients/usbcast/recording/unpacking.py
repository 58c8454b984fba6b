"""Unpacking the chunks of a recording: what a few kilobytes unpack to is bounded while it unpacks.

A file from elsewhere may claim what it likes: the size that a chunk claims is a bound, not a promise.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any, Final

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema

MAX_CHUNK_BYTES: Final = 320 * 1024 * 1024
"""A chunk is no larger: what waits for a trigger is written as one, 256 MiB of it, and one batch has 16 MiB."""

_PIECE_BYTES: Final = 1 << 20
_WINDOW_BYTES: Final = 1 << 27
"""A frame of zstd may ask for so much memory; what is written here asks for 8 MiB at the most."""

_HEADER_BYTES: Final = 9
_MESSAGE_BYTES: Final = 22


def unpack(chunk: Chunk) -> bytes:
    """The bytes in a chunk. Raises ValueError or the decompressor's error unless they are as many as it claims."""
    claimed = chunk.uncompressed_size
    if claimed > MAX_CHUNK_BYTES:
        raise ValueError(f"it claims to unpack to {claimed:,} bytes: at most {MAX_CHUNK_BYTES:,} are allowed")
    packed = _opened(chunk)
    pieces, size, crc = [], 0, 0
    while size <= claimed and (piece := packed.read(min(_PIECE_BYTES, claimed + 1 - size))):
        pieces.append(piece)
        size += len(piece)
        crc = zlib.crc32(piece, crc)
    if size != claimed:
        raise ValueError(
            f"it claims to unpack to {claimed:,} bytes, but it unpacks to {'more' if size > claimed else 'fewer'}"
        )
    if chunk.uncompressed_crc not in (0, crc):
        raise ValueError("its checksum is wrong")
    return b"".join(pieces)


def _opened(chunk: Chunk) -> Any:
    """A chunk as a file that unpacks what is read of it, and no more."""
    packed = io.BytesIO(chunk.data)
    match chunk.compression:
        case "":
            return packed
        case "zstd":
            return zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(packed)
        case "lz4":
            import lz4.frame  # type: ignore[import-untyped]

            return lz4.frame.open(packed)
    raise ValueError(f"its compression {chunk.compression[:20]!r} is unknown: zstd, lz4 or none ('') is supported")


def records(unpacked: bytes) -> Iterator[Schema | Channel | Message]:
    """The records in a chunk, one by one, so that many small ones take no more memory than one. Raises as `unpack`."""
    stream, size = ReadDataStream(io.BytesIO(unpacked)), len(unpacked)
    while stream.count < size:
        if size - stream.count < _HEADER_BYTES:
            raise ValueError("it ends in the middle of a record")
        opcode, length = stream.read1(), stream.read8()
        if length > size - stream.count:
            raise ValueError(f"a record in it claims {length:,} bytes, more than the chunk still has")
        end = stream.count + length
        if opcode == Opcode.MESSAGE:
            if length < _MESSAGE_BYTES:
                raise ValueError(f"a message in it has {length} bytes, but its header alone takes {_MESSAGE_BYTES}")
            yield Message.read(stream, length)
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            inside = ReadDataStream(io.BytesIO(stream.read(length)))
            yield Schema.read(inside) if opcode == Opcode.SCHEMA else Channel.read(inside)
        else:
            stream.read(length)
        if stream.count != end:
            raise ValueError("a record in it is not as long as it claims")


__all__ = ["MAX_CHUNK_BYTES", "records", "unpack"]

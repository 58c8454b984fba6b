"""Unpacking the chunks of a recording, with a bound on the size that a small chunk may unpack to.

A hostile file may claim anything: the size that a chunk claims is checked while it unpacks.
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
"""Largest chunk, unpacked: records that waited for a trigger are one chunk of up to 256 MiB, and a batch has up to 16 MiB."""

_PIECE_BYTES: Final = 1 << 20
_WINDOW_BYTES: Final = 1 << 27
"""Memory that a zstd frame may ask for; the recorder's own frames ask for at most 8 MiB."""

_HEADER_BYTES: Final = 9
_MESSAGE_BYTES: Final = 22


def unpack(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk. Raises ValueError, or the decompressor's error, unless it has the size that it claims."""
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
    """Return a chunk as a file that unpacks no more than is read."""
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
    """Records of a chunk, one by one, so that many small ones take no more memory than one. Raises like `unpack`."""
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

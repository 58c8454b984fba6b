"""Reading one file of a recording, whatever state it is in: finished, still being written, cut off, or damaged.

The file is walked record by record from its beginning, so nothing depends on its index; the index helps only to find the
way again behind a damaged place. What cannot be read is told with its offset, never passed over in silence.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel as ChannelRecord
from mcap.records import Chunk, DataEnd, Footer, Message, Metadata, Schema
from mcap.stream_reader import breakup_chunk
from mcap.writer import MCAP0_MAGIC

from usbcast.recording.entries import SEGMENT, Channel, Item, decode_entry
from usbcast.recording.segment import PART, Head
from usbcast_schemas.errors import PeerError, RecordingError

DECODED = ".decoded.mcap"
"""How the files of `usbcast convert --to mcap` end: they are no recordings."""

MAX_CHUNK_BYTES = 1 << 30
_HEADER = struct.Struct("<BQ")
_TIMES = struct.Struct("<QQ")
_FOOTER_BYTES = 9 + 20
_LAST_OPCODE = max(Opcode)
_UNREADABLE = (McapError, ValueError, struct.error, zstandard.ZstdError, RuntimeError, MemoryError, KeyError, PeerError)
"""What the MCAP library and the decompressors raise for bytes that are not what they should be."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a file that cannot be right."""

    offset: int
    what: str


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Where a chunk is, and the times of its entries."""

    offset: int
    size_bytes: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One message as it stands in the file."""

    channel: Channel
    time_ns: int
    """The message's own time; `log_time_ns` is the same but for never running backwards."""
    log_time_ns: int
    sequence: int
    data: bytes
    item: Item

    @property
    def stream(self) -> str:
        return dict(self.channel.metadata).get("stream", "")


@dataclass(slots=True)
class SegmentFile:
    """A file that has been walked. Raises RecordingError if it is not a recording at all, or cannot be opened."""

    path: Path
    head: Head
    chunks: list[ChunkRef] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    finished: bool = False
    size_bytes: int = 0
    data_end: tuple[int, int] | None = None
    """Offset and checksum of the record that ends the data."""
    footer: tuple[int, int, int] | None = None
    """Offset of the footer, where the index begins (0: none), and the checksum over it."""
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, ChannelRecord] = field(default_factory=dict)

    @property
    def is_part(self) -> bool:
        return self.path.name.endswith(PART)

    def stored(
        self,
        first_chunk: int = 0,
        damages: list[Damage] | None = None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Iterator[Stored]:
        """The messages of all chunks from `first_chunk` on; unreadable chunks are told in `damages` and skipped.

        `progress` hears of the size of each chunk before it is read.
        """
        with self.path.open("rb") as file:
            for ref in self.chunks[first_chunk:]:
                progress(ref.size_bytes)
                try:
                    found = self._read(file, ref)
                except _UNREADABLE as error:
                    if damages is not None:
                        damages.append(Damage(ref.offset, f"a chunk of {ref.size_bytes:,} bytes is damaged: {error}"))
                    continue
                yield from found

    def first_stored(self, chunk: int) -> Sequence[Stored]:
        """The messages of one chunk; none if it is unreadable."""
        with self.path.open("rb") as file:
            try:
                return self._read(file, self.chunks[chunk])
            except _UNREADABLE:
                return ()

    def check_sums(self) -> list[Damage]:
        """Read the whole file and compare the checksums of data and index."""
        found = []
        if self.data_end is not None:
            offset, expected = self.data_end
            if _crc(self.path, 0, offset) != expected:
                found.append(Damage(0, "the checksum of the data is wrong: bytes have changed since they were written"))
        if self.footer is not None:
            offset, summary_start, expected = self.footer
            begin = summary_start or offset
            whole = begin <= offset
            actual = _crc(self.path, begin, offset + _FOOTER_BYTES - 4) if whole else None
            if actual != expected and not (summary_start == 0 and expected == 0):
                found.append(
                    Damage(
                        min(begin, offset),
                        "the checksum of the index is wrong: bytes have changed since they were written",
                    )
                )
        return found

    def _read(self, file: IO[bytes], ref: ChunkRef) -> list[Stored]:
        file.seek(ref.offset + _HEADER.size)
        chunk = Chunk.read(ReadDataStream(BytesIO(file.read(ref.size_bytes - _HEADER.size))))
        if chunk.uncompressed_size > MAX_CHUNK_BYTES:
            raise ValueError(f"it claims {chunk.uncompressed_size:,} bytes uncompressed")
        found = []
        for record in breakup_chunk(chunk, validate_crc=True):
            if isinstance(record, Schema):
                self.schemas[record.id] = record
            elif isinstance(record, ChannelRecord):
                self.channels[record.id] = record
            elif isinstance(record, Message):
                channel = self._channel(record.channel_id)
                item = decode_entry(channel.schema, record.data)
                if item is not None:
                    found.append(
                        Stored(channel, record.publish_time, record.log_time, record.sequence, record.data, item)
                    )
        return found

    def _channel(self, number: int) -> Channel:
        try:
            known = self.channels[number]
            schema = self.schemas[known.schema_id].name if known.schema_id else ""
        except KeyError:
            raise ValueError(f"its channel {number} is described nowhere") from None
        return Channel(known.topic, known.message_encoding, schema, tuple(known.metadata.items()))


def walk(path: Path) -> SegmentFile:
    """Look through the records of a file, without unpacking its chunks."""
    try:
        with path.open("rb") as file:
            return _walk(path, file)
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from None


def _walk(path: Path, file: IO[bytes]) -> SegmentFile:
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
        raise RecordingError(f"{path} is no MCAP file: it does not begin as one")
    found = SegmentFile(path, Head("", -1, 0, ""), size_bytes=size)
    at = len(MCAP0_MAGIC)
    while at < size:
        file.seek(at)
        header = file.read(_HEADER.size)
        broken = ""
        if len(header) < _HEADER.size:
            broken = "the file is cut off in a record"
        else:
            opcode, length = _HEADER.unpack(header)
            end = at + _HEADER.size + length
            if not 0 < opcode <= _LAST_OPCODE:
                broken = f"there is no kind {opcode} of record"
            elif end > size:
                broken = "the file is cut off in a record"
            else:
                try:
                    ended = _note(found, file, opcode, at, length)
                except _UNREADABLE as error:
                    broken = f"a record is unreadable: {error}"
        if broken:
            found.damages.append(Damage(at, broken))
            onward = _find_way(path, found, at)
            if onward is None:
                break
            at = onward
            continue
        at = end
        if ended:
            file.seek(at)
            found.finished = file.read() == MCAP0_MAGIC
            if not found.finished:
                found.damages.append(Damage(at, "the file does not end as an MCAP file does"))
            break
    if not found.finished and not found.damages and not found.is_part:
        found.damages.append(Damage(at, "the file has no end: it was cut off"))
    if found.head.index < 0 and not found.damages:
        raise RecordingError(f"{path} was not written by `usbcast record`: it says nothing of a segment")
    return found


def _note(found: SegmentFile, file: IO[bytes], opcode: int, at: int, length: int) -> bool:
    """Take down what one record says; True if it is the last one."""
    if opcode == Opcode.CHUNK:
        start_ns, end_ns = _TIMES.unpack(file.read(_TIMES.size))
        found.chunks.append(ChunkRef(at, _HEADER.size + length, start_ns, end_ns))
    elif opcode in (Opcode.METADATA, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.DATA_END, Opcode.FOOTER):
        stream = ReadDataStream(BytesIO(file.read(length)))
        if opcode == Opcode.METADATA:
            metadata = Metadata.read(stream)
            if metadata.name == SEGMENT:
                found.head = Head.from_metadata(metadata.metadata)
        elif opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            found.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = ChannelRecord.read(stream)
            found.channels[channel.id] = channel
        elif opcode == Opcode.DATA_END:
            found.data_end = (at, DataEnd.read(stream).data_section_crc)
        else:
            footer = Footer.read(stream)
            found.footer = (at, footer.summary_start, footer.summary_crc)
            return True
    return False


def _find_way(path: Path, found: SegmentFile, at: int) -> int | None:
    """Where the next chunk behind a damaged place begins, as the index of a finished file says."""
    try:
        with path.open("rb") as file:
            summary = SeekingReader(file).get_summary()
    except (*_UNREADABLE, OSError):
        return None
    if summary is None:
        return None
    found.schemas.update(summary.schemas)
    found.channels.update(summary.channels)
    return min(
        (index.chunk_start_offset for index in summary.chunk_indexes if index.chunk_start_offset > at), default=None
    )


def _crc(path: Path, begin: int, end: int) -> int:
    crc = 0
    with path.open("rb") as file:
        file.seek(begin)
        left = end - begin
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    return crc


def segments_of(base: Path) -> list[tuple[int, Path]]:
    """The segments `<base>-NNNNN.mcap`, finished or not, in order."""
    found = []
    for path in base.parent.glob(f"{_escaped(base.name)}-[0-9][0-9][0-9][0-9][0-9]*.mcap*"):
        number = path.name.removeprefix(f"{base.name}-").removesuffix(PART).removesuffix(".mcap")
        if number.isdigit() and path.name.endswith((".mcap", f".mcap{PART}")):
            found.append((int(number), path))
    return sorted(found)


def resolve(paths: Sequence[Path]) -> list[Path]:
    """The files meant: each path is a file, a directory of recordings, or the base name of a recording's segments."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith((".mcap", f".mcap{PART}")) and not _decoded(p))
        elif path.exists():
            inside = [path]
        else:
            inside = [segment for _, segment in segments_of(path)]
        if not inside:
            raise RecordingError(
                f"there is no recording at {path}: name its files, its directory, or what comes before -00000.mcap"
            )
        found += [p for p in inside if p not in found]
    return found


def _decoded(path: Path) -> bool:
    return path.name.endswith(DECODED)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)

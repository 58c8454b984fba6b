"""Reading one file of a recording, whatever state it is in: finished, still being written, cut off, or damaged.

The file is walked record by record from its beginning, so nothing depends on its index. After damage, the walk continues at
the next bytes that look like a chunk. What cannot be read is reported with its offset, never skipped in silence.
"""

from __future__ import annotations

import os
import re
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
from mcap.records import Attachment, Chunk, DataEnd, Footer, Message, Metadata, Schema
from mcap.records import Channel as ChannelRecord
from mcap.writer import MCAP0_MAGIC

from usbcast.recording.claim import base_of
from usbcast.recording.contents import Contents
from usbcast.recording.copies import MAX_BYTES, NAME, Copies, is_sound
from usbcast.recording.entries import SEGMENT, Annotation, Channel, Item, decode_entry
from usbcast.recording.segment import PART, Head
from usbcast.recording.unpacking import MAX_CHUNK_BYTES, records, unpack
from usbcast_schemas.errors import PeerError, RecordingError, WireError

DECODED = ".decoded.mcap"
"""Suffix of the files of `usbcast convert --to mcap`, which are not recordings."""

MALFORMED_TOLD = 20
"""Malformed entries of one chunk that are listed one by one; further ones are counted."""

_MAX_RECORD_BYTES = 16 * 1024 * 1024
"""The largest record that is read, chunks aside."""

_HEADER = struct.Struct("<BQ")
_CHUNK = struct.Struct("<BQQQQII")
"""The fixed part of a chunk's record: kind, length, two times, size, checksum, and the length of the compression's name."""

_CHUNK_FIXED_BYTES = 40
_LENGTH = struct.Struct("<Q")
_NAME_OFFSET = _HEADER.size + 8 + 8 + 4
"""Offset of the name in an attachment's record."""

_COMPRESSIONS = {0: b"", 3: b"lz4", 4: b"zstd"}
_CHUNK_PATTERN = re.compile(
    rb"(?=\x06.{7}\x00.{28}(?:\x00\x00\x00\x00|\x03\x00\x00\x00lz4|\x04\x00\x00\x00zstd))", re.DOTALL
)
_CHUNK_HEAD_BYTES = _CHUNK.size + 4 + _LENGTH.size
_WINDOW_BYTES = 1 << 20
_FOOTER_BYTES = 9 + 20
_LAST_OPCODE = max(Opcode)
_UNREADABLE = (
    McapError,
    ValueError,
    EOFError,
    struct.error,
    zstandard.ZstdError,
    RuntimeError,
    MemoryError,
    KeyError,
    PeerError,
)
"""Exceptions that the MCAP library and the decompressors raise for malformed bytes."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a file that is damaged or contradicts itself."""

    offset: int
    what: str


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Offset and size of a chunk, and the times of its entries."""

    offset: int
    size_bytes: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of a file, as it was written."""

    channel: Channel
    time_ns: int
    """The message's own time; `log_time_ns` is the same but for never running backwards."""
    log_time_ns: int
    sequence: int
    data: bytes
    item: Item

    @property
    def stream(self) -> str:
        return self.channel.stream


@dataclass(slots=True)
class SegmentFile:
    """A file that has been walked."""

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
    copies: Copies = field(default_factory=Copies)
    channels: dict[int, Channel] = field(default_factory=dict)
    """Channels found in the chunks that were read, whose checksums were right."""
    _schemas: dict[int, str] = field(default_factory=dict)
    index_channels: dict[int, ChannelRecord] = field(default_factory=dict)
    """Channels found in the index; used for channels that no chunk or copy describes."""
    index_schemas: dict[int, str] = field(default_factory=dict)
    _contents: Contents | None = None

    @property
    def is_part(self) -> bool:
        return self.path.name.endswith(PART)

    def stored(
        self,
        first_chunk: int = 0,
        damages: list[Damage] | None = None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Iterator[Stored]:
        """Messages of all chunks from `first_chunk` on; unreadable chunks are skipped and reported in `damages`.

        `progress` is called with the size of each chunk before it is read.
        """
        noted: list[Damage] = [] if damages is None else damages
        with self.path.open("rb") as file:
            for ref in self.chunks[first_chunk:]:
                progress(ref.size_bytes)
                yield from self._read(file, ref, noted)

    def first_stored(self, chunk: int) -> Iterator[Stored]:
        """Messages of one chunk; none if it is unreadable."""
        with self.path.open("rb") as file:
            yield from self._read(file, self.chunks[chunk], [])

    def known_channels(self) -> list[Channel]:
        """Channels that are known so far."""
        index = [
            _channel(record, self.index_schemas[record.schema_id])
            for record in self.index_channels.values()
            if record.schema_id in self.index_schemas
        ]
        return [*self.channels.values(), *self.copies.channels.values(), *index]

    def contents(self) -> Contents | None:
        """Contents that the last readable chunk lists; None if it lists none, as in files of older versions."""
        if self._contents is None:
            for chunk in reversed(range(len(self.chunks))):
                items = [stored.item for stored in self.first_stored(chunk)]
                told = [i for i in items if isinstance(i, Annotation) and i.kind == "contents"]
                if told:
                    self._contents = Contents.from_fields(told[-1].fields)
                if items:
                    break
        return self._contents

    def look_everywhere(self) -> None:
        """Find the chunks without trusting the lengths of the records between them."""
        with self.path.open("rb") as file:
            self.chunks = list(_scan(file, 0, self.size_bytes))

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

    def _read(self, file: IO[bytes], ref: ChunkRef, damages: list[Damage]) -> Iterator[Stored]:
        """Messages of a chunk, one by one. A malformed one is skipped and reported in `damages`."""
        malformed = 0
        try:
            if ref.size_bytes > MAX_CHUNK_BYTES:
                raise ValueError(f"at most {MAX_CHUNK_BYTES:,} bytes are allowed")
            file.seek(ref.offset + _HEADER.size)
            unpacked = unpack(Chunk.read(ReadDataStream(BytesIO(file.read(ref.size_bytes - _HEADER.size)))))
            for message in self._messages(unpacked):
                try:
                    channel = self._channel(message.channel_id)
                    if channel.misnamed:
                        raise WireError(
                            f"its channel names {channel.misnamed[:80]!r}, which is not a valid stream name"
                        )
                    item = decode_entry(channel.schema, message.data)
                except (ValueError, PeerError) as error:
                    malformed += 1
                    if malformed <= MALFORMED_TOLD:
                        damages.append(Damage(ref.offset, f"an entry of a chunk is malformed: {error}"))
                    continue
                if item is not None:
                    yield Stored(channel, message.publish_time, message.log_time, message.sequence, message.data, item)
        except _UNREADABLE as error:
            damages.append(Damage(ref.offset, f"a chunk of {ref.size_bytes:,} bytes is damaged: {error}"))
        if malformed > MALFORMED_TOLD:
            damages.append(
                Damage(
                    ref.offset,
                    f"{malformed:,} entries of a chunk are malformed; only the first {MALFORMED_TOLD} are listed",
                )
            )

    def _messages(self, unpacked: bytes) -> Iterator[Message]:
        """Messages of a chunk; its channels are noted."""
        for record in records(unpacked):
            if isinstance(record, Schema):
                self._schemas[record.id] = record.name
            elif isinstance(record, ChannelRecord):
                schema = self._schemas.get(record.schema_id) or self.index_schemas.get(record.schema_id)
                if schema is not None:
                    self.channels[record.id] = _channel(record, schema)
            else:
                yield record

    def _channel(self, number: int) -> Channel:
        known = self.channels.get(number) or self.copies.channels.get(number)
        if known is None:
            try:
                record = self.index_channels[number]
                known = _channel(record, self.index_schemas[record.schema_id])
            except KeyError:
                raise ValueError(f"its channel {number} is not described anywhere in the file") from None
        return known


def _channel(record: ChannelRecord, schema: str) -> Channel:
    return Channel(record.topic, record.message_encoding, schema, tuple(record.metadata.items()))


def walk(path: Path) -> SegmentFile:
    """Walk the records of a file, without unpacking its chunks.

    Raises RecordingError if the file is not a recording, or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return _walk(path, file)
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from None


def _walk(path: Path, file: IO[bytes]) -> SegmentFile:
    size = os.fstat(file.fileno()).st_size
    found = SegmentFile(path, Head("", -1, 0, ""), size_bytes=size)
    at = len(MCAP0_MAGIC)
    if file.read(at) != MCAP0_MAGIC:
        first = next(_scan(file, 0, size), None)
        if first is None:
            raise RecordingError(f"{path} is not an MCAP file: it does not begin with MCAP's magic bytes")
        found.damages.append(Damage(0, "the file does not begin with MCAP's magic bytes"))
        at = first.offset
    while at < size and not found.finished:
        try:
            at = _note(found, file, at)
        except _UNREADABLE as error:
            found.damages.append(Damage(at, str(error)))
            behind = found.chunks[-1].offset + found.chunks[-1].size_bytes if found.chunks else 0
            onward = next(_scan(file, behind, size), None)
            _find_copies(found, file, behind, onward.offset if onward is not None else size)
            if onward is None:
                break
            at = onward.offset
    if not found.finished and not found.damages and not found.is_part:
        found.damages.append(Damage(at, "the file has no footer: it was cut off"))
    _check_head(found)
    return found


def _check_head(found: SegmentFile) -> None:
    """Prefer the copy of the head, which has a checksum, to the head."""
    if found.copies.head:
        try:
            head = Head.from_metadata(found.copies.head)
        except (KeyError, ValueError) as error:
            found.damages.append(Damage(len(MCAP0_MAGIC), f"the copy of the head of the file is malformed: {error}"))
            return
        if found.head.index >= 0 and found.head != head:
            found.damages.append(
                Damage(len(MCAP0_MAGIC), "the head of the file is damaged; its copy is intact and is used")
            )
        found.head = head
    if found.head.index < 0 and not found.damages:
        raise RecordingError(f"{found.path} was not written by `usbcast record`: it does not say which segment it is")


def _note(found: SegmentFile, file: IO[bytes], at: int) -> int:
    """Note the record at `at`; return the offset of the next one. Raises one of _UNREADABLE."""
    file.seek(at)
    head = file.read(_CHUNK_HEAD_BYTES)
    if len(head) < _HEADER.size:
        raise ValueError("the file is cut off in the middle of a record")
    opcode, length = _HEADER.unpack_from(head)
    end = at + _HEADER.size + length
    if not 0 < opcode <= _LAST_OPCODE:
        raise ValueError(f"a record has the unknown opcode {opcode}")
    if end > found.size_bytes:
        raise ValueError("the file is cut off in the middle of a record")
    if opcode == Opcode.CHUNK:
        ref = _chunk_in(head, 0, at, found.size_bytes)
        if ref is None:
            raise ValueError("the beginning of a chunk is damaged")
        if ref.end_ns < ref.start_ns or (found.chunks and ref.start_ns < found.chunks[-1].start_ns):
            found.damages.append(Damage(at, "the times of a chunk are out of order"))
        found.chunks.append(ref)
    elif opcode == Opcode.ATTACHMENT:
        _note_attachment(found, file, at, length)
    elif opcode in (Opcode.METADATA, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.DATA_END, Opcode.FOOTER):
        if length > _MAX_RECORD_BYTES:
            raise ValueError(f"a record has {length:,} bytes: at most {_MAX_RECORD_BYTES:,} are allowed")
        file.seek(at + _HEADER.size)
        _note_record(found, ReadDataStream(BytesIO(file.read(length))), opcode, at)
    if opcode == Opcode.FOOTER:
        file.seek(end)
        if file.read() != MCAP0_MAGIC:
            raise ValueError("the file does not end with MCAP's magic bytes")
        found.finished = True
    return int(end)


def _note_record(found: SegmentFile, stream: ReadDataStream, opcode: int, at: int) -> None:
    if opcode == Opcode.METADATA:
        metadata = Metadata.read(stream)
        if metadata.name == SEGMENT:
            found.head = Head.from_metadata(metadata.metadata)
    elif opcode == Opcode.SCHEMA:
        schema = Schema.read(stream)
        found.index_schemas[schema.id] = schema.name
    elif opcode == Opcode.CHANNEL:
        channel = ChannelRecord.read(stream)
        found.index_channels[channel.id] = channel
    elif opcode == Opcode.DATA_END:
        found.data_end = (at, DataEnd.read(stream).data_section_crc)
    else:
        footer = Footer.read(stream)
        found.footer = (at, footer.summary_start, footer.summary_crc)


def _note_attachment(found: SegmentFile, file: IO[bytes], at: int, length: int) -> None:
    if length > MAX_BYTES:
        return
    file.seek(at + _HEADER.size)
    record = file.read(length)
    if not is_sound(record):
        found.damages.append(Damage(at, "the copy of the descriptions is damaged"))
        return
    attachment = Attachment.read(ReadDataStream(BytesIO(record)))
    if attachment.name == NAME:
        found.copies.add(attachment.data)


def _find_copies(found: SegmentFile, file: IO[bytes], begin: int, end: int) -> None:
    """Read the copies in a part of the file in which the records cannot be walked."""
    file.seek(begin)
    data = file.read(min(end - begin, MAX_BYTES))
    for place in re.finditer(re.escape(NAME.encode()), data):
        at = place.start() - _NAME_OFFSET
        if at < 0 or data[at] != Opcode.ATTACHMENT:
            continue
        (length,) = _LENGTH.unpack_from(data, at + 1)
        record = data[at + _HEADER.size : at + _HEADER.size + length]
        if len(record) == length and is_sound(record):
            found.copies.add(Attachment.read(ReadDataStream(BytesIO(record))).data)


def _scan(file: IO[bytes], at: int, size: int) -> Iterator[ChunkRef]:
    """Byte ranges that look like chunks, from `at` on."""
    while at < size:
        file.seek(at)
        window = file.read(_WINDOW_BYTES + _CHUNK_HEAD_BYTES)
        onward = at + _WINDOW_BYTES
        for place in _CHUNK_PATTERN.finditer(window):
            ref = _chunk_in(window, place.start(), at + place.start(), size)
            if ref is not None and place.start() < _WINDOW_BYTES:
                yield ref
                onward = ref.offset + ref.size_bytes
                break
        at = onward


def _chunk_in(data: bytes, place: int, offset: int, size: int) -> ChunkRef | None:
    """The chunk whose record begins at `place` in `data`, which is `offset` in a file of `size` bytes; else None."""
    if len(data) < place + _CHUNK.size:
        return None
    opcode, length, start_ns, end_ns, _, _, named = _CHUNK.unpack_from(data, place)
    inner = place + _CHUNK.size + named
    if opcode != Opcode.CHUNK or data[place + _CHUNK.size : inner] != _COMPRESSIONS.get(named):
        return None
    if len(data) < inner + _LENGTH.size or offset + _HEADER.size + length > size:
        return None
    (packed_bytes,) = _LENGTH.unpack_from(data, inner)
    if length != _CHUNK_FIXED_BYTES + named + packed_bytes:
        return None
    return ChunkRef(offset, _HEADER.size + length, start_ns, end_ns)


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
    """Return the files of all paths; each path is a file, a directory of recordings, or the base name of a recording."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith((".mcap", f".mcap{PART}")) and not _decoded(p))
        elif path.exists():
            inside = [path]
        else:
            base = path.with_name(path.name.removesuffix(".mcap"))  # as `usbcast record --output` takes it
            inside = [segment for _, segment in segments_of(base)]
        if not inside:
            raise RecordingError(
                f"there is no recording at {path}: name its files, its directory, or what comes before -00000.mcap"
            )
        found += [p for p in inside if p not in found]
    return found


def bases_in(directory: Path) -> list[Path]:
    """Return the base name of each recording in a directory."""
    found = {base_of(path) for path in directory.glob("*.mcap*") if not _decoded(path)}
    return sorted(base for base in found if segments_of(base))


def is_recording(path: Path) -> bool:
    """Return True if `resolve` finds anything at `path`."""
    try:
        return bool(resolve([path]))
    except (RecordingError, OSError):
        return False


def _decoded(path: Path) -> bool:
    return path.name.endswith(DECODED)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)

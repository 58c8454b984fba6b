"""One file of a recording, while it is written: memory gathers entries, and a sync writes them to the disk as one chunk.

Only creation, `sync`, `finish` and `abandon` touch the disk. The name of an unfinished file ends in `.part`. What a failed
write left behind can be cut off, because the offset of the last good sync is known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from mcap.opcode import Opcode
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from usbcast.recording.contents import Contents
from usbcast.recording.copies import MEDIA_TYPE, NAME, Copies
from usbcast.recording.entries import PROFILE, SEGMENT, Channel, Entry, annotation_entry, contents_annotation, schema_of

COMPRESSIONS: Final = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "none": CompressionType.NONE}
PART: Final = ".part"
_NEVER: Final = 1 << 62
"""Chunk size that is never reached: only `sync` ends chunks."""


MAX_INDEX: Final = 999_999
"""The largest index of a segment."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a file: which segment of which recording it is."""

    recording: str
    """A random identifier, the same for all segments of one recording, also after it was resumed."""
    index: int
    created_ns: int
    host: str

    def as_metadata(self) -> dict[str, str]:
        return {
            "recording": self.recording,
            "segment": str(self.index),
            "created_ns": str(self.created_ns),
            "host": self.host,
            "usbcast": version("usbcast"),
        }

    @classmethod
    def from_metadata(cls, found: dict[str, str]) -> Head:
        """Read a segment's metadata. Raises KeyError or ValueError for anything else."""
        index, created_ns = int(found["segment"]), int(found["created_ns"])
        if not (0 <= index <= MAX_INDEX and 0 <= created_ns < 1 << 63):
            raise ValueError(
                f"segment {found['segment'][:30]}, created at {found['created_ns'][:30]} ns, is out of range"
            )
        return cls(found["recording"], index, created_ns, found.get("host", ""))


class _Disk:
    """The file that the MCAP library writes to: unbuffered, with a checksum of everything written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)
        self.offset = 0
        self.crc = 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            written = os.write(self.fd, view)
            self.crc = zlib.crc32(view[:written], self.crc)
            self.offset += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self.offset

    def flush(self) -> None:
        """No-op: nothing is buffered."""

    def sync(self) -> None:
        """Have the disk confirm what was written. Raises OSError, also if the file has been removed meanwhile."""
        os.fsync(self.fd)
        if not os.path.samestat(os.fstat(self.fd), self._path.stat()):
            raise FileNotFoundError(errno.ENOENT, "the file was removed, and another is in its place")

    def end(self) -> None:
        """Close the file; further calls do nothing, as the descriptor may belong to another file by then."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1


class Segment:
    """A file being written. Creation, `sync` and `finish` raise OSError; after that call `abandon` or `discard`."""

    def __init__(self, path: Path, head: Head, compression: str) -> None:
        self.path = path
        self.head = head
        self.entries = 0
        self.channels = 0
        self._part = path.with_name(path.name + PART)
        self._compression = COMPRESSIONS[compression]
        self._disk = _Disk(self._part)
        self._channels: dict[Channel, int] = {}
        self._schemas: dict[str, int] = {}
        self._last_ns = 0
        self._unsynced_bytes = 0
        self._contents = Contents()
        self._copies = Copies(head.as_metadata())
        self._good = (0, 0)
        """Offset and checksum at the last good sync."""
        try:
            self._writer = Writer(
                self._disk,  # type: ignore[arg-type]
                chunk_size=_NEVER,
                compression=self._compression,
                enable_data_crcs=True,
            )
            self._writer.start(PROFILE, f"usbcast {version('usbcast')}")
            self._writer.add_metadata(SEGMENT, head.as_metadata())
            self.sync()
            _sync_directory(path.parent)
        except BaseException:
            self.discard()
            raise

    @property
    def size_bytes(self) -> int:
        """Size on the disk, and at most what the next sync adds."""
        return self._disk.offset + self._unsynced_bytes

    def add(self, entry: Entry) -> None:
        """Add an entry, in memory."""
        self._write(entry)
        if entry.run is not None:
            self._contents.add(entry.channel.stream, entry.run)
        if entry.info is not None:
            self._copies.descriptions.append(entry.info)

    def _write(self, entry: Entry) -> None:
        # Times never run backwards within a file, so that ordering by time is the order of the file.
        self._last_ns = max(self._last_ns, entry.time_ns)
        data: Any = entry.data
        self._writer.add_message(
            self._channel(entry.channel), self._last_ns, data, entry.time_ns or self._last_ns, entry.sequence
        )
        self.entries += 1
        self._unsynced_bytes += len(entry.data) + 64

    def sync(self) -> None:
        """Write what has been added since the last time, and have the disk confirm it.

        After the chunk comes the second copy of its new channels and descriptions.
        """
        if self._unsynced_bytes:
            self._write(annotation_entry(contents_annotation(self._contents, self.head.recording, self.head.index, 0)))
        self._writer.flush()  # type: ignore[no-untyped-call]
        if self._copies.channels or self._copies.descriptions:
            self._writer.add_attachment(self._last_ns, self._last_ns, NAME, MEDIA_TYPE, self._copies.encode())
            self._copies = Copies(self._copies.head)
        self._disk.sync()
        self._unsynced_bytes = 0
        self._good = (self._disk.offset, self._disk.crc)

    def finish(self) -> Path:
        """Write the index, close, and give the file its name; return it."""
        self.sync()
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._disk.sync()
        return self._name()

    def abandon(self) -> Path | None:
        """Cut off what was written since the last good sync and end the file there, without an index.

        Returns its name; None if nothing was good, or the file is gone.
        """
        offset, crc = self._good
        if offset == 0:
            self.discard()
            return None
        try:
            os.ftruncate(self._disk.fd, offset)
            os.lseek(self._disk.fd, offset, os.SEEK_SET)
            tail = struct.pack("<BQI", Opcode.DATA_END, 4, crc) + struct.pack("<BQQQI", Opcode.FOOTER, 20, 0, 0, 0)
            self._disk.write(tail + MCAP0_MAGIC)
            self._disk.sync()
            return self._name()
        except OSError:  # the file keeps its `.part` name, if it exists at all
            self._disk.end()
            return self._part if self._part.exists() else None

    def discard(self) -> None:
        """Close and remove the file."""
        self._disk.end()
        self._part.unlink(missing_ok=True)

    def _name(self) -> Path:
        self._part.rename(self.path)
        self._disk.end()
        _sync_directory(self.path.parent)
        return self.path

    def _channel(self, channel: Channel) -> int:
        known = self._channels.get(channel)
        if known is None:
            schema = self._schemas.get(channel.schema)
            if schema is None:
                encoding, data = schema_of(channel.schema)
                schema = self._schemas[channel.schema] = self._writer.register_schema(channel.schema, encoding, data)
            known = self._writer.register_channel(channel.topic, channel.encoding, schema, dict(channel.metadata))
            self._channels[channel] = known
            self._copies.channels[known] = channel
            self.channels = len(self._channels)
        return known


def _sync_directory(directory: Path) -> None:
    """Make a new name durable, on file systems that can sync directories."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

"""The files of a recording on their disk: syncs, segments, what is kept, and the disk's bad days.

A write that fails costs nothing but time: what was not yet confirmed by the disk is still in memory and goes into the
next segment, which is begun as soon as there is room. Until then `paused` tells the recorder to leave all in the ring.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from usbcast.recording.claim import Claim
from usbcast.recording.entries import Annotation, Entry, remark_entry
from usbcast.recording.policy import Keep, Rotation
from usbcast.recording.segment import Head, Segment
from usbcast_schemas.errors import RecordingError

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 1024 * 1024
"""So much waits in memory at the most before it is written, however long the sync interval is."""
_RETRY_NS = 500_000_000


class Contents(Protocol):
    """Who knows what the segments are about: the recorder."""

    def heads(self, realtime_ns: int) -> Sequence[Entry]:
        """What stands at the beginning of each segment: descriptions, and where each stream stood at the last sync."""

    def tails(self) -> dict[str, object]:
        """What a segment says of each stream when it is closed."""

    def synced(self) -> None:
        """All that was appended is on the disk."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where and how."""

    base: Path
    """The files are `<base>-00000.mcap` and so on."""
    compression: str = "zstd"
    sync_s: float = 0.5
    rotation: Rotation = field(default_factory=Rotation)
    keep: Keep = field(default_factory=Keep)
    min_free_bytes: int = 64 * 1024 * 1024


class Store:
    """Used by one thread; times are handed in. Raises RecordingError where not even the first segment can be begun."""

    def __init__(
        self,
        options: StoreOptions,
        contents: Contents,
        recording: str,
        written: Sequence[tuple[int, Path]] = (),
        dropped_before: int = 0,
        claim: Claim | None = None,
    ) -> None:
        self.options = options
        self._claim = claim
        self.recording = recording
        self.paused = ""
        """Why nothing can be written now; empty while all is well."""
        self.files: list[Path] = []
        """The segments of this run that are closed and still there."""
        self._contents = contents
        self._kept: list[tuple[int, Path]] = list(written)
        self._dropped_before = dropped_before
        """The segments below were removed; each segment says so, as the one that said it first goes too."""
        self._next_index = max((index for index, _ in written), default=-1) + 1
        self._segment: Segment | None = None
        self._opened_ns = self._synced_ns = self._retry_ns = 0
        self._unsynced: list[Entry] = []
        self._unsynced_bytes = 0
        self._paused_since_ns = 0

    @property
    def path(self) -> Path | None:
        """The segment being written, by the name that it will have."""
        return self._segment.path if self._segment else None

    @property
    def size_bytes(self) -> int:
        return self._segment.size_bytes if self._segment else 0

    def free_bytes(self) -> int:
        """0 if the directory is gone."""
        try:
            return shutil.disk_usage(self.options.base.parent).free
        except OSError:
            return 0

    def append(self, entry: Entry) -> None:
        """Take `entry` to be written with the next sync."""
        self._unsynced.append(entry)
        self._unsynced_bytes += len(entry.data)
        if self._segment is not None:
            self._segment.add(entry)

    def tend(self, monotonic_ns: int, realtime_ns: int) -> None:
        """Do what is due: sync, begin the next segment, try the disk again."""
        if self._segment is None:
            if monotonic_ns >= self._retry_ns:
                self._open(monotonic_ns, realtime_ns)
            return
        interval_ns = int(self.options.sync_s * 1e9)
        if self._unsynced_bytes >= CHUNK_BYTES or monotonic_ns - self._synced_ns >= interval_ns:
            self.sync(monotonic_ns, realtime_ns)
        if self._segment is not None:
            age_s = (monotonic_ns - self._opened_ns) / 1e9
            due = self.options.rotation.reason(self._segment.size_bytes, age_s, self._segment.channels)
            if due:
                self.rotate(due, monotonic_ns, realtime_ns)

    def due_in_s(self, monotonic_ns: int) -> float:
        """When `tend` is to be called next at the latest."""
        if self._segment is None:
            return max(0.0, (self._retry_ns - monotonic_ns) / 1e9)
        return max(0.0, self.options.sync_s - (monotonic_ns - self._synced_ns) / 1e9)

    def sync(self, monotonic_ns: int, realtime_ns: int) -> None:
        """Have the disk confirm all that was appended; on its refusal, pause."""
        segment = self._segment
        if segment is None:
            return
        self._synced_ns = monotonic_ns
        if self._unsynced:
            try:
                segment.sync()
            except OSError as error:
                self._pause(_why(error, self.options.base.parent), monotonic_ns, realtime_ns)
                return
            self._confirmed()
        free = self.free_bytes()
        if free < self.options.min_free_bytes:
            why = (
                f"the disk of {self.options.base.parent} has {free:,} bytes left, "
                f"less than the {self.options.min_free_bytes:,} of --min-free"
            )
            self._finish(why, monotonic_ns, realtime_ns, final=False)
            self._begin_pause(why, monotonic_ns, realtime_ns)

    def rotate(self, reason: str, monotonic_ns: int, realtime_ns: int) -> None:
        """Close the segment and begin the next one."""
        self.sync(monotonic_ns, realtime_ns)
        self._finish(reason, monotonic_ns, realtime_ns, final=False)
        if not self.paused:
            self._open(monotonic_ns, realtime_ns)

    def close(self, reason: str, monotonic_ns: int, realtime_ns: int) -> None:
        """The recording is over: write what is left, if the disk has room for it, and close."""
        if self._segment is None and self._unsynced:
            self._open(monotonic_ns, realtime_ns)
        self.sync(monotonic_ns, realtime_ns)
        self._finish(reason, monotonic_ns, realtime_ns, final=True)

    def _confirmed(self) -> None:
        self._unsynced.clear()
        self._unsynced_bytes = 0
        self._contents.synced()

    def _open(self, monotonic_ns: int, realtime_ns: int) -> None:
        index = self._next_index
        path = self.options.base.with_name(f"{self.options.base.name}-{index:05d}.mcap")
        self._retry_ns = monotonic_ns + _RETRY_NS
        if self.paused and self.free_bytes() < self.options.min_free_bytes:
            return
        segment: Segment | None = None
        try:
            if self._claim is not None:
                self._claim.renew()
            head = Head(self.recording, index, realtime_ns, socket.gethostname())
            segment = Segment(path, head, self.options.compression)
            for entry in self._contents.heads(realtime_ns):
                segment.add(entry)
            if self._dropped_before:
                segment.add(self._dropped_entry(realtime_ns))
            if self.paused:
                segment.add(remark_entry(self._disk_remark(realtime_ns)))
            for entry in self._unsynced:
                segment.add(entry)
            segment.sync()
        except (OSError, RecordingError) as error:
            if segment is not None:
                segment.discard()
            why = _why(error, self.options.base.parent)
            if index == 0 and not self._unsynced:
                raise RecordingError(why) from None
            self._begin_pause(why, monotonic_ns, realtime_ns)
            return
        self._segment = segment
        self._next_index += 1
        self._opened_ns = self._synced_ns = monotonic_ns
        if self.paused:
            log.warning("recording continues in %s", path)
            self.paused = ""
        self._confirmed()
        self._kept.append((index, path))
        self._drop_old(segment, realtime_ns)

    def _disk_remark(self, realtime_ns: int) -> Annotation:
        fields = {"reason": self.paused, "since_ns": self._paused_since_ns, "free_bytes": self.free_bytes()}
        return Annotation("disk", realtime_ns, "", fields)

    def _dropped_entry(self, realtime_ns: int) -> Entry:
        fields = {"before": self._dropped_before, "reason": "removed by --keep"}
        return remark_entry(Annotation("dropped", realtime_ns, "", fields))

    def _drop_old(self, segment: Segment, realtime_ns: int) -> None:
        """Remove what is not to be kept. It is declared first, so that a removed segment never looks stolen."""
        sizes = [_size(path) for _, path in self._kept]
        gone = self.options.keep.surplus(sizes)
        if not gone:
            return
        dropped, self._kept = self._kept[:gone], self._kept[gone:]
        before, self._dropped_before = self._dropped_before, dropped[-1][0] + 1
        segment.add(self._dropped_entry(realtime_ns))
        try:
            segment.sync()
        except OSError:
            self._dropped_before = before
            self._kept = dropped + self._kept  # not declared, so not removed; the next segment will
            return
        for _, path in dropped:
            path.unlink(missing_ok=True)
            if path in self.files:
                self.files.remove(path)

    def _finish(self, reason: str, monotonic_ns: int, realtime_ns: int, *, final: bool) -> None:
        segment = self._segment
        if segment is None:
            return
        fields = {"reason": reason, "final": final, "streams": self._contents.tails()}
        segment.add(remark_entry(Annotation("close", realtime_ns, "", fields)))
        try:
            self.files.append(segment.finish())
            self._segment = None
        except OSError as error:
            self._pause(_why(error, self.options.base.parent), monotonic_ns, realtime_ns)

    def _pause(self, reason: str, monotonic_ns: int, realtime_ns: int) -> None:
        """End the segment at its last good place, and wait for better days."""
        if self._segment is not None:
            left = self._segment.abandon()
            if left is not None:
                self.files.append(left)
            self._segment = None
        self._begin_pause(reason, monotonic_ns, realtime_ns)

    def _begin_pause(self, reason: str, monotonic_ns: int, realtime_ns: int) -> None:
        self._retry_ns = monotonic_ns + _RETRY_NS
        if not self.paused:
            log.error("recording pauses: %s", reason)
            self.paused = reason
            self._paused_since_ns = realtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _why(error: OSError | RecordingError, directory: Path) -> str:
    if isinstance(error, RecordingError):
        return str(error)
    return f"cannot write to the disk of {directory}: {error.strerror or os.strerror(error.errno or 0)}"

"""The files of a recording on the disk: syncs, segments, which of them are kept, and failures of the disk.

A failed write costs nothing but time: what the disk has not confirmed is still in memory and goes into the next segment,
which begins as soon as there is room. Until then `paused` makes the recorder leave everything in the ring.
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
from usbcast.recording.entries import Annotation, Entry, annotation_entry
from usbcast.recording.policy import Keep, Rotation
from usbcast.recording.segment import Head, Segment
from usbcast_schemas.errors import RecordingError

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 1024 * 1024
"""Memory for entries that wait for a sync; beyond it the sync is early."""
_RETRY_NS = 500_000_000


class Contents(Protocol):
    """The recorder, as the store calls it: it knows the content of segments."""

    def heads(self, realtime_ns: int) -> Sequence[Entry]:
        """Return the beginning of a segment: descriptions, and the position of each stream at the last sync."""

    def tails(self) -> dict[str, object]:
        """Return the state of each stream for the annotation that closes a segment."""

    def synced(self) -> None:
        """Note that everything appended is on the disk."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where and how to write."""

    base: Path
    """The files are `<base>-00000.mcap` and so on."""
    compression: str = "zstd"
    sync_s: float = 0.5
    rotation: Rotation = field(default_factory=Rotation)
    keep: Keep = field(default_factory=Keep)
    min_free_bytes: int = 64 * 1024 * 1024


class Store:
    """Used by one thread; times are handed in. Raises RecordingError if the first segment cannot be opened."""

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
        """Why nothing can be written now; empty otherwise."""
        self.files: list[Path] = []
        """Segments that this run has closed and not removed."""
        self._contents = contents
        self._kept: list[tuple[int, Path]] = list(written)
        self._dropped_before = dropped_before
        """Segments below this index were removed; every segment repeats it, as the first one to say it is removed too."""
        self._next_index = max((index for index, _ in written), default=-1) + 1
        self._segment: Segment | None = None
        self._opened_ns = self._synced_ns = self._retry_ns = 0
        self._unsynced: list[Entry] = []
        self._unsynced_bytes = 0
        self._paused_since_ns = 0

    @property
    def path(self) -> Path | None:
        """Final name of the segment that is being written."""
        return self._segment.path if self._segment else None

    @property
    def size_bytes(self) -> int:
        return self._segment.size_bytes if self._segment else 0

    def free_bytes(self) -> int:
        """Return the free space of the disk; 0 if the directory is gone."""
        try:
            return shutil.disk_usage(self.options.base.parent).free
        except OSError:
            return 0

    def append(self, entry: Entry) -> None:
        """Append `entry`; the next sync writes it."""
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
        """Return the time until `tend` is due."""
        if self._segment is None:
            return max(0.0, (self._retry_ns - monotonic_ns) / 1e9)
        return max(0.0, self.options.sync_s - (monotonic_ns - self._synced_ns) / 1e9)

    def sync(self, monotonic_ns: int, realtime_ns: int) -> None:
        """Have the disk confirm everything appended; pause if it refuses."""
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
        """End the recording: write what is left, if the disk has room for it, and close."""
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
                segment.add(annotation_entry(self._disk_annotation(realtime_ns)))
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

    def _disk_annotation(self, realtime_ns: int) -> Annotation:
        fields = {"reason": self.paused, "since_ns": self._paused_since_ns, "free_bytes": self.free_bytes()}
        return Annotation("disk", realtime_ns, "", fields)

    def _dropped_entry(self, realtime_ns: int) -> Entry:
        fields = {"before": self._dropped_before, "reason": "removed by --keep"}
        return annotation_entry(Annotation("dropped", realtime_ns, "", fields))

    def _drop_old(self, segment: Segment, realtime_ns: int) -> None:
        """Remove the segments that --keep does not keep; declare it first, so that they never count as missing."""
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
        segment.add(annotation_entry(Annotation("close", realtime_ns, "", fields)))
        try:
            self.files.append(segment.finish())
            self._segment = None
        except OSError as error:
            self._pause(_why(error, self.options.base.parent), monotonic_ns, realtime_ns)

    def _pause(self, reason: str, monotonic_ns: int, realtime_ns: int) -> None:
        """End the segment at its last good sync, and retry later."""
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

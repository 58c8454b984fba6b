"""Recovery of a file that was cut off or damaged: a new file gets every readable batch, and declares what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usbcast.receiving.continuity import Position
from usbcast.recording.entries import (
    Annotation,
    Entry,
    Item,
    annotation_entry,
    damaged_annotation,
    gap_of,
    info_entry,
    run_of,
)
from usbcast.recording.files import Damage, SegmentFile, Stored, walk
from usbcast.recording.holes import Holes
from usbcast.recording.segment import PART, Head, Segment
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.errors import RecordingError
from usbcast_schemas.v1 import usbcast_pb2 as pb

DAMAGED = ".damaged"
_SYNC_ENTRIES = 2000


@dataclass(frozen=True, slots=True)
class Recovered:
    """Result of a recovery."""

    path: Path
    batches: int
    packets: int
    lost: int
    """Packets declared lost; the number of packets after a cut is unknown."""
    unknown: tuple[str, ...]
    """Sentences about losses of unknown size."""
    damages: tuple[Damage, ...]
    was_whole: bool
    positions: dict[str, Position]
    """Position of each stream at the end."""
    dropped_before: int = 0

    @property
    def in_vain(self) -> bool:
        """True if no batch could be saved."""
        return not self.was_whole and not self.batches

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "batches": self.batches,
            "packets": self.packets,
            "lost": self.lost,
            "unknown": list(self.unknown),
            "damages": [{"offset": damage.offset, "what": damage.what} for damage in self.damages],
            "was_whole": self.was_whole,
        }


def recover(
    path: Path,
    output: Path | None = None,
    progress: Callable[[int], object] = lambda _: None,
    compression: str = "zstd",
) -> Recovered:
    """Write what is readable in `path` to `output`, and declare the rest. An intact file is left as it is.

    Without `output` the result takes the name of the finished file: a `.part` is removed once the result is on the disk, a
    damaged `.mcap` is kept as `.mcap.damaged`. Raises RecordingError, also if the disk refuses.
    """
    source = walk(path)
    target = output or (path.with_name(path.name.removesuffix(PART)) if source.is_part else path)
    if target.exists() and target != path:
        raise RecordingError(f"{target} already exists: name another file with --output")
    if source.finished and not source.damages and not source.check_sums():
        whole = _whole(source)
        if whole is not None:
            return whole
    head = source.head if source.head.index >= 0 else Head("", 0, time.time_ns(), "")
    try:
        return _copy(source, head, path, target, output is None, progress, compression)
    except OSError as error:
        raise RecordingError(f"cannot write {target}: {error.strerror}") from None


def _copy(
    source: SegmentFile,
    head: Head,
    path: Path,
    target: Path,
    take_name: bool,
    progress: Callable[[int], object],
    compression: str,
) -> Recovered:
    unfinished = target.with_name(target.name + ".recovering")
    unfinished.with_name(unfinished.name + PART).unlink(missing_ok=True)
    source.look_everywhere()
    damages = list(source.damages)
    segment = Segment(unfinished, head, compression)
    try:
        copied = _Copy(segment, source, damages)
        for at, stored in enumerate(source.stored(damages=damages)):
            copied.add(stored)
            if at % _SYNC_ENTRIES == 0:
                segment.sync()
                progress(segment.size_bytes)
        copied.end()
        segment.finish()
    except BaseException:
        segment.discard()
        unfinished.unlink(missing_ok=True)
        raise
    if take_name and not source.is_part:
        path.rename(path.with_name(path.name + DAMAGED))
    unfinished.replace(target)
    if take_name and source.is_part:
        path.unlink()
    holes = copied.holes
    return Recovered(
        target, copied.batches, copied.packets, copied.lost, tuple(holes.unknown), tuple(damages), False,
        holes.positions, holes.dropped_before,
    )  # fmt: skip


class _Copy:
    """Copies entries into a segment, and declares what is missing between them."""

    def __init__(self, segment: Segment, source: SegmentFile, damages: list[Damage]) -> None:
        self.holes = Holes()
        self.batches = self.packets = self.lost = 0
        self._closed = False
        self._segment = segment
        self._name = source.path.name
        self._damages = damages
        self._told = 0
        self._last_ns = 0
        self._described: set[tuple[str, int]] = set()
        self._copies = source.copies
        self.holes.segment(source.contents)
        self._note_damage()

    def add(self, stored: Stored) -> None:
        self._note_damage()
        stream, item = stored.stream, stored.item
        for annotation in self.holes.before(stream, item, self._last_ns):
            self._declare(annotation)
        if isinstance(item, EncodedBatch):
            self.batches += 1
            self.packets += item.packet_count
        elif isinstance(item, Annotation):
            self._closed |= item.kind == "close"
        self._last_ns = stored.log_time_ns
        self.holes.add(stream, item)
        if not (isinstance(item, Annotation) and item.kind == "contents"):  # the new file writes its own
            self._describe(stream, item)
            info = item if isinstance(item, pb.StreamInfo) else None
            self._write(Entry(stored.channel, stored.time_ns, stored.sequence, stored.data, run_of(item), info))

    def end(self) -> None:
        """Declare what is missing at the end, and that the file was recovered; what followed a cut is unknown."""
        self._note_damage()
        for copy in self._copies.descriptions:
            if (copy.stream, copy.epoch) not in self._described:
                self._write(info_entry(copy, self._last_ns))
        if not self._closed:
            for annotation in self.holes.rest(self._last_ns):
                self._declare(annotation)
        what = "; ".join(f"at byte {damage.offset:,}: {damage.what}" for damage in self._damages[:5])
        if not self._closed:
            reason = f"{self._name} ended before its time" + (f" ({what})" if what else ", the recorder was killed")
            self._write(annotation_entry(Annotation("recovered", time.time_ns(), "", {"reason": reason})))
        elif what:
            reason = f"{self._name} was damaged ({what}): annotations and device events that stood there are gone"
            self._write(annotation_entry(damaged_annotation(reason, time.time_ns())))

    def _note_damage(self) -> None:
        if len(self._damages) > self._told:
            self._told = len(self._damages)
            self.holes.damage(f"the file was damaged near byte {self._damages[-1].offset:,}")

    def _describe(self, stream: str, item: Item) -> None:
        """Restore a damaged description from its copy, before the first batch that needs it."""
        if not isinstance(item, EncodedBatch | pb.StreamInfo) or (stream, item.epoch) in self._described:
            return
        self._described.add((stream, item.epoch))
        copy = self._copies.info(stream, item.epoch) if isinstance(item, EncodedBatch) else None
        if copy is not None:
            self._write(info_entry(copy, self._last_ns))

    def _declare(self, annotation: Annotation) -> None:
        if annotation.kind == "gap":
            self.lost += gap_of(annotation).count
        self._write(annotation_entry(annotation))

    def _write(self, entry: Entry) -> None:
        self._segment.add(entry)


def _whole(source: SegmentFile) -> Recovered | None:
    """Return the result for an intact file; None if it has an unreadable entry, which no checksum reveals."""
    damages: list[Damage] = []
    holes = Holes()
    holes.segment(source.contents)
    batches = packets = 0
    for stored in source.stored(damages=damages):
        holes.add(stored.stream, stored.item)
        if isinstance(stored.item, EncodedBatch):
            batches += 1
            packets += stored.item.packet_count
    if damages:
        return None
    return Recovered(source.path, batches, packets, 0, (), (), True, holes.positions, holes.dropped_before)

"""Recover a file that was cut off or damaged: every complete batch goes into a new file, and what is gone is declared in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usbcast.continuity import Position
from usbcast.events import Gap
from usbcast.recording.entries import STAGE, Entry, Remark, gap_remark, remark_entry
from usbcast.recording.files import Damage, SegmentFile, walk
from usbcast.recording.positions import Positions
from usbcast.recording.segment import PART, Head, Segment
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.errors import RecordingError

DAMAGED = ".damaged"
_SYNC_ENTRIES = 2000


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came of it."""

    path: Path
    batches: int
    packets: int
    lost: int
    """Packets known to be gone, and declared; what came after a cut is not known."""
    damages: tuple[Damage, ...]
    was_whole: bool
    positions: Positions
    """Where each stream stands at the end."""

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "batches": self.batches,
            "packets": self.packets,
            "lost": self.lost,
            "damages": [{"offset": damage.offset, "what": damage.what} for damage in self.damages],
            "was_whole": self.was_whole,
        }


def recover(
    path: Path,
    output: Path | None = None,
    progress: Callable[[int], object] = lambda _: None,
    compression: str = "zstd",
) -> Recovered:
    """Write what is readable of `path` to `output`, and declare the rest. A file that is whole is left alone.

    Without `output` the result takes the name that the file should have: a `.part` goes when the result is on the disk, a
    damaged `.mcap` stays as `.mcap.damaged`. Raises RecordingError, also where the disk refuses.
    """
    source = walk(path)
    target = output or (path.with_name(path.name.removesuffix(PART)) if source.is_part else path)
    if target.exists() and target != path:
        raise RecordingError(f"{target} is there already: name another file with --output")
    if source.finished and not source.damages and not source.check_sums():
        return _whole(source)
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
    damages = list(source.damages)
    segment = Segment(unfinished, head, compression)
    try:
        copied = _Copy(segment, damages)
        for at, stored in enumerate(source.stored(damages=damages)):
            copied.take(stored.stream, Entry(stored.channel, stored.time_ns, stored.sequence, stored.data), stored.item)
            if at % _SYNC_ENTRIES == 0:
                segment.sync()
                progress(segment.size_bytes)
        copied.end(path.name, closed=copied.closed)
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
    return Recovered(target, copied.batches, copied.packets, copied.lost, tuple(damages), False, copied.positions)


class _Copy:
    """Passes entries on, and declares the holes between them."""

    def __init__(self, segment: Segment, damages: list[Damage]) -> None:
        self.positions = Positions()
        self.batches = self.packets = self.lost = 0
        self.closed = False
        self._segment = segment
        self._damages = damages
        self._last_ns = 0

    def take(self, stream: str, entry: Entry, item: Any) -> None:
        hole = self.positions.hole_before(stream, item)
        if hole is not None:
            self._declare(stream, hole[0], hole[1])
        if isinstance(item, Remark) and item.kind == "close":
            self._before_close(item)
        if isinstance(item, EncodedBatch):
            self.batches += 1
            self.packets += item.packet_count
        self.positions.take(stream, item)
        self._last_ns = entry.time_ns
        self._segment.add(entry)

    def end(self, name: str, *, closed: bool) -> None:
        """Say that the file was recovered; what followed a cut is unknown."""
        if closed:
            return
        what = "; ".join(f"at byte {damage.offset:,}: {damage.what}" for damage in self._damages[:5])
        reason = f"{name} ended before its time" + (f" ({what})" if what else ", the recorder was killed")
        self._segment.add(remark_entry(Remark("recovered", time.time_ns(), "", {"reason": reason})))

    def _before_close(self, close: Remark) -> None:
        self.closed = True
        for stream, said in close.fields["streams"].items():
            at = self.positions.of.get(stream)
            same = at is not None and "epoch" in said and int(said["epoch"], 16) == at.epoch
            if at is not None and same and said["next_sequence"] > at.next_sequence:
                self._declare(stream, at, said["next_sequence"])

    def _declare(self, stream: str, at: Position, until: int) -> None:
        where = f" near byte {self._damages[-1].offset:,}" if self._damages else ""
        gap = Gap(at.next_sequence, until - 1, until - at.next_sequence, STAGE, f"the file was damaged{where}")
        self.lost += gap.count
        remark = gap_remark(stream, at.epoch, gap, self._last_ns)
        self.positions.take(stream, remark)
        self._segment.add(remark_entry(remark))


def _whole(source: SegmentFile) -> Recovered:
    positions = Positions()
    batches = packets = 0
    for stored in source.stored():
        positions.take(stored.stream, stored.item)
        if isinstance(stored.item, EncodedBatch):
            batches += 1
            packets += stored.item.packet_count
    return Recovered(source.path, batches, packets, 0, (), True, positions)

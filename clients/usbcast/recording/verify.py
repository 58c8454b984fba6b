"""Verify recordings: read every byte, compare every checksum, balance the books over all segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usbcast.recording.books import Books
from usbcast.recording.files import Damage, SegmentFile, walk


@dataclass(slots=True)
class Verified:
    """One recording: its files and its books."""

    recording: str
    files: list[Path]
    books: Books

    @property
    def balanced(self) -> bool:
        return self.books.balanced

    def to_json(self) -> dict[str, Any]:
        books = self.books
        return {
            "recording": self.recording,
            "files": [str(path) for path in self.files],
            "streams": [epoch.to_json() for epoch in books.epochs.values()],
            "problems": books.problems,
            "problem_count": books.problem_count,
            "notes": books.notes,
            "balanced": self.balanced,
        }


def verify(paths: Iterable[Path], progress: Callable[[int], object] = lambda _: None) -> list[Verified]:
    """The recordings that these files belong to, each verified. `progress` hears of the bytes that it goes through.

    Raises RecordingError for a file that is no recording.
    """
    recordings: dict[str, list[SegmentFile]] = {}
    for path in paths:
        found = _walk(path)
        recordings.setdefault(found.head.recording, []).append(found)
    unknown = recordings.pop("", [])
    if unknown and len(recordings) == 1:
        next(iter(recordings.values())).extend(unknown)  # so damaged that it does not say whose it is
    elif unknown:
        recordings[""] = unknown
    return [_verify_one(name, files, progress) for name, files in recordings.items()]


def _walk(path: Path) -> SegmentFile:
    found = walk(path)
    if found.finished and (found.data_end is None or found.data_end[1] == 0):
        found.damages.append(Damage(found.size_bytes, "the checksum of the data is missing"))
    return found


def _verify_one(name: str, files: list[SegmentFile], progress: Callable[[int], object]) -> Verified:
    files.sort(key=lambda found: found.head.index)
    books = Books()
    for found in files:
        label = found.path.name
        books.segment(found.head.index, label)
        damages = list(found.damages)
        for stored in found.stored(damages=damages, progress=progress):
            books.take(stored.stream, stored.item)
        damages += found.check_sums()
        for damage in damages:
            books.problem(f"{label}, at byte {damage.offset:,}: {damage.what}")
    books.finish()
    return Verified(name, [found.path for found in files], books)

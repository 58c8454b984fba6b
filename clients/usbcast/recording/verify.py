"""Verification of recordings: read every byte, compare every checksum, balance the ledger over all segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usbcast.recording.files import Damage, SegmentFile, walk
from usbcast.recording.ledgers import RecordingLedger


@dataclass(slots=True)
class Verified:
    """One verified recording: its files and its ledger."""

    recording: str
    files: list[Path]
    ledger: RecordingLedger

    @property
    def balanced(self) -> bool:
        return self.ledger.balanced

    def to_json(self) -> dict[str, Any]:
        ledger = self.ledger
        return {
            "recording": self.recording,
            "files": [str(path) for path in self.files],
            "streams": [epoch.to_json() for epoch in ledger.epochs.values()],
            "problems": ledger.problems,
            "problem_count": ledger.problem_count,
            "notes": ledger.notes,
            "balanced": self.balanced,
        }


def verify(paths: Iterable[Path], progress: Callable[[int], object] = lambda _: None) -> list[Verified]:
    """Verify the recordings that these files belong to. `progress` is called with the number of bytes of each chunk.

    Raises RecordingError for a file that is not a recording.
    """
    recordings: dict[str, list[SegmentFile]] = {}
    for path in paths:
        found = _walk(path)
        recordings.setdefault(found.head.recording, []).append(found)
    unknown = recordings.pop("", [])
    if unknown and len(recordings) == 1:
        next(iter(recordings.values())).extend(unknown)  # too damaged to say which recording they belong to
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
    ledger = RecordingLedger()
    for found in files:
        label = found.path.name
        ledger.segment(found.head.index, label)
        damages = list(found.damages)
        for stored in found.stored(damages=damages, progress=progress):
            ledger.add(stored.stream, stored.item)
        damages += found.check_sums()
        for damage in damages:
            ledger.problem(f"{label}, at byte {damage.offset:,}: {damage.what}")
    ledger.finish()
    return Verified(name, [found.path for found in files], ledger)

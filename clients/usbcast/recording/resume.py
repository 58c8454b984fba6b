"""Start of a recording, new or resumed: its claim, the position of each stream, and recovery of the last file after a kill."""

from __future__ import annotations

from pathlib import Path

from usbcast.recording.claim import Claim
from usbcast.recording.files import segments_of, walk
from usbcast.recording.recorder import Start
from usbcast.recording.recover import recover
from usbcast_schemas.errors import RecordingError


def fresh(base: Path) -> Start:
    """Begin a new recording at `base`. Raises RecordingError if there is one already."""
    claim = _claim(base)
    there = segments_of(base)
    if there:
        claim.close()
        raise RecordingError(
            f"{there[0][1]} already exists: --resume continues that recording, --output names another place"
        )
    return Start(claim=claim)


def resumed(base: Path, compression: str = "zstd") -> Start:
    """Continue the recording at `base`; begin a new one if there is none. Raises RecordingError."""
    claim = _claim(base)
    try:
        there = segments_of(base)
        if not there:
            return Start(claim=claim)
        for index, path in there:
            if path.name.endswith(".part") and (index, path) != there[-1]:
                recover(path, compression=compression)
        last = recover(there[-1][1], compression=compression)
        recording = walk(last.path).head.recording
        return Start(recording, last.positions, tuple(segments_of(base)), last.dropped_before, claim)
    except BaseException:
        claim.close()
        raise


def _claim(base: Path) -> Claim:
    _make_directory(base)
    return Claim(base)


def _make_directory(base: Path) -> None:
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot create the directory {base.parent}: {error.strerror}") from None

"""Going on with a recording: whose it is, where each stream stands, and the last file made whole if its recorder was killed."""

from __future__ import annotations

from pathlib import Path

from usbcast.recording.claim import Claim
from usbcast.recording.files import segments_of, walk
from usbcast.recording.recorder import Start
from usbcast.recording.recover import recover
from usbcast_schemas.errors import RecordingError


def fresh(base: Path) -> Start:
    """A new recording at `base`; raise RecordingError if there is one already."""
    claim = _claim(base)
    there = segments_of(base)
    if there:
        claim.close()
        raise RecordingError(
            f"{there[0][1]} already exists: --resume continues that recording, --output names another place"
        )
    return Start(claim=claim)


def resumed(base: Path, compression: str = "zstd") -> Start:
    """Go on with the recording at `base`; with a new one where there is none. Raises RecordingError."""
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

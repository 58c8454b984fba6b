"""The record by which triggers find a recorder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any

from usbcast_schemas.errors import RecordingError
from usbcast_schemas.places import runtime_directory


class Registered:
    """This recorder's record, locked for as long as it lives."""

    def __init__(self, base: Path) -> None:
        recorders()
        self._path = runtime_directory() / f"recorder-{os.getpid()}-{os.urandom(4).hex()}.json"
        unfinished = self._path.with_suffix(".new")
        self._fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, json.dumps({"pid": os.getpid(), "base": str(base.absolute())}).encode())
        unfinished.rename(self._path)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def recorders() -> list[dict[str, Any]]:
    """Return `pid` and `base` of this user's live armed recorders; remove the records of dead ones."""
    alive = []
    for path in runtime_directory().glob("recorder-*.json"):
        with contextlib.suppress(OSError), path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alive.append(json.loads(file.read()))
            else:
                path.unlink(missing_ok=True)
    return alive


def trigger(base: Path | None) -> list[int]:
    """Trigger the armed recorders of this user that write to `base`, or all; return their process ids.

    Raises RecordingError if there is none.
    """
    told = []
    for said in recorders():
        if base is None or said["base"] == str(base.absolute()):
            os.kill(said["pid"], signal.SIGUSR1)
            told.append(int(said["pid"]))
    if not told:
        where = f" that writes to {base}" if base else ""
        raise RecordingError(f"no armed recorder{where} runs here: start one with --pre or --post, then trigger it")
    return told

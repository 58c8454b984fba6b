"""What a recorder says to who looks after it: systemd's notifications (sd_notify), and a record by which triggers find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from usbcast_schemas.errors import RecordingError
from usbcast_schemas.places import runtime_directory


class Systemd:
    """READY, WATCHDOG and STOPPING to the socket that systemd names; nothing where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        half_us = int(os.environ.get("WATCHDOG_USEC", "0")) // 2
        self._watchdog_ns = half_us * 1000
        self._due_ns = 0

    def say(self, what: str) -> None:
        """One notification, such as `READY=1`."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(what.encode(), address)

    def alive(self, monotonic_ns: int) -> None:
        """To be called all the time; the watchdog hears it twice in its interval."""
        if self._watchdog_ns and monotonic_ns >= self._due_ns:
            self._due_ns = monotonic_ns + self._watchdog_ns
            self.say("WATCHDOG=1")


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
    """`pid` and `base` of this user's armed recorders that are alive. Sweeps the records of dead ones."""
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

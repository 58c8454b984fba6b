"""The claim to a recording: a locked file beside it, so that at most one process writes or recovers it.

The file system holds the lock: it ends with its process, however that ends, and over NFS it holds for other hosts too. On a
file system without locks a warning says so, and nobody is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import socket
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

from usbcast_schemas.errors import RecordingError

log = logging.getLogger(__name__)

LOCK: Final = ".lock"
_NAME: Final = re.compile(r"-\d{5,}\.mcap(\.part)?$")
_MAX_BYTES: Final = 1000


class Claim:
    """Claim to the recording at `base`, until it is closed. Raises RecordingError if another process has it."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._path = base.with_name(base.name + LOCK)
        self._fd = -1
        try:
            self.renew()
        except OSError as error:
            raise RecordingError(f"cannot write to the disk of {base.parent}: {error.strerror}") from None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def renew(self) -> None:
        """Claim it again if the locked file is gone, as after somebody removed its directory. Raises OSError too."""
        while not self._is_there():
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
            try:
                _lock(self._fd)
            except BlockingIOError:
                who = self._holder()
                self._release()
                raise RecordingError(
                    f"{who} is at work on the recording {self._base}: stop it first, or name another place with --output"
                ) from None
            except OSError as error:
                log.warning(
                    "%s has no file locks (%s): nothing keeps a second recorder away from %s",
                    self._path.parent, error.strerror, self._base,
                )  # fmt: skip
                return
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def close(self) -> None:
        if self._fd >= 0:
            if self._is_there():
                self._path.unlink(missing_ok=True)
            self._release()

    def _is_there(self) -> bool:
        """Return True if others find the locked file: it may have been removed, and created again by another process."""
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(os.pread(self._fd, _MAX_BYTES, 0))
            return f"process {int(said['pid'])} of host {str(said['host'])[:100]}"
        return "another process"

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1


def _lock(fd: int) -> None:
    """Lock the whole file for as long as the descriptor is open. Raises BlockingIOError if another one has it.

    On Linux by `F_OFD_SETLK`: a server of NFS holds its clients' locks as locks of that family, which flock does not see.
    """
    if sys.platform == "linux":
        whole = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def base_of(path: Path) -> Path:
    """Return the base name of the recording that a file belongs to."""
    return path.with_name(_NAME.sub("", path.name))

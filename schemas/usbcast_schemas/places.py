"""Directories of this user's nodes: rings in shared memory, and the records by which local nodes are found."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import uuid
from functools import lru_cache
from pathlib import Path

from usbcast_schemas.errors import RingUnavailable

SHARED_MEMORY = Path("/dev/shm")


def ring_directory() -> Path:
    """The 0700 directory of this user's rings: USBCAST_RING_DIR, else in /dev/shm, else beside the runtime files."""
    configured = os.environ.get("USBCAST_RING_DIR")
    if configured:
        return _private(Path(configured))
    if SHARED_MEMORY.is_dir():
        return _private(SHARED_MEMORY / f"usbcast-{_user()}")
    return _private(runtime_directory() / "rings")


def runtime_directory() -> Path:
    """The 0700 directory of this user's node records: USBCAST_RUNTIME_DIR, else in XDG_RUNTIME_DIR, else in /tmp."""
    configured = os.environ.get("USBCAST_RUNTIME_DIR")
    if configured:
        return _private(Path(configured))
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and Path(session).is_dir():
        return _private(Path(session) / "usbcast")
    return _private(Path(tempfile.gettempdir()) / f"usbcast-{_user()}")


@lru_cache(maxsize=1)
def host_id() -> str:
    """The same text for two processes exactly if they share this machine's memory and this boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        base = boot.read_text().strip()
    except OSError:
        base = f"{uuid.getnode():012x}"
    # Two containers on one kernel have the same boot id but not the same /dev/shm.
    try:
        device = SHARED_MEMORY.stat().st_dev
    except OSError:
        device = 0
    return f"{base}-{device:x}"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def _private(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise RingUnavailable(
            f"cannot make the directory {path}: {error.strerror}; set USBCAST_RING_DIR and USBCAST_RUNTIME_DIR to "
            "directories that this user may write to"
        ) from None
    if sys.platform != "win32" and (
        not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077
    ):
        raise RingUnavailable(
            f"{path} is not a directory that only this user may enter (owner {status.st_uid}, "
            f"mode {stat.S_IMODE(status.st_mode):04o}): remove it, or set USBCAST_RING_DIR and USBCAST_RUNTIME_DIR elsewhere"
        )
    return path

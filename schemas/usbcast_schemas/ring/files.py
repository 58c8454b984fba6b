"""The files of a ring: its memory, locked by its owner, the fifo beside it, and what dead owners have left."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from usbcast_schemas.errors import RingUnavailable


def make_file(path: Path, size: int, stream: str) -> int:
    """The descriptor of a new file of that size, which is there to the last page; raise RingUnavailable if it can't be."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise RingUnavailable(
            f"cannot make the ring of stream {stream!r} in {path.parent}: {error.strerror}; "
            "set USBCAST_RING_DIR to a directory that this user may write to"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Every page now: a page that cannot be had later would be a SIGBUS in the middle of a write.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.truncate(fd, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        os.close(fd)
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        free = os.statvfs(path.parent)
        raise RingUnavailable(
            f"the ring of stream {stream!r} needs {size / 2**20:.0f} MiB in {path.parent}, which has "
            f"{free.f_bavail * free.f_frsize / 2**20:.0f} MiB free: make it smaller with --ring-size, free some room, "
            "or set USBCAST_RING_DIR to another place"
        ) from None
    return fd


def make_fifo(path: Path) -> int:
    """The descriptor of a new fifo, for both ends."""
    os.mkfifo(path, 0o600)
    # For reading too, so that opening does not wait for a reader and a write never meets a closed pipe.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def sweep(directory: Path) -> list[Path]:
    """Remove the rings in `directory` whose owner is dead (nobody holds the lock); return what was removed."""
    removed = []
    for path in sorted([*directory.glob("*.ring"), *directory.glob("*.new")]):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            continue  # gone meanwhile, or not ours
        try:
            if path.suffix == ".new" and time.time() - os.fstat(fd).st_mtime < 60:
                continue  # another node is making it right now
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            path.unlink(missing_ok=True)
            path.with_suffix(".wake").unlink(missing_ok=True)
            removed.append(path)
        finally:
            os.close(fd)
    return removed

"""Doorbells: how one thread tells another that there is something to do, without a queue and without polling."""

from __future__ import annotations

import contextlib
import os
import threading


class Doorbell:
    """Rung by any thread, heard by one. Rung twice before it is heard, it is heard once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        # Giving back a lock that is free says that the bell has been rung already.
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is rung, at most `timeout_s`; False if it was not."""
        return self._lock.acquire(timeout=max(0.0, timeout_s))


class PollableDoorbell:
    """A doorbell with a file descriptor, for a thread that waits in a poll."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    def fileno(self) -> int:
        return self._read_fd

    def ring(self) -> None:
        # A full pipe has been rung often enough; a closed one has nobody behind it any more.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write_fd, b"\0")

    def quiet(self) -> None:
        """Take back all rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)

    def close(self) -> None:
        # Somebody may still ring, and the number of the descriptor may be another one's by then.
        write_fd, self._write_fd = self._write_fd, -1
        os.close(self._read_fd)
        os.close(write_fd)

"""Being told to stop: Ctrl-C and SIGTERM as an event to wait for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, as long as the context lasts."""
    stopped = threading.Event()
    read_fd, write_fd = os.pipe()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # Not the event itself: the thread that this interrupts may hold the event's lock, and would wait for itself.
        os.write(write_fd, b"\0")

    def hear() -> None:
        while os.read(read_fd, 64):
            stopped.set()

    hearing = threading.Thread(target=hear, name="usbcast-signals", daemon=True)
    hearing.start()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write_fd)
        hearing.join()
        os.close(read_fd)

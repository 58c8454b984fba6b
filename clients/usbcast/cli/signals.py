"""Being told to stop: Ctrl-C and SIGTERM as an event to wait for, and an end even where nobody looks at it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

HARD_S = 10.0
"""A process that was told to stop, and is busy with something monstrous, has ended after so long."""


class Overdue:
    """Ends the process if it has not ended `HARD_S` after `tell`, whatever it does: a call into C that holds the GIL, too."""

    def __init__(self, advice: str) -> None:
        self._sentence = (
            f"usbcast: ended in the middle of its work, which took more than {HARD_S:g} s to stop{advice}\n"
        )
        self._nothing = os.open(os.devnull, os.O_WRONLY)
        self._read_fd, self._write_fd = os.pipe()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="usbcast-overdue", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """The process has been told to stop. Takes no lock, so a signal handler may call it."""
        os.write(self._write_fd, b"\0")
        # For the case that no thread of Python runs any more; what it would write is nothing for a user.
        faulthandler.dump_traceback_later(HARD_S, exit=True, file=self._nothing)

    def close(self) -> None:
        """Stop listening for signals; the work ended by itself."""
        faulthandler.cancel_dump_traceback_later()
        self._closed.set()
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)
        os.close(self._nothing)

    def _wait(self) -> None:
        if os.read(self._read_fd, 1) and not self._closed.wait(HARD_S - 1):
            os.write(2, self._sentence.encode())
            os._exit(1)


@contextlib.contextmanager
def overdue(advice: str = "") -> Iterator[Overdue]:
    """`advice` is what the sentence goes on with."""
    made = Overdue(advice)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def stop_signals(alarm: Overdue | None = None) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, as long as the context lasts; they tell `alarm` as well."""
    stopped = threading.Event()
    read_fd, write_fd = os.pipe()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # Not the event itself: the thread that this interrupts may hold the event's lock, and would wait for itself.
        os.write(write_fd, b"\0")

    def hear() -> None:
        while os.read(read_fd, 64):
            stopped.set()
            if alarm is not None:
                alarm.tell()

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

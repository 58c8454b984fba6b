"""Output that never waits for its reader: a terminal that is stopped, a pager, a log driver that hangs.

A node's threads write log lines between two reads of a device, and its main thread writes tables while it waits to be told to
stop. None of them may stand still because nobody reads. So what is written goes into a bounded queue, and a thread of its own
writes it. Beyond the bound, what is new is dropped; how much is logged once somebody reads again.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final, Literal, TextIO

log = logging.getLogger(__name__)

MAX_WAITING_BYTES: Final = 1 << 20
"""Several thousand lines."""

MAX_SHOWN_BYTES: Final = 16 << 20
"""Of a verb whose output is what it is for: a file on a disk that stands still for a moment gets it all."""

DRAIN_S: Final = 1.0
"""A program that ends gives a reader so long to take the rest."""

LOOK_S: Final = 0.1
"""How often a program that waits for its reader checks whether it was told to stop."""


class NonWaitingText(io.TextIOBase):
    """Writes to the descriptor of `stream`, of which it takes the encoding; `name` is what a log line calls it.

    May be used from any thread and from a signal handler. Once the other end is closed, all that follows is dropped, or with
    `raises` writing raises BrokenPipeError.
    """

    def __init__(
        self, stream: TextIO, name: str, max_waiting_bytes: int = MAX_WAITING_BYTES, *, raises: bool = False
    ) -> None:
        self._stream = stream
        self._fd = stream.fileno()
        self._name = name
        self._max_bytes = max_waiting_bytes
        self._waiting: deque[bytes] = deque()
        self._held_bytes = 0
        """Not written yet: what waits, and what is being written."""
        self._dropped_lines = 0
        self._ended = False
        self._raises = raises
        self._gone = False
        """The other end is closed."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Queue `text`, or drop and count it where too much is waiting."""
        data = text.encode(self.encoding, self.errors or "strict")
        with self._changed:
            if self._gone and self._raises:
                raise BrokenPipeError(errno.EPIPE, f"nobody reads {self._name} any more")
            if not data or self._ended:
                pass
            elif self._held_bytes + len(data) > self._max_bytes:
                self._dropped_lines += text.count("\n")
            else:
                self._held_bytes += len(data)
                self._waiting.append(data)
                if self._thread is None:
                    name = f"usbcast-{self._name}"
                    self._thread = threading.Thread(target=self._write_queued, name=name, daemon=True)
                    self._thread.start()
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: what is queued is written as soon as somebody reads."""

    def end(self, timeout_s: float = DRAIN_S) -> None:
        """Give the reader so long to take what is queued, and write nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held_bytes, timeout_s)
            self._ended = True
            self._changed.notify_all()

    def wait_until_written(self, stopped: threading.Event) -> None:
        """Wait until the reader has taken all that is queued, has gone, or `stopped` is set."""
        with self._changed:
            while not stopped.is_set() and not self._changed.wait_for(lambda: not self._held_bytes, LOOK_S):
                continue

    def _write_queued(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                data = b"".join(self._waiting)
                self._waiting.clear()
            try:
                self._write_all(data)
            except OSError:  # the other end is closed, or the terminal is gone
                self._give_up()
                return
            with self._changed:
                self._held_bytes -= len(data)
                dropped = 0
                if not self._waiting:
                    dropped, self._dropped_lines = self._dropped_lines, 0
                self._changed.notify_all()
            if dropped:
                log.warning("%d lines were not written to %s, because nobody read it", dropped, self._name)

    def _write_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody who shares the terminal or pipe has set it so
                select.select([], [self._fd], [])

    def _give_up(self) -> None:
        with self._changed:
            self._ended = self._gone = True
            self._held_bytes = 0
            self._waiting.clear()
            self._changed.notify_all()


@contextlib.contextmanager
def nonwaiting(name: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Within it, `sys.stdout` or `sys.stderr` waits for nobody. It leaves alone what has been put in its place."""
    if (stream := _replaceable(name)) is None:
        yield
        return
    text = NonWaitingText(stream, name)
    setattr(sys, name, text)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        text.end()


@contextlib.contextmanager
def shown(stopped: threading.Event) -> Iterator[None]:
    """Like `nonwaiting("stdout")`, for a verb whose output is what it is for, as that of `usbcast watch`.

    Writing raises BrokenPipeError once the reader has gone. A normal end waits for the reader, until `stopped` is set.
    """
    if (stream := _replaceable("stdout")) is None:
        yield
        return
    text = NonWaitingText(stream, "stdout", MAX_SHOWN_BYTES, raises=True)
    sys.stdout = text
    try:
        yield
        text.wait_until_written(stopped)
    finally:
        sys.stdout = stream
        text.end()


def _replaceable(name: Literal["stdout", "stderr"]) -> TextIO | None:
    """Return the stream with nothing left in its buffer, or None if something has been put in its place."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None or stream is not getattr(sys, f"__{name}__"):
        return None
    stream.flush()
    return stream


__all__ = ["NonWaitingText", "nonwaiting", "shown"]

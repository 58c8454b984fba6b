"""What a program writes, line by line, and waiting for a certain line of it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Lines:
    """Filled by one thread, read and awaited by others."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._over = False

    def add(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def end(self) -> None:
        """No more lines will come."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def all(self) -> list[str]:
        """The lines so far."""
        with self._changed:
            return list(self._lines)

    def wait_until(self, number: int, timeout_s: float) -> str:
        """The line with this number, from 1; AssertionError if there are not so many in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or len(self._lines) >= number, timeout_s)
            assert len(self._lines) >= number, (
                f"{self._of} wrote no line {number} in {timeout_s:g} s: {self._lines[-50:]}"
            )
            return self._lines[number - 1]

    def wait_for(self, wanted: Callable[[str], bool], timeout_s: float) -> str:
        """The first line that is wanted; AssertionError if none comes in time, or at all."""

        def found() -> str | None:
            return next(filter(wanted, self._lines), None)

        with self._changed:
            self._changed.wait_for(lambda: self._over or found() is not None, timeout_s)
            line = found()
            if line is None:
                said = "\n".join(self._lines[-50:])
                raise AssertionError(f"{self._of} did not say what was awaited for {timeout_s:g} s, but:\n{said}")
            return line

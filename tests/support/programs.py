"""Programs in processes of their own: the command line, and a subscriber that says in JSON how it fares."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.support.nodes import DEADLINE_S

FOLLOWER = Path(__file__).with_name("follower.py")

ENDING_S = 60.0
"""A program that starts and ends needs more than one that answers, beside others that are busy."""


def usbcast(*arguments: str) -> list[str]:
    """The command line of the program under test: the one that was installed beside this interpreter."""
    found = shutil.which("usbcast", path=str(Path(sys.executable).parent))
    assert found, "usbcast is not installed here: pip install -e '.[dev]'"
    return [found, *arguments]


class Program:
    """A running process, heard line by line. A context manager that kills what is left of it."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Wide tables, so that what is looked for is not folded.
            env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", **environment},
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.out, self._lines)),
            threading.Thread(target=self._read, args=(self._process.stderr, self.err, None)),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def stdout(self) -> str:
        return "".join(self.out)

    @property
    def stderr(self) -> str:
        return "".join(self.err)

    def hear(self, event: str, timeout_s: float = DEADLINE_S, *, where: Callable[[Any], bool] = bool) -> dict[str, Any]:
        """The next JSON line with this `event`; those before it are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"it did not say {event!r} in {timeout_s} s; {self._state()}")
            said = json.loads(line)
            if said["event"] == event and where(said):
                return dict(said)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def finish(self, timeout_s: float = ENDING_S) -> int:
        """Wait for its end and return its exit code."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {timeout_s} s; {self._state()}") from None
        self._join()
        return code

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.running:
            self._process.kill()
        self._process.wait()
        self._join()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join()

    def _state(self) -> str:
        state = "it runs" if self.running else f"it ended with {self._process.returncode}"
        return f"{state}; stdout: {self.out[-20:]}; stderr: {self.err[-20:]}"

    @staticmethod
    def _read(stream: IO[str] | None, into: list[str], lines: queue.SimpleQueue[str | None] | None) -> None:
        assert stream is not None
        with stream:
            for line in stream:
                into.append(line)
                if lines is not None:
                    lines.put(line)
        if lines is not None:
            lines.put(None)


def run(*arguments: str, timeout_s: float = ENDING_S, **environment: str) -> Program:
    """`usbcast` with these arguments, to its end."""
    with Program(usbcast(*arguments), **environment) as program:
        program.finish(timeout_s)
    return program


def serve(*arguments: str, **environment: str) -> tuple[Program, str]:
    """A node with a simulated device in a process of its own, and its endpoint."""
    program = Program(usbcast("serve", "--simulate", "--ring-size", "8MiB", "--json", *arguments), **environment)
    try:
        return program, program.hear("serving")["endpoint"]
    except BaseException:
        program.kill()
        raise


def follow(endpoint: str, via: str, *arguments: str, stream: str = "first-case") -> Program:
    """A subscriber in a process of its own; `follower.py` says what it tells."""
    return Program([sys.executable, str(FOLLOWER), endpoint, stream, via, *arguments])

"""A program that runs in the guest, as the host sees it: its output, its signals, its end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from kernelrig.lines import Lines


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    code: int
    out: list[str]
    err: list[str]


class Program:
    """Started through the guest's agent; a context manager that kills what still runs."""

    def __init__(self, agent_port: int, argv: Sequence[str], *, user: str | None = None) -> None:
        self._name = " ".join(argv)
        self._socket = socket.create_connection(("127.0.0.1", agent_port), timeout=30)
        self._messages = self._socket.makefile("rb")
        self._messages.readline()  # the greeting
        self._socket.settimeout(None)
        self._send(argv=list(argv), user=user)
        self.out = Lines(self._name)
        self.err = Lines(self._name)
        self._code: int | None = None
        self._thread = threading.Thread(target=self._listen, name=f"guest: {self._name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, which kills the program if it still runs."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._messages.close()
        self._socket.close()

    def signal(self, number: int) -> None:
        self._send(signal=number)

    def write(self, line: str) -> None:
        """Give the program a line to read."""
        self._send(stdin=line + "\n")

    def wait_for(self, wanted: Callable[[str], bool], timeout_s: float = 120.0) -> str:
        """The first line of its output that is wanted; AssertionError if none comes in time."""
        try:
            return self.out.wait_for(wanted, timeout_s)
        except AssertionError as failure:
            failure.add_note("\n".join(self.err.all()[-50:]))
            raise

    def line(self, number: int, timeout_s: float = 120.0) -> str:
        """Its output's line with this number, from 1."""
        return self.out.wait_until(number, timeout_s)

    def finish(self, timeout_s: float = 120.0) -> Finished:
        """Wait for its end; AssertionError if that takes longer."""
        self._thread.join(timeout_s)
        out, err = self.out.all(), self.err.all()
        assert self._code is not None, f"{self._name} did not end within {timeout_s:g} s: {out[-50:]} {err[-50:]}"
        return Finished(self._code, out, err)

    def _send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            for line in self._messages:
                message = json.loads(line)
                if "stdout" in message:
                    self.out.add(message["stdout"])
                elif "stderr" in message:
                    self.err.add(message["stderr"])
                else:
                    self._code = message["exit"]
        self.out.end()
        self.err.end()

"""A node in the guest: started with `usbcast serve`, asked for its books from the host, stopped with Ctrl-C."""

from __future__ import annotations

import json
import signal
from types import TracebackType
from typing import Any

from kernelrig.guest import Guest
from usbcast import NodeClient
from usbcast_schemas.v1 import usbcast_pb2 as pb

WATCHED = "/project/tests/kernel/guest/watched_node.py"
KEEPING = "--cancelled-reads-keep-data"


class Serving:
    """A node that serves some profiles, shipped ones by name or files in the guest; a context manager that ends it.

    With `watched` it can say how much CPU its threads use; with `keeping` as well, it ends reads of the device of software
    although that comes over USB/IP.
    """

    def __init__(
        self,
        guest: Guest,
        *profiles: str,
        node: int = 0,
        user: str | None = None,
        watched: bool = False,
        keeping: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        self._guest = guest
        port = guest.node_port(node)
        self.warnings: list[str] = []
        """What it wrote to stderr, known when it has stopped."""
        self.endpoint = f"tcp://127.0.0.1:{port}"
        watched_program = ("python3", WATCHED, KEEPING) if keeping else ("python3", WATCHED)
        program = watched_program if watched or keeping else ("usbcast",)
        bind = ("--bind", f"tcp://0.0.0.0:{port}", "--insecure")
        self._asked = 0
        self._program = guest.start(*program, "serve", *profiles, *bind, *options, "--json", user=user)
        try:
            serving = json.loads(self._program.wait_for(lambda line: json.loads(line)["event"] == "serving"))
        except BaseException:
            self._program.close()
            raise
        self.streams: list[str] = serving["streams"]

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._program.close()

    @property
    def stream(self) -> str:
        """The stream of the first profile."""
        return self.streams[0]

    def health(self, stream: str | None = None) -> pb.StreamHealth:
        """The books of a stream, by default the first one, as they stand."""
        with NodeClient(self.endpoint, timeout_s=20) as node:
            return next(found for found in node.health().streams if found.stream == (stream or self.stream))

    def cpu_ns(self) -> dict[str, int]:
        """CPU used so far by each thread of a watched node."""
        self._program.write("threads")
        self._asked += 1
        used: dict[str, int] = json.loads(self._program.line(1 + self._asked))["cpu_ns"]
        return used

    def hold_up(self, seconds: float) -> None:
        """Stop the whole process for a while, as an operating system under load does."""
        with NodeClient(self.endpoint, timeout_s=20) as node:
            pid = node.health().node_pid
        # The shell's own read, because to start a program takes a while.
        never = "rm -f /tmp/never; mkfifo /tmp/never; exec 9<> /tmp/never"
        self._guest.shell(f"{never}; kill -STOP {pid}; read -t {seconds} -u 9 || kill -CONT {pid}")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._program.signal(signal.SIGINT)

    def wait_for_farewell(self, timeout_s: float) -> None:
        """Return when it has told its last books, even if the process does not end yet."""
        self._program.wait_for(lambda line: json.loads(line)["event"] == "ended", timeout_s)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Wait for its end; return the books with which it took its leave, by stream."""
        finished = self._program.finish()
        assert finished.code == 0, finished
        self.warnings = finished.err
        farewell = json.loads(finished.out[-1])
        assert farewell["event"] == "ended"
        books: dict[str, dict[str, Any]] = farewell["streams"]
        return books

    def stop_all(self) -> dict[str, dict[str, Any]]:
        """End it as Ctrl-C does; return the books of its streams."""
        self.interrupt()
        return self.finish()

    def stop(self) -> dict[str, Any]:
        """End it as Ctrl-C does; return the books of its first stream."""
        return self.stop_all()[self.stream]

"""A node in the guest: started with `usbcast serve`, asked for its books from the host, stopped with Ctrl-C."""

from __future__ import annotations

import json
import signal
from types import TracebackType
from typing import Any

from kernelrig.guest import Guest
from usbcast import NodeClient
from usbcast_schemas.v1 import usbcast_pb2 as pb


class Serving:
    """A node that serves `profile`; a context manager that ends it, at the latest then."""

    def __init__(self, guest: Guest, profile: str, *, node: int = 0, user: str | None = None) -> None:
        port = guest.node_port(node)
        self.stream = profile
        self.warnings: list[str] = []
        """What it wrote to stderr, known when it has stopped."""
        self.endpoint = f"tcp://127.0.0.1:{port}"
        bind = f"tcp://0.0.0.0:{port}"
        self._program = guest.start("usbcast", "serve", profile, "--bind", bind, "--insecure", "--json", user=user)
        try:
            self._program.wait_for(lambda line: json.loads(line)["event"] == "serving")
        except BaseException:
            self._program.close()
            raise

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._program.close()

    def health(self) -> pb.StreamHealth:
        """The books as they stand."""
        with NodeClient(self.endpoint) as node:
            return node.health().streams[0]

    def stop(self) -> dict[str, Any]:
        """End it as Ctrl-C does; return the books with which it took its leave."""
        self._program.signal(signal.SIGINT)
        finished = self._program.finish()
        assert finished.code == 0, finished
        self.warnings = finished.err
        farewell = json.loads(finished.out[-1])
        assert farewell["event"] == "ended"
        books: dict[str, Any] = farewell["streams"][self.stream]
        return books

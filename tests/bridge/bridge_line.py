"""A line that can be cut: every byte between a bridge and its upstream passes through here, and is counted."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.programs import Program
from usbcast_schemas.sockets import split_tcp

Start = Callable[..., tuple[Program, dict[str, Any]]]
"""What starts a program; see conftest."""

HOST = "127.0.0.2"
"""Another address of this machine: who reaches a node by it is sent to its data by it, at the ports that the node told."""

CHUNK_BYTES = 65536


class Stream:
    """Passes on what comes for these endpoints of a node on 127.0.0.1, until it is cut, and again when it is mended."""

    def __init__(self, *endpoints: str) -> None:
        ports = [found[1] for endpoint in endpoints if (found := split_tcp(endpoint))]
        self.endpoint = f"tcp://{HOST}:{ports[0]}"
        self.from_node = 0
        """Bytes that came from the node so far."""
        self._cut = False
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, tuple[socket.socket, bool]] = {}
        for port in ports:
            self._selector.register(socket.create_server((HOST, port)), selectors.EVENT_READ, port)
        self._thread = threading.Thread(target=self._run, name="line")
        self._thread.start()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping = True
        self._thread.join()
        for one in [key.fileobj for key in self._selector.get_map().values()]:
            assert isinstance(one, socket.socket)
            one.close()
        self._selector.close()

    def cut(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._cut = True

    def mend(self) -> None:
        """New connections pass; those that were there are gone."""
        self._cut = False

    def _run(self) -> None:
        cut = False
        while not self._stopping:
            if self._cut:
                cut = True
                time.sleep(0.01)
                continue
            if cut:
                cut = False
                for one in list(self._pairs):
                    self._close(one)
            for key, _ in self._selector.select(0.02):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one in self._pairs:
                    self._pass(one)
                elif key.data is not None:
                    self._accept(one, key.data)

    def _accept(self, listener: socket.socket, port: int) -> None:
        client, _ = listener.accept()
        try:
            node = socket.create_connection(("127.0.0.1", port))
        except OSError:
            client.close()
            return
        for one, other, is_node in ((client, node, False), (node, client, True)):
            self._pairs[one] = (other, is_node)
            self._selector.register(one, selectors.EVENT_READ, None)

    def _pass(self, one: socket.socket) -> None:
        other, is_node = self._pairs[one]
        try:
            data = one.recv(CHUNK_BYTES)
            other.sendall(data)
        except OSError:
            data = b""
        if is_node:
            self.from_node += len(data)
        if not data:
            self._close(one)

    def _close(self, one: socket.socket) -> None:
        if one not in self._pairs:
            return
        other, _ = self._pairs[one]
        for end in (one, other):
            if self._pairs.pop(end, None) is not None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                end.close()

"""A way to a node that takes longer, in one direction or both: a TCP proxy for its requests."""

from __future__ import annotations

import contextlib
import heapq
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType

from usbcast_schemas.sockets import split_tcp

CHUNK_BYTES = 65536


@dataclass(order=True)
class _Held:
    due_s: float
    order: int
    to: socket.socket = field(compare=False)
    data: bytes = field(compare=False)


class DelayingProxy:
    """Passes on all bytes between clients and the node, those to the node after `there_s`, those from it after `back_s`.

    The data port is not passed on: a client takes the node's own data port at the host by which it reached the node. So
    `at` another address than the node's, there are no data.
    """

    def __init__(self, endpoint: str, *, there_s: float, back_s: float, at: str = "127.0.0.1") -> None:
        node = split_tcp(endpoint)
        assert node is not None
        self._node = node
        self._delays = (there_s, back_s)
        self._listener = socket.create_server((at, 0))
        self.endpoint = f"tcp://{at}:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._held: list[_Held] = []
        self._ended: list[socket.socket] = []
        self._numbers = count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="delaying proxy")
        self._thread.start()

    def __enter__(self) -> DelayingProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        for ended in self._ended:
            ended.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping:
            rest_s = self._held[0].due_s - time.monotonic() if self._held else 0.05
            for key, _ in self._selector.select(max(0.0, min(rest_s, 0.05))):
                if key.data is None:
                    self._accept()
                else:
                    self._take(key.fileobj, *key.data)  # type: ignore[arg-type]
            while self._held and self._held[0].due_s <= time.monotonic():
                held = heapq.heappop(self._held)
                with contextlib.suppress(OSError):
                    held.to.sendall(held.data) if held.data else held.to.shutdown(socket.SHUT_WR)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            node = socket.create_connection(self._node)
        except OSError:
            client.close()
            return
        there_s, back_s = self._delays
        self._selector.register(client, selectors.EVENT_READ, (node, there_s))
        self._selector.register(node, selectors.EVENT_READ, (client, back_s))

    def _take(self, one: socket.socket, other: socket.socket, delay_s: float) -> None:
        try:
            data = one.recv(CHUNK_BYTES)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(one)
            self._ended.append(one)
        heapq.heappush(self._held, _Held(time.monotonic() + delay_s, next(self._numbers), other, data))

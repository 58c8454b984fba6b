"""Messages of two frames out of a ZeroMQ socket: by the native core, past pyzmq, or by pyzmq (docs/decisions/0067)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import zmq

from usbcast_schemas import engine
from usbcast_schemas.batch import Buffer

# As a plain number: pyzmq's are of an enumeration, whose every "and" and "or" takes as long as handing over a message.
_DONTWAIT = int(zmq.DONTWAIT)

IN_PLACE_BYTES = 64 * 1024
"""From so many bytes on a received frame is looked at where libzmq has it, which then costs less than a copy."""


engine.agree(IN_PLACE_BYTES=IN_PLACE_BYTES)


class Messages(Protocol):
    """What comes out of a socket, of two frames a message; one thread at a time uses it."""

    drained: bool
    """Whether nothing more had come when it was looked last."""

    @property
    def left_over(self) -> bool:
        """True if a message that has come was left to be received."""

    def receive(self) -> list[Buffer] | None:
        """The frames of the next message, bytes or views of where libzmq has them; None if none has come.

        Where that is not two frames, what comes next may be taken along, and all of it is then of no use.
        """

    def close(self) -> None:
        """To be called before the socket is closed: it is not touched any more."""


class PyzmqMessages:
    """As the native core does it, by pyzmq."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._left: list[Buffer] | None = None
        self.drained = False
        self.is_open = True

    @property
    def left_over(self) -> bool:
        return self._left is not None

    def put_back(self, frames: list[Buffer]) -> None:
        """Let a message that was received come again, before any other."""
        self._left = frames

    def receive(self) -> list[Buffer] | None:
        if self._left is not None:
            frames, self._left = self._left, None
            return frames
        if not self.is_open:
            raise ValueError("these messages are closed")
        # Whether one follows the first is not asked, as that takes as long as receiving it: a message of one frame takes the
        # first one of the next along. At the end it is where a message begins, whatever came.
        try:
            received: list[Buffer] = [self._socket.recv(_DONTWAIT)]
        except zmq.Again:
            self.drained = True
            return None
        self.drained = False
        more = True
        while more:
            try:
                frame = self._socket.recv(_DONTWAIT, copy=False)
            except zmq.Again:
                break
            more = frame.more
            received.append(frame.bytes if len(frame) < IN_PLACE_BYTES else frame.buffer.toreadonly())
        return received

    def close(self) -> None:
        self.is_open = False


def finds_libzmq(core: ModuleType) -> bool:
    """Whether `core` has the functions of the libzmq that pyzmq has loaded; from then on it has them."""
    backend = sys.modules.get("zmq.backend.cython._zmq")
    return backend is not None and bool(core.find_libzmq(backend.__file__))


def _native_messages(core: ModuleType) -> Callable[[zmq.Socket[bytes]], Messages]:
    def made(socket: zmq.Socket[bytes]) -> Messages:
        return core.Messages(socket.underlying) if finds_libzmq(core) else PyzmqMessages(socket)

    return made


messages_of: Callable[[zmq.Socket[bytes]], Messages] = engine.chosen(PyzmqMessages, _native_messages)
"""What comes out of a socket: by the native core, where that is the engine and finds the libzmq that pyzmq has, else by pyzmq."""

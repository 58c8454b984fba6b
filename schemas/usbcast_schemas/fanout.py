"""Fan-out: send messages into a publishing ZeroMQ socket, by the native core or by pyzmq, without waiting for a peer.

Any call on a ZeroMQ socket may first carry out what its peers have caused: libzmq queues commands for the socket, and the
command for a peer that has gone walks the whole tree of subscriptions. While commands wait, the socket's descriptor is readable.
So a sender looks there first. If nothing waits, it sends; otherwise it leaves its message in a bounded queue to the thread that
attends to the socket (`Fanout.attend`), and goes on (docs/decisions/0081).

Two threads share the socket, and a ZeroMQ socket bears one at a time: `_use` is held during each call on it. A sender never
waits for `_use`. If it cannot get it, it appends its message and tries once more. That second try closes the race: the attending
thread looks at the queue again each time after it gave the socket back. So if the sender fails again, that look is still to
come; if it succeeds, it sends what waits itself, unless commands wait, and those wake the attending thread anyway.
The order of messages is kept because a sender goes straight to the socket only while
the queue is empty.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, Protocol

import zmq

from usbcast_schemas import engine
from usbcast_schemas.batch import Buffer
from usbcast_schemas.messages import finds_libzmq
from usbcast_schemas.sockets import property_of

# As plain numbers: pyzmq's are of an enumeration, whose every "and" and "or" takes as long as handing over a message.
_DONTWAIT, _SNDMORE = int(zmq.DONTWAIT), int(zmq.SNDMORE)

_send = zmq.backend.Socket.send

MOST_WAITING = 512
"""Messages that wait for the attending thread; as many as wait for a slow peer, and beyond them they are dropped likewise."""

MOST_SAID = 100
"""So many messages of subscribers are handed out at a time."""

LOOK_S = 1.0
"""The attending thread looks this often though nothing woke it: a sender may, very rarely, have carried out what it waits for."""


engine.agree(MOST_WAITING=MOST_WAITING, MOST_SAID=MOST_SAID, LOOK_MS=round(LOOK_S * 1000))


class Said(NamedTuple):
    """What came up from a subscriber; libzmq itself says the end of the last subscription of its kind, and then names nobody."""

    descriptor: int
    user: str | None
    address: str | None
    what: bytes


class Fanout(Protocol):
    """What goes into a publishing socket, of two frames a message. One thread attends; one at a time sends.

    (The native core holds the GIL while it sends.)
    """

    @property
    def dropped(self) -> int:
        """Messages for which there was no room to wait."""

    def send(self, first: Buffer, second: Buffer, /) -> None:
        """Send a message without waiting, or have the attending thread send it.

        Raises OSError (by pyzmq ZMQError) where the socket does not take it.
        """

    def attend(self, bell: int, /) -> Sequence[tuple[int, str | None, str | None, bytes]]:
        """Carry out what peers cause, and send what waits, until subscribers have said something (see `Said`): return it.

        Nothing if the descriptor `bell` is readable.
        """

    def close(self) -> None:
        """To be called before the socket is closed, and when nobody attends: it is not touched any more."""


class PyzmqFanout:
    """As the native core does it, by pyzmq, which lets go of the GIL to send and to receive."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._use = threading.Lock()
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._said = False
        self._commands = select.poll()
        self._commands.register(socket.fileno(), select.POLLIN)
        self.dropped = 0

    def send(self, first: Buffer, second: Buffer, /) -> None:
        if not self._waiting and self._use.acquire(blocking=False):
            try:
                if not self._has_commands():
                    self._send(first, second)
                    return
            finally:
                self._use.release()
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append((bytes(first), bytes(second)))
        else:
            self.dropped += 1
        # Whoever had the socket looks for what waits once more after giving it back: if it has not been given back by now, that
        # is still to come. Otherwise nobody may come, unless there are commands.
        if self._use.acquire(blocking=False):
            try:
                while self._waiting and not self._has_commands():
                    self._send(*self._waiting.popleft())
            finally:
                self._use.release()

    def attend(self, bell: int, /) -> Sequence[tuple[int, str | None, str | None, bytes]]:
        look = select.poll()
        look.register(self._socket.fileno(), select.POLLIN)
        look.register(bell, select.POLLIN)
        said: list[tuple[int, str | None, str | None, bytes]] = []
        rung = False
        while not said and not rung:
            at_once = self._said or bool(self._waiting)
            rung = any(fd == bell for fd, _ in look.poll(0 if at_once else LOOK_S * 1000))
            with self._use:
                for _ in range(MOST_WAITING):
                    if not self._waiting:
                        break
                    if self._has_commands():
                        # A send may put off what peers have taken, and then drop a message because their queue seems full.
                        self._socket.getsockopt(zmq.EVENTS)
                    self._send(*self._waiting.popleft())
                self._said = self._receive(said)
        return said

    def _has_commands(self) -> bool:
        return bool(self._commands.poll(0))

    def _send(self, first: Buffer, second: Buffer) -> None:
        # Past pyzmq's own wrapper, which is about other kinds of sockets than these.
        _send(self._socket, first, _DONTWAIT | _SNDMORE)
        _send(self._socket, second, _DONTWAIT)

    def _receive(self, said: list[tuple[int, str | None, str | None, bytes]]) -> bool:
        """Whether there may be more."""
        while len(said) < MOST_SAID:
            try:
                frame = self._socket.recv(_DONTWAIT, copy=False)
            except zmq.Again:
                return False
            user, address = property_of(frame, "User-Id"), property_of(frame, "Peer-Address")
            said.append((_descriptor_of(frame), user, address, frame.bytes))
        return True

    def close(self) -> None:
        return


def _descriptor_of(frame: zmq.Frame) -> int:
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _pure_sender(fanouts: Sequence[Fanout], topic: bytes) -> Callable[[Buffer], None]:
    def send(body: Buffer) -> None:
        for fanout in fanouts:
            fanout.send(topic, body)

    return send


def _native_fanout(core: ModuleType) -> Callable[[zmq.Socket[bytes]], Fanout]:
    def made(socket: zmq.Socket[bytes]) -> Fanout:
        return core.Fanout(socket.underlying) if finds_libzmq(core) else PyzmqFanout(socket)

    return made


def _native_sender(core: ModuleType) -> Callable[[Sequence[Fanout], bytes], Callable[[Buffer], None]]:
    def made(fanouts: Sequence[Fanout], topic: bytes) -> Callable[[Buffer], None]:
        by_core = all(isinstance(fanout, core.Fanout) for fanout in fanouts)
        return core.Sender(tuple(fanouts), topic) if by_core else _pure_sender(fanouts, topic)

    return made


fanout_of: Callable[[zmq.Socket[bytes]], Fanout] = engine.chosen(PyzmqFanout, _native_fanout)
"""What goes into a socket: by the native core, where that is the engine and finds the libzmq that pyzmq has, else by pyzmq."""

sender_of: Callable[[Sequence[Fanout], bytes], Callable[[Buffer], None]] = engine.chosen(_pure_sender, _native_sender)
"""What sends the body that it is called with on a topic, through each of several fan-outs."""

"""Commands that the devices of a node are carrying out: bounded in number and bytes; their replies wait to be sent."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from usbcast_broker.serving.streams import Refused
from usbcast_broker.stream.pipeline import Feed
from usbcast_schemas.errors import UsbcastError
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

C = TypeVar("C")

MAX_COMMANDS = 1000
"""Commands under way; beyond it a client is told to try again."""

MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""Bytes of all commands under way."""


class CommandsUnderWay(Generic[C]):
    """The commands of clients `C`. Used by one thread; a device's own thread hands in its answer and calls `ring`."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._answers: deque[tuple[C, pb.Reply, int]] = deque()
        """Replies ready to be sent, each with the size of its request."""
        self._count = self._size_bytes = 0

    def begin(self, client: C, feed: Feed, request: pb.Request) -> None:
        """Have the device carry out the command of `request`. Raises Refused if too many are under way."""
        size_bytes, request_id = request.ByteSize(), request.request_id
        if self._count >= MAX_COMMANDS or self._size_bytes + size_bytes > MAX_COMMAND_BYTES:
            raise Refused(
                pb.ErrorReply.CODE_BUSY,
                f"{self._count} commands of {self._size_bytes} bytes are waiting for an answer: try again later",
            )
        future = feed.command(request.command)
        self._count += 1
        self._size_bytes += size_bytes

        def done(answered: Future[pb.CommandReply]) -> None:
            reply = _reply_of(answered)
            reply.request_id = request_id
            self._answers.append((client, reply, size_bytes))
            self._ring()

        future.add_done_callback(done)

    def pop_answers(self) -> Iterator[tuple[C, pb.Reply]]:
        """Yield the replies that are ready, each once, with the client that gets it."""
        while self._answers:
            client, reply, size_bytes = self._answers.popleft()
            self._count -= 1
            self._size_bytes -= size_bytes
            yield client, reply


def _reply_of(answered: Future[pb.CommandReply]) -> pb.Reply:
    error = answered.exception()
    if error is None:
        return pb.Reply(commanded=answered.result())
    if not isinstance(error, UsbcastError):
        log.error("a command failed", exc_info=error)
    return pb.Reply(error=pb.ErrorReply(code=pb.ErrorReply.CODE_DEVICE, message=str(error)))

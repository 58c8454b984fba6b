"""Asking a node: a DEALER socket, one request at a time, each answered within a time or given up with a sentence."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import zmq

from usbcast.node.credentials import Credentials, Keys, credentials
from usbcast.node.endpoints import is_stored, parse
from usbcast.node.handshake import Handshakes
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import (
    AccessRefused,
    CommandFailed,
    NodeUnreachable,
    RemoteError,
    StreamUnknown,
    UsageError,
    VersionMismatch,
    WireError,
)
from usbcast_schemas.sockets import connect, set_up, split_tcp
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_DATA_BYTES, decode_reply

DEFAULT_TIMEOUT_S = 3.0
_STOPPING_S = 0.1


def dealer(endpoint: str, keys: Credentials | None) -> tuple[zmq.Socket[bytes], Handshakes]:
    """A socket connected to a node's request address, and what watches its handshakes. Raises UsageError, KeysError."""
    if is_stored(endpoint):
        raise UsageError(
            f"{parse(endpoint)} is a server that stores streams, not a node: subscribe, watch, record, list and info read "
            "from it; whatever asks a node or its device needs the node's own endpoint"
        )
    split_tcp(endpoint)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    try:
        set_up(socket, max_message_bytes=MAX_DATA_BYTES)
        handshakes = Handshakes(socket, endpoint, endpoint, keys)
    except BaseException:
        socket.close()
        raise
    try:
        connect(socket, endpoint)
    except BaseException:
        handshakes.close()
        socket.close()
        raise
    return socket, handshakes


def raise_error(error: pb.ErrorReply) -> None:
    """Raise what an error reply says."""
    kinds: dict[int, type[Exception]] = {
        pb.ErrorReply.CODE_VERSION: VersionMismatch,
        pb.ErrorReply.CODE_STREAM_UNKNOWN: StreamUnknown,
        pb.ErrorReply.CODE_DEVICE: CommandFailed,
        pb.ErrorReply.CODE_FORBIDDEN: AccessRefused,
    }
    raise kinds.get(error.code, RemoteError)(error.message)


class NodeClient:
    """Requests to one node, from one thread; `keys` as for `usbcast.subscribe`. Once `stopping` is set, no answer is waited for.

    Raises NodeUnreachable, AccessRefused, StreamUnknown, CommandFailed, PeerError.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        keys: Keys = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._socket, self._handshakes = dealer(endpoint, credentials(keys))
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._handshakes.socket, zmq.POLLIN)
        self._last_id = 0
        self._pid = os.getpid()

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._handshakes.close()
        self._socket.close()

    def describe(self, stream: str = "") -> list[pb.StreamInfo]:
        """Return the description of `stream`; of all streams of the node if empty."""
        reply, _ = self._ask(pb.Request(describe=pb.DescribeRequest(stream=stream)))
        return list(reply.described.streams)

    def describe_stream(self, stream: str) -> pb.StreamInfo:
        """Return the node's first description of `stream`. Raises WireError if there is none in the reply."""
        for info in self.describe(stream):
            if info.stream == stream:
                return info
        raise WireError(f"the node at {self.endpoint} answered without a description of {stream!r}")

    def fetch(self, request: pb.FetchRequest) -> tuple[pb.FetchReply, Sequence[EncodedBatch]]:
        reply, batches = self._ask(pb.Request(fetch=request))
        return reply.fetched, batches

    def health(self) -> pb.HealthReply:
        """Return the ledgers of all streams of the node."""
        return self._ask(pb.Request(health=pb.HealthRequest()))[0].health

    def command(self, request: pb.CommandRequest) -> pb.CommandReply:
        """Have the device do something; raise CommandFailed if it will not."""
        timeout_s = max(self._timeout_s, request.timeout_ms / 1000 + 2.0)
        return self._ask(pb.Request(command=request), timeout_s)[0].commanded

    def clock(self) -> pb.ClockReply:
        request = pb.ClockRequest(sent_monotonic_ns=time.monotonic_ns())
        return self._ask(pb.Request(clock=request))[0].clock

    def _ask(self, request: pb.Request, timeout_s: float | None = None) -> tuple[pb.Reply, Sequence[EncodedBatch]]:
        if self._pid != os.getpid():
            raise UsageError(
                f"this client of {self.endpoint} belongs to process {self._pid}, and process {os.getpid()} was forked from it: "
                "create a new client in this process"
            )
        self._last_id += 1
        request.contract = CONTRACT
        request.request_id = self._last_id
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(
            zmq.Again
        ):  # a full queue means that the node takes nothing; then no answer comes in time
            self._socket.send(request.SerializeToString(), zmq.DONTWAIT)
        while self._await_reply(deadline):
            reply, batches, unreadable = decode_reply(self._socket.recv_multipart())
            if unreadable:
                raise unreadable[0]
            if reply.WhichOneof("body") == "error" and reply.request_id in (self._last_id, 0):
                raise_error(reply.error)
            if reply.request_id == self._last_id:
                return reply, batches
        raise NodeUnreachable(
            f"no node answered at {self.endpoint} within {timeout_s:g} s: is one running there? "
            "`usbcast serve --simulate` starts one"
        )

    def _await_reply(self, deadline: float) -> bool:
        """Wait until a reply is there; False if the time is up, whatever else has come. Raises AccessRefused."""
        while time.monotonic() < deadline:
            rest_s = min(deadline - time.monotonic(), self._handshakes.rest_s)
            if self._stopping is not None:
                rest_s = min(rest_s, _STOPPING_S)
                if self._stopping.is_set():
                    return False
            ready = dict(self._poller.poll(max(0, int(rest_s * 1000))))
            if self._socket in ready:
                return True
            self._handshakes.check()
        return False

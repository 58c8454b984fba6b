"""Command forwarding: commands for a bridged stream go to its upstream, one after another, on a thread of their own."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from usbcast.bridge.upstream import Upstream
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import CommandFailed
from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_COMMANDS = 64
"""Commands of one stream that may wait for the upstream; further ones are refused."""


class CommandForwarder:
    """Forwards the commands of one stream, in order; refuses them once `stopping` is set."""

    def __init__(self, upstream: Upstream, stopping: threading.Event) -> None:
        self._upstream = upstream
        self._stopping = stopping
        self._pending: set[Future[pb.CommandReply]] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="usbcast-bridge-commands")

    def forward(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have the upstream's device execute the command. A refusal is a future with CommandFailed."""
        refusal = self._refusal()
        if refusal:
            refused: Future[pb.CommandReply] = Future()
            refused.set_exception(CommandFailed(refusal))
            return refused
        forwarded = pb.CommandRequest()
        forwarded.CopyFrom(request)
        forwarded.stream = self._upstream.stream
        answer = self._executor.submit(self._ask, forwarded)
        self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        return answer

    def close(self) -> None:
        """Cancel the commands that wait, and wait for the one that is being executed."""
        self._executor.shutdown(cancel_futures=True)

    def _refusal(self) -> str:
        if not self._upstream.commands:
            return f"the bridge does not forward commands to {self._upstream.endpoint}"
        if len(self._pending) >= MAX_COMMANDS:
            return f"{MAX_COMMANDS} commands are already waiting for {self._upstream.endpoint}: try again"
        return "the bridge is stopping" if self._stopping.is_set() else ""

    def _ask(self, request: pb.CommandRequest) -> pb.CommandReply:
        with NodeClient(self._upstream.endpoint, keys=self._upstream.keys) as node:
            return node.command(request)

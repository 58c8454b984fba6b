"""Commands to the device of a stream while it streams: each asks the stream's node, over a connection of its own."""

from __future__ import annotations

from usbcast.node.credentials import Keys
from usbcast.node.endpoints import is_stored, parse
from usbcast.node.locate import locate
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import UsageError
from usbcast_schemas.v1 import usbcast_pb2 as pb


class Commands:
    """Commands of one stream. Each call may come from any thread, and waits for its answer."""

    def __init__(self, stream: str, endpoint: str | None, keys: Keys = None) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self._keys = keys

    def command(
        self,
        request_type: int,
        request: int,
        value: int = 0,
        index: int = 0,
        *,
        data: bytes = b"",
        length: int = 0,
        timeout_s: float = 1.0,
    ) -> bytes:
        """Make a control transfer to the device while it streams; return the bytes that it answered.

        If bit 7 of `request_type` (bmRequestType) is set, up to `length` bytes are read; otherwise `data` is written.
        Raises CommandFailed, NodeUnreachable.
        """
        control = pb.ControlTransfer(
            request_type=request_type, request=request, value=value, index=index, data=data, length=length
        )
        return self._ask(pb.CommandRequest(control=control), timeout_s).data

    def write(self, endpoint: int, data: bytes, *, timeout_s: float = 1.0) -> int:
        """Send `data` to an OUT endpoint of the device; return how many bytes it took. Raises as `command` does."""
        return self._ask(pb.CommandRequest(out=pb.OutTransfer(endpoint=endpoint, data=data)), timeout_s).written

    def _ask(self, request: pb.CommandRequest, timeout_s: float) -> pb.CommandReply:
        if self._endpoint is not None and is_stored(self._endpoint):
            raise UsageError(
                f"{parse(self._endpoint)} is a server that stores streams, and cannot reach the device: "
                "send commands to the device's node"
            )
        request.stream = self._stream
        request.timeout_ms = int(timeout_s * 1000)
        with NodeClient(locate(self._stream, self._endpoint), keys=self._keys) as node:
            return node.command(request)

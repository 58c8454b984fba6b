"""The link to the node by which a receiver asks: requests go out and replies are taken as they come, without waiting."""

from __future__ import annotations

import contextlib
import math

import zmq

from usbcast.node.credentials import Credentials
from usbcast.node.handshake import Handshakes
from usbcast.node.locate import Finder
from usbcast.node.requests import dealer
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.sockets import readable
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import ReceivedReply, decode_reply


class Link:
    """One DEALER socket at a time, made when something is to be sent; used by one thread."""

    def __init__(self, stream: str, endpoint: str | None, waiter: Waiter, keys: Credentials | None) -> None:
        self.reached_by = ""
        """The request address that was used last."""
        self._finder = Finder(stream, endpoint)
        self._found = ""
        self._waiter = waiter
        self._keys = keys
        self._socket: zmq.Socket[bytes] | None = None
        self._handshakes: Handshakes | None = None
        self._last_id = 0

    def find(self) -> bool:
        """Return True once the node's address is known; a search of the LAN takes time. Raises StreamAmbiguous, ConfigError."""
        if not self._found:
            self._found = self._finder.find() or ""
            self.reached_by = self._found or self.reached_by
        return bool(self._found)

    def send(self, request: pb.Request) -> int:
        """Send `request`, if the address is known and the socket takes it; return its id. Raises KeysError."""
        if self._socket is None:
            if not self.find():
                return self._last_id
            self._socket, self._handshakes = dealer(self.reached_by, self._keys)
            self._waiter.add(self._socket.fileno())
            self._waiter.add(self._handshakes.fileno())
        self._last_id += 1
        request.contract = CONTRACT
        request.request_id = self._last_id
        # A full queue means that the node takes nothing; then no answer comes in time, which the asker sees to anyway.
        with contextlib.suppress(zmq.Again):
            self._socket.send(request.SerializeToString(), zmq.DONTWAIT)
        return self._last_id

    def receive(self) -> ReceivedReply | None:
        """The next reply, with the batches it carries; None if none is there. Raises PeerError."""
        if self._socket is None:
            return None
        try:
            frames = self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        return decode_reply(frames)

    def check(self) -> None:
        """Raise AccessRefused if the node does not let this client in."""
        if self._handshakes is not None:
            self._handshakes.check()

    @property
    def rest_s(self) -> float:
        """How long `check` has nothing to do, if nothing comes."""
        return self._handshakes.rest_s if self._handshakes is not None else math.inf

    def may_sleep(self) -> bool:
        """Whether nothing has come meanwhile."""
        if self._socket is None or self._handshakes is None:
            return True
        if not self._handshakes.may_sleep():
            return False
        return not readable(self._socket)

    def drop(self, *, linger_ms: int = 0) -> None:
        """Close the socket; the next request looks for the node again."""
        self._found = ""
        if self._socket is not None and self._handshakes is not None:
            self._waiter.remove(self._handshakes.fileno())
            self._waiter.remove(self._socket.fileno())
            self._handshakes.close()
            self._handshakes = None
            self._socket.close(linger=linger_ms)
            self._socket = None

    def close(self, *, linger_ms: int = 0) -> None:
        """Let go of everything."""
        self.drop(linger_ms=linger_ms)
        self._finder.close()

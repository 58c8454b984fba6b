"""Handshakes: whether a node lets this side in, noticed at once and said in words instead of as silence.

libzmq tries for ever, and tells the two sides different things: only a refused key is told to the client. Where the sides
do not agree on encryption, or the node has another key than expected, the node just closes the connection; then its
greeting, which says how it wants to be spoken to, tells which of these it is.
"""

from __future__ import annotations

import contextlib
import socket as posix
import time
from itertools import count

import zmq
from zmq.utils.monitor import parse_monitor_message

from usbcast.credentials import Credentials
from usbcast_schemas.errors import AccessRefused
from usbcast_schemas.keys import short_text
from usbcast_schemas.sockets import encrypt, readable, split_tcp

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_GREETING_BYTES = 64
_LOOKED_AT_S = 0.1
"""So that a node has the time to see whose connection it is, before it has a reason to end it."""

_VERSION = 11
_MECHANISM = slice(12, 32)
_PROBE_S = 2.0
_PROBE_AGAIN_S = 0.2
_FAILURES = 2
"""A node that goes away in the middle of a handshake looks like one with another key, but not twice in a row."""

_numbers = count(1)


class Handshakes:
    """Watches one socket before it connects. Used by the socket's thread; close it before the socket."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, reached_by: str, keys: Credentials | None) -> None:
        """Set up `socket` to connect to `endpoint` of the node whose request address is `reached_by`. Raises KeysError."""
        self._endpoint = endpoint
        self._reached_by = reached_by
        self._keys = keys
        self._node_key = b""
        self._failures = 0
        self._quiet = False
        """Whether nothing was there when it was looked last, so that what comes is said by the descriptor."""
        self._probe_at_s = 0.0
        if keys is not None:
            self._node_key = keys.node_key(reached_by)
            encrypt(socket, keys.own, self._node_key)
        self._socket = socket
        address = f"inproc://usbcast-handshakes-{next(_numbers)}"
        socket.monitor(address, _EVENTS)
        self._monitor: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        # libzmq's own thread would wait for room here, and with it every socket of the process.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(address)

    def fileno(self) -> int:
        return self._monitor.fileno()

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """Readable when `check` has something to look at."""
        return self._monitor

    def check(self) -> None:
        """Look at what has happened. Raises AccessRefused as soon as it is clear that this will not do."""
        self._quiet = False
        if not self._failures and self.may_sleep():
            return
        self._quiet = False
        while True:
            try:
                frames = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            event = parse_monitor_message(frames)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failures = 0
            elif event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise AccessRefused(self._refused())
            else:
                self._failures += 1
        if self._failures and time.monotonic() >= self._probe_at_s:
            self._probe_at_s = time.monotonic() + _PROBE_AGAIN_S
            self._diagnose()

    def may_sleep(self) -> bool:
        if not self._quiet:
            self._quiet = not readable(self._monitor)
        return self._quiet

    def close(self) -> None:
        """Stop watching. A monitor that loses its reader first stops libzmq for good."""
        self._socket.disable_monitor()
        self._monitor.close()

    def _diagnose(self) -> None:
        """Ask the node how it wants to be spoken to; say nothing if it is not there, or just went away."""
        mechanism = greeted(self._endpoint, "NULL" if self._keys is None else "CURVE")
        at = self._reached_by
        if mechanism == "CURVE" and self._keys is None:
            raise AccessRefused(
                f"the node at {at} lets in only clients with a key, and none was given: give --keys DIR (keys= in Python); "
                "usbcast keys new --keys DIR makes one"
            )
        if mechanism == "NULL" and self._keys is not None:
            raise AccessRefused(
                f"the node at {at} has no keys, and you want one with the key {short_text(self._node_key)}: "
                "connect without (no --keys, no USBCAST_KEYS), or start it with --keys"
            )
        if mechanism == "CURVE" and self._keys is not None and self._failures >= _FAILURES:
            raise AccessRefused(
                f"the node at {at} does not have the key {short_text(self._node_key)} that is expected of it: compare with "
                "`usbcast keys show` where the node runs. If its owner gave it a new one: "
                f"usbcast keys trust {at} KEY --keys {self._keys.directory}"
            )

    def _refused(self) -> str:
        assert self._keys is not None
        own = self._keys.own
        return (
            f"the node at {self._reached_by} does not let in your key {short_text(own.public, own.name)}: it was never allowed "
            f"there, or was revoked; ask the owner of the node to run: {self._keys.ask_to_be_let_in()}"
        )


def greeted(endpoint: str, mechanism: str) -> str:
    """The security mechanism that the node at `endpoint` wants: NULL, CURVE, or other; empty if no ZMTP is spoken there.

    `mechanism` is what it is greeted with. A node that wants another is waited for, so that it notices and says so too: of
    two libzmq that do not agree, the one that hears first hangs up, and the other never learns why. ZMTP 3.x: the first 64
    bytes of either side are its greeting, 20 of them the name of the mechanism (https://rfc.zeromq.org/spec/23/). Waits two
    seconds at most.
    """
    tcp = split_tcp(endpoint)
    deadline = time.monotonic() + _PROBE_S
    with contextlib.suppress(OSError):
        if tcp is None:
            peer = posix.socket(posix.AF_UNIX)
            peer.settimeout(_PROBE_S)
            peer.connect(endpoint.removeprefix("ipc://"))
        else:
            peer = posix.create_connection((tcp[0].strip("[]"), tcp[1]), _PROBE_S)
        with peer:
            peer.settimeout(_PROBE_S)
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.encode().ljust(20, b"\0") + bytes(32)
            peer.sendall(greeting[:_VERSION])  # enough to hear the whole of the node's; more might make it hang up
            said = b""
            while len(said) < _GREETING_BYTES and time.monotonic() < deadline:
                more = peer.recv(_GREETING_BYTES - len(said))
                if not more:
                    break
                said += more
            wanted = said[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")
            if wanted != mechanism:
                time.sleep(_LOOKED_AT_S)
            peer.sendall(greeting[_VERSION:])
            while wanted != mechanism and time.monotonic() < deadline and peer.recv(4096):
                pass
        if len(said) == _GREETING_BYTES and said[0] == 0xFF and said[9] & 1:
            return wanted
    return ""

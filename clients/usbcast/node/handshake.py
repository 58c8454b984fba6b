"""Handshakes: whether a node lets this side in, noticed at once and said in words instead of as silence.

libzmq tries for ever, and tells the two sides different things: only a refused key is told to the client. Where the sides
do not agree on encryption, or the node has another key than expected, the node just closes the connection; then its
greeting, which says how it wants to be spoken to, tells which of these it is.
"""

from __future__ import annotations

import math
import time
from itertools import count

import zmq
from zmq.utils.monitor import parse_monitor_message

from usbcast.node.credentials import Credentials
from usbcast.node.greeting import Probe
from usbcast_schemas.errors import AccessRefused
from usbcast_schemas.keys import short_text
from usbcast_schemas.sockets import encrypt, readable

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_PROBE_AGAIN_S = 0.2
_STEP_S = 0.02
"""How often to look at a probe's progress."""

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
        """True if the last look found nothing, so that the descriptor will signal whatever comes."""
        self._is_unexplained = False
        """True after a handshake failed for a reason that is not known yet."""
        self._probe: Probe | None = None
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
        """Look at what has happened. Raises AccessRefused as soon as it is clear that this will not do. Never waits."""
        self._quiet = False
        if self._is_unexplained or not self.may_sleep():
            self._quiet = False
            self._hear()
        if self._is_unexplained:
            self._explain()

    @property
    def rest_s(self) -> float:
        """Seconds until `check` has something to do, if nothing comes."""
        if not self._is_unexplained:
            return math.inf
        return _STEP_S if self._probe is not None else max(0.0, self._probe_at_s - time.monotonic())

    def _hear(self) -> None:
        """Take what libzmq says of the handshakes."""
        while True:
            try:
                frames = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            event = parse_monitor_message(frames)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failures = 0
                self._give_up_probe()
            elif event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise AccessRefused(self._refused())
            else:
                self._failures += 1
                self._is_unexplained = True

    def _explain(self) -> None:
        """Ask the node how it wants to be spoken to; say nothing if it is not there, or just went away."""
        if self._probe is None:
            if time.monotonic() < self._probe_at_s:
                return
            self._probe_at_s = time.monotonic() + _PROBE_AGAIN_S
            self._probe = Probe(self._endpoint, "NULL" if self._keys is None else "CURVE")
        mechanism = self._probe.look()
        if mechanism is not None:
            self._give_up_probe()
            self._judge(mechanism)

    def _give_up_probe(self) -> None:
        self._is_unexplained = False
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def may_sleep(self) -> bool:
        if not self._quiet:
            self._quiet = not readable(self._monitor)
        return self._quiet

    def close(self) -> None:
        """Stop watching. A monitor that loses its reader first stops libzmq for good."""
        self._give_up_probe()
        self._socket.disable_monitor()
        self._monitor.close()

    def _judge(self, mechanism: str) -> None:
        """Raise AccessRefused if what the node wants explains the failures."""
        at = self._reached_by
        if mechanism == "CURVE" and self._keys is None:
            raise AccessRefused(
                f"the node at {at} lets in only clients with a key, and you gave none: give --keys DIR (keys= in Python); "
                "usbcast keys new --keys DIR makes a key"
            )
        if mechanism == "NULL" and self._keys is not None:
            raise AccessRefused(
                f"the node at {at} has no keys, but you expect the key {short_text(self._node_key)}: "
                "connect without keys (no --keys, no USBCAST_KEYS), or start the node with --keys"
            )
        if mechanism == "CURVE" and self._keys is not None and self._failures >= _FAILURES:
            raise AccessRefused(
                f"the node at {at} does not have the expected key {short_text(self._node_key)}: compare with "
                "`usbcast keys show` on the node's machine. If its owner gave it a new key: "
                f"usbcast keys trust {at} KEY --keys {self._keys.directory}"
            )

    def _refused(self) -> str:
        assert self._keys is not None
        own = self._keys.own
        return (
            f"the node at {self._reached_by} does not let in your key {short_text(own.public, own.name)}: the key was never "
            f"allowed there, or was revoked; ask the owner of the node to run: {self._keys.ask_to_be_let_in()}"
        )

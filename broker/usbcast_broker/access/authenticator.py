"""The authenticator: the thread that admits or refuses peers, counts and names those refused, and keeps the keys current.

It answers libzmq about every connection, hears from the monitors of both sockets what becomes of them, and looks at the
list of clients several times a second. Nothing that a peer does may end it: without it nobody gets in.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import zmq

from usbcast_broker.access import admission
from usbcast_broker.access.admission import Admission
from usbcast_broker.access.connections import GONE_AT_ONCE, LOCAL, Connections, EndedBy, make_room
from usbcast_broker.access.memory import give_back, resident_bytes
from usbcast_broker.access.peers import peer_named
from usbcast_broker.access.refusals import Refusals
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_schemas.errors import KeysError, WireError
from usbcast_schemas.fanout import Said
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import KeyPair, short_text
from usbcast_schemas.sockets import guard
from usbcast_schemas.wire import MAX_REQUEST_BYTES

log = logging.getLogger(__name__)

REQUESTS, DATA, LOCAL_DATA = "requests", "data", "local data"
"""A node's sockets. Data has one for each address: this machine's subscribers are in no tree with those on the network."""

DATA_SOCKETS = (DATA, LOCAL_DATA)

KEYED_LOOK_S, LOOK_S = 0.2, 0.5
"""A revoked key is noticed so soon at the latest; without keys, a peer that talks to the data port. Each look has its cost."""

MAX_SAID_BYTES = 64 * 1024
"""Most bytes that a subscriber may send to the data port: its handshake and its subscriptions."""

MAX_UNENDED_BYTES = 2 * MAX_REQUEST_BYTES
"""Most bytes of unfinished or unhandled requests, over all connections. libzmq bounds a frame of a
message and not their number, and holds all of a message until its last one has come: 2 bytes sent may take 64 of memory."""

QUICK_LOOK_S, GROWN_BYTES = 0.04, 8 * 1024 * 1024
"""Interval of a check of the process's memory while clients are connected, and the growth that makes it check every bound."""

MAX_SLOW_S = 30.0
"""A connection that has not taken its answers for so long is cut; no client waits for one as long as that."""

MAX_GROWN_BYTES, MAX_BEHIND_S = 96 * 1024 * 1024, 1.0
"""If the process is larger than at its start by this much, subscribers that were behind at each look for so long are cut.
libzmq queues 512 batches of up to 96 KiB for each, and those are the same batches only for subscribers that stopped together."""

TRIM_S, TRIMS, WORTH_TRIMMING_BYTES = 1.0, 3, 32 * 1024 * 1024
"""After connections end and the process has grown by this much since its start, it gives memory back, at most three times."""

GONE = "gone before the handshake was over"
STALLED = "stalled in the handshake"
BROKEN = "broken handshake"
NOT_ZMTP = "not ZMTP, or too long"
NO_KEYS_HERE = "encrypted, and this node has no keys"
OTHER_NODE = "encrypted for a node with another key"
TOO_MANY = "too many connections"
TALKS = "talks to the data port"
ASKS_FOR_NOTHING = "subscribes to what does not exist"
UNENDING = "a request without an end"
TOO_SLOW = "client too slow for its answers"
BEHIND = "subscriber behind while memory is short"
NO_DESCRIPTOR = "no descriptor left"

DEPARTURES_TOLERATED = 2
"""Without keys: a program that is ended while it connects leaves like that, which is counted, and nothing to warn of."""

_SENTENCES = {
    GONE: "it disconnected before the handshake was complete, as a port scan or a client with other encryption settings does",
    STALLED: "it did not complete the handshake in time",
    BROKEN: "it sent an invalid ZMTP handshake",
}

_ZAP = "inproc://zeromq.zap.01"
_EVENT = struct.Struct("=HI")
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_MAX_EVENTS = 10_000
"""libzmq's thread waits for room beyond it: a flood of connections is slowed, and memory stays bounded."""


@dataclass(slots=True)
class _Monitor:
    """Events of one socket's monitor, and what follows from them."""

    which: str
    socket: zmq.Socket[bytes]
    failed: str | None = None
    """Reason of the failed handshake whose disconnection is reported next."""
    keys_refused: int = 0
    """Connections that libzmq is about to end as their keys were refused, which has been counted."""


class _Growth:
    """The memory of this process, looked at often, and given back once there is reason to."""

    def __init__(self) -> None:
        self._trims = 0
        """Number of times that memory is still to be given back: libzmq does not free at once what a connection held."""
        self._at_first = self._seen = resident_bytes()
        self._trim_at_s = 0.0

    def by_much(self) -> bool:
        """True if the process has grown by GROWN_BYTES since the last full check."""
        return resident_bytes() - self._seen > GROWN_BYTES

    def in_all(self) -> int:
        """Return by how many bytes the process is larger than at its start."""
        return self._seen - self._at_first

    def looked(self) -> None:
        """Note a full check; give back the memory of connections that have ended."""
        self._seen = resident_bytes()
        if not self._trims or time.monotonic() < self._trim_at_s:
            return
        self._trims -= 1
        if self._seen - self._at_first > WORTH_TRIMMING_BYTES:
            self._trim_at_s = time.monotonic() + TRIM_S
            give_back()
            self._seen = resident_bytes()

    def somebody_went(self) -> None:
        self._trims = TRIMS


class Authenticator:
    """Starts, stops and serves one thread. All public calls are for other threads.

    Start it before the sockets are bound, and stop it after they are closed: a monitor that loses its reader stops libzmq.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keyring: Keyring | None, refusals: Refusals, max_connections: int
    ) -> None:
        """Raises KeysError where the keys are of no use."""
        self._context = context
        self._keyring = keyring
        self._refusals = refusals
        self.own: KeyPair | None = keyring.own() if keyring else None
        self.admission = Admission(self.own, keyring.clients() if keyring else None)
        """The rights of all clients. Replaced as a whole, so that any thread may read it."""
        self._seen = self._stamp()
        self._connections = Connections(make_room(max_connections))
        self.caught_up = True
        """True if the service has taken all complete requests; the service sets it."""
        self._grown = _Growth()
        self._bell = PollableDoorbell()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._ready: Future[None] = Future()
        self.problem: BaseException | None = None
        """Exception that stopped the authenticator: the node then admits no new connections until it is restarted."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="usbcast-authenticator", daemon=True)
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Return when the thread is gone."""
        self._stopping = True
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()
        self._connections.close()
        self._bell.close()

    def guard(self, socket: zmq.Socket[bytes], which: str) -> None:
        """Have the peers of `socket` pass here. Its own thread calls this before it binds, and `release` before it closes."""
        guard(socket, self.own)
        socket.monitor(_address(which), _EVENTS)

    @staticmethod
    def release(socket: zmq.Socket[bytes]) -> None:
        socket.disable_monitor()

    def cut(self, which: str, fd: int) -> None:
        """End one connection."""
        self._connections.cut(which, fd)

    def has(self, which: str, fd: int) -> bool:
        """Return True if a connection with this descriptor is open."""
        return self._connections.has(which, fd)

    def heard(self, which: str, fd: int, size_bytes: int) -> None:
        """A message came up whole."""
        self._connections.heard(which, fd, size_bytes)

    def gave(self, which: str, fd: int, size_bytes: int) -> None:
        """An answer was sent."""
        self._connections.gave(which, fd, size_bytes)

    def owed(self, which: str, fd: int) -> int:
        """Return the bytes of answers that this connection has not acknowledged."""
        return self._connections.owed(which, fd)

    def owed_by_all(self) -> tuple[int, int]:
        """Return the bytes of answers not acknowledged over all connections, and the number of these connections."""
        return self._connections.owed_by_all()

    def said(self, which: str, fd: int) -> int:
        """A subscriber has said something: how often it did so on this connection by now."""
        return self._connections.said(which, fd)

    def talked(self, which: str, said: Said) -> None:
        """End a connection that sent something other than a subscription to a data socket, or one subscription too many."""
        self._cut_for(TALKS, which, said, "it sent more than subscriptions to the data port")

    def asked_for_nothing(self, which: str, said: Said) -> None:
        """A subscription fits no topic: end the connection that it came by."""
        self._cut_for(ASKS_FOR_NOTHING, which, said, f"it subscribed to {said.what[1:]!r}, and there is no such topic")

    def _cut_for(self, reason: str, which: str, said: Said, sentence: str) -> None:
        if self._connections.cut(which, said.descriptor):  # else this had come before it was cut
            self._refusals.refuse(reason, peer_named(said.user, said.address), sentence)

    def _run(self) -> None:
        zap: zmq.Socket[bytes] = self._context.socket(zmq.REP)
        zap.setsockopt(zmq.LINGER, 0)
        monitors = [self._listen(which) for which in (REQUESTS, *DATA_SOCKETS)]
        try:
            zap.bind(_ZAP)
            self._ready.set_result(None)
            self._serve(zap, monitors)
        except BaseException as error:
            self.problem = error
            if not self._ready.done():
                self._ready.set_exception(error)
                return
            log.exception("the authenticator failed, so the node admits no new connections; restart the node")
            raise
        finally:
            zap.close()
            for monitor in monitors:
                monitor.socket.close()

    def _listen(self, which: str) -> _Monitor:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _MAX_EVENTS)
        socket.connect(_address(which))
        return _Monitor(which, socket)

    def _serve(self, zap: zmq.Socket[bytes], monitors: list[_Monitor]) -> None:
        poller = zmq.Poller()
        for socket in (zap, *(monitor.socket for monitor in monitors)):
            poller.register(socket, zmq.POLLIN)
        poller.register(self._bell.fileno(), zmq.POLLIN)
        look_at_s = 0.0
        look_s = LOOK_S if self._keyring is None else KEYED_LOOK_S
        while not self._stopping:
            if poller.poll(int(1000 * (min(look_s, QUICK_LOOK_S) if self._connections else look_s))):
                self._bell.quiet()
                self._answer(zap, monitors)
                self._hear(monitors)
            if time.monotonic() >= look_at_s or (self.caught_up and self._grown.by_much()):
                look_at_s = time.monotonic() + look_s
                self._look()

    # Who comes in

    def _answer(self, zap: zmq.Socket[bytes], monitors: list[_Monitor]) -> None:
        """Answer what libzmq has asked; always, as a question without an answer holds up its connection."""
        for _ in range(100):
            try:
                frames = zap.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            # So whoever is let in is in the table of connections before; who is not there when it goes never was.
            self._hear(monitors)
            try:
                zap.send_multipart(self._decide(frames))
            except Exception:
                log.exception("checking a connection failed, so it is refused")
                request_id = frames[1] if len(frames) > 1 else b""
                zap.send_multipart([admission.ZAP_VERSION, request_id, admission.FAILED, b"", b"", b""])

    def _decide(self, frames: list[bytes]) -> list[bytes]:
        try:
            question = admission.parse_question(frames)
        except WireError as error:
            log.error("libzmq sent an invalid ZAP request, which is refused: %s", error)
            request_id = frames[1] if len(frames) > 1 else b""
            return [admission.ZAP_VERSION, request_id, admission.FAILED, b"", b"", b""]
        self._refresh()
        refusal = self.admission.may_enter(question.mechanism, question.key)
        if refusal is None:
            return admission.answer(question, admission.ADMITTED)
        self._refusals.refuse(refusal.reason, refusal.who, f"{refusal.sentence} (from {question.address})")
        return admission.answer(question, admission.REFUSED, refusal.reason)

    def _refresh(self) -> None:
        """Read the list of clients again if it has changed; whoever lost the right to read loses what still comes."""
        if self._keyring is None or (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            later = Admission(self.own, self._keyring.clients())
        except KeysError as error:
            log.error("cannot use the changed list of clients, so the previous one stays in force: %s", error)
            return
        lost = self.admission.lost_to(later)
        self.admission = later
        log.info("the list of clients has changed")
        if lost:
            names = ", ".join(short_text(client.public, client.name) for client in lost)
            cut = sum(map(self._connections.cut_all, DATA_SOCKETS))
            log.warning("revoked %s; disconnected all %d subscribers, so that they authenticate again", names, cut)

    def _stamp(self) -> tuple[int, int, int]:
        """Return a value that changes whenever the list of clients changes."""
        if self._keyring is None:
            return (0, 0, 0)
        try:
            status = self._keyring.clients_file.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    # What becomes of them

    def _hear(self, monitors: list[_Monitor]) -> None:
        for monitor in monitors:
            for _ in range(_MAX_EVENTS):
                try:
                    frames = monitor.socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                event, value = _EVENT.unpack_from(frames[0])
                self._take(monitor, event, value)

    def _take(self, monitor: _Monitor, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            peer, stays = self._connections.add(monitor.which, value)
            if not stays:
                self._refusals.refuse(
                    TOO_MANY,
                    peer,
                    f"there are {len(self._connections)} already; max_connections is {self._connections.most}, "
                    "half of it for one address",
                )
            else:
                log.info(
                    "%s has connected to the %s socket; connections: %d", peer, monitor.which, len(self._connections)
                )
        elif event == zmq.EVENT_DISCONNECTED:
            self._ended(monitor, value)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            monitor.keys_refused += 1
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            monitor.failed = self._protocol_failure(value)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            timed_out = value in (errno.EAGAIN, errno.ETIMEDOUT)
            monitor.failed = STALLED if timed_out else GONE
        elif event == zmq.EVENT_ACCEPT_FAILED:
            self._refusals.refuse(NO_DESCRIPTOR, "a peer", f"it could not connect: {os.strerror(value)}")

    def _protocol_failure(self, code: int) -> str:
        if code == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return admission.NO_KEY if self.own else NO_KEYS_HERE
        if code == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            return OTHER_NODE
        return BROKEN

    def _ended(self, monitor: _Monitor, fd: int) -> None:
        failed, monitor.failed = monitor.failed, None
        self._grown.somebody_went()
        # One that was gone before it could be looked at left or was cut in the handshake, where libzmq says the former.
        peer, ended_by = self._connections.remove(monitor.which, fd) or (GONE_AT_ONCE, EndedBy.LIBZMQ)
        log.info("%s has left the %s socket; connections: %d", peer, monitor.which, len(self._connections))
        if ended_by is EndedBy.CUT:
            return  # counted when it was cut
        if failed is not None:
            # Whoever looks whether somebody listens at a local socket leaves it like that; it is nobody else's business.
            if peer != LOCAL or failed != GONE:
                tolerated = DEPARTURES_TOLERATED if failed == GONE and self.own is None else 0
                self._refusals.refuse(failed, peer, _SENTENCES.get(failed, failed), tolerated=tolerated)
        elif ended_by is EndedBy.LIBZMQ:
            if monitor.keys_refused:
                monitor.keys_refused -= 1
            else:
                self._refusals.refuse(
                    NOT_ZMTP, peer, "it sent something other than ZMTP 3, or a message that is too long"
                )

    def _look(self) -> None:
        self._refresh()
        for which in DATA_SOCKETS:
            for fd, peer in self._connections.talkative(which, MAX_SAID_BYTES):
                self._connections.cut(which, fd)
                self._refusals.refuse(
                    TALKS, peer, f"it sent more than {MAX_SAID_BYTES} bytes to where it can only listen"
                )
            self._cut_behind(which)
        for fd, peer, size in self._connections.unending(REQUESTS, MAX_UNENDED_BYTES):
            self._connections.cut(REQUESTS, fd)
            self._refusals.refuse(
                UNENDING,
                peer,
                f"it sent {size} bytes without ending a request, and all such may have {MAX_UNENDED_BYTES} together",
            )
        for which, fd, peer in self._connections.slow(MAX_SLOW_S):
            self._connections.cut(which, fd)
            self._refusals.refuse(
                TOO_SLOW, peer, f"it has not taken its answers for {MAX_SLOW_S:g} s, so it is cut off"
            )
        self._grown.looked()

    def _cut_behind(self, which: str) -> None:
        behind = self._connections.behind(which, MAX_BEHIND_S)
        if self._grown.in_all() <= MAX_GROWN_BYTES:
            return
        for fd, peer in behind:
            self._connections.cut(which, fd)
            self._refusals.refuse(
                BEHIND,
                peer,
                f"it has been behind for more than {MAX_BEHIND_S:g} s, and what waits for subscribers takes too much memory; "
                "it may connect again",
            )


def _address(which: str) -> str:
    return f"inproc://usbcast-{which.replace(' ', '-')}"

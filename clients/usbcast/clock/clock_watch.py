"""Asking a distant host for its clock, now and then, for as long as a subscription lasts: a thread with a socket of its own.

Of its own, so that the answers are stamped when they come and not when the application next looks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from itertools import chain, repeat

import zmq

from usbcast.clock.offset import ClockOffset, OffsetTracker, Probe, same_clock
from usbcast.node.credentials import Credentials
from usbcast.node.handshake import Handshakes
from usbcast.node.requests import dealer
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import AccessRefused, KeysError, PeerError
from usbcast_schemas.places import host_id
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import decode_reply

FIRST_PROBES, PROBES = 8, 4
"""Number of probes sent one after another, the first time and later; the one with the shortest round trip counts."""

EVERY_S = 30.0
_FIRST_GAPS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Sooner in the beginning, so that the drift shows; the same for as long as nothing was answered, and again after that."""

_ANSWER_S = 1.0
_SENSIBLE_NS = 1 << 62
"""No clock is ahead by more than a century; what says so would leave 64 bits when it is added."""


class ClockWatch:
    """The offset to the host that reads one stream. `follow` starts it; used by any thread. `close` it."""

    def __init__(self, stream: str, keys: Credentials | None = None) -> None:
        self._stream = stream
        self._keys = keys
        self._tracker = OffsetTracker()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reader_host = ""
        self._endpoint = ""
        self._stopping = False
        self._wake: tuple[int, int] | None = None
        self._known: ClockOffset | None = None

    def follow(self, endpoint: str, reader_host: str) -> None:
        """The stream is read by `reader_host`, and the node at `endpoint` can be asked for its clock."""
        with self._lock:
            if reader_host != self._reader_host:
                self._tracker, self._known = OffsetTracker(), None
            self._reader_host, self._endpoint = reader_host, endpoint
        if reader_host != host_id() and self._thread is None:
            self._wake = os.pipe()
            self._thread = threading.Thread(target=self._run, name="usbcast-clock", daemon=True)
            self._thread.start()

    def offset(self) -> ClockOffset | None:
        """Return the current estimate; exactly zero on the reading host itself; None before the first answer."""
        if self._reader_host == host_id():
            return same_clock(time.time_ns())
        with self._lock:
            return self._tracker.offset(time.monotonic_ns(), time.time_ns())

    def ahead_ns(self, local_ns: int) -> int:
        """Return how far the reading host's clock is ahead, by the last answers; 0 while unknown. Cheap to call."""
        known = self._known
        return known.ahead_ns(local_ns) if known is not None else 0

    def close(self) -> None:
        """Stop asking; idempotent."""
        if self._thread is None or self._wake is None:
            return
        self._stopping = True
        os.write(self._wake[1], b"x")
        self._thread.join()
        for fd in self._wake:
            os.close(fd)
        self._thread = self._wake = None

    def _run(self) -> None:
        assert self._wake is not None
        asker = _Asker(self._stream, self._wake[0], self._keys)
        gaps = _gaps()
        try:
            while not self._stopping:
                with self._lock:
                    endpoint, tracker, wanted = self._endpoint, self._tracker, self._reader_host != host_id()
                probes = asker.ask(endpoint, FIRST_PROBES if self._known is None else PROBES) if wanted else []
                if probes:
                    if self._known is None:
                        gaps = _gaps()
                    with self._lock:
                        tracker.add(probes)
                        if tracker is self._tracker:
                            self._known = tracker.offset(time.monotonic_ns(), time.time_ns())
                asker.wait(next(gaps))
        finally:
            asker.close()


def _gaps() -> Iterator[float]:
    return chain(_FIRST_GAPS_S, repeat(EVERY_S))


class _Asker:
    """The socket, and how a probe is taken. Used by the thread alone; nothing blocks for longer than until `wake_fd`."""

    def __init__(self, stream: str, wake_fd: int, keys: Credentials | None) -> None:
        self._stream = stream
        self._keys = keys
        self._wake_fd = wake_fd
        self._socket: zmq.Socket[bytes] | None = None
        self._handshakes: Handshakes | None = None
        self._endpoint = ""
        self._last_id = 0

    def ask(self, endpoint: str, count: int) -> list[Probe]:
        """Return up to `count` probes; fewer if one was not answered in time, which also ends the connection."""
        if endpoint != self._endpoint:
            self.close()
        if self._socket is None:
            try:
                self._socket, self._handshakes = dealer(endpoint, self._keys)
            except (AccessRefused, KeysError):
                return []  # the subscription itself meets the same, and says so
            self._endpoint = endpoint
        probes: list[Probe] = []
        for _ in range(count):
            answered, probe = self._probe(self._socket)
            if probe is not None:
                probes.append(probe)
            if not answered:
                self.close()
                break
        return probes

    def wait(self, timeout_s: float) -> None:
        """Until the time is over, or the thread is to stop."""
        poller = zmq.Poller()
        poller.register(self._wake_fd, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000))

    def close(self) -> None:
        if self._socket is not None and self._handshakes is not None:
            self._handshakes.close()
            self._socket.close()
            self._socket = self._handshakes = None

    def _probe(self, socket: zmq.Socket[bytes]) -> tuple[bool, Probe | None]:
        """Return whether an answer came, and the probe if the answer is valid."""
        self._last_id += 1
        # This order of reading the clocks can only make the round trip look longer than it was.
        monotonic_ns = time.monotonic_ns()
        sent_ns = time.time_ns()
        body = pb.ClockRequest(sent_monotonic_ns=monotonic_ns, stream=self._stream)
        request = pb.Request(contract=CONTRACT, request_id=self._last_id, clock=body)
        with contextlib.suppress(zmq.Again):
            socket.send(request.SerializeToString(), zmq.DONTWAIT)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake_fd, zmq.POLLIN)
        deadline = time.monotonic() + _ANSWER_S
        while (left_s := deadline - time.monotonic()) > 0:
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            if self._wake_fd in ready:
                return False, None
            if socket not in ready:
                continue
            frames = socket.recv_multipart()
            returned_monotonic_ns = time.monotonic_ns()
            try:
                reply = decode_reply(frames).reply
            except PeerError:
                continue
            if reply.request_id == self._last_id:
                return True, probe_of(reply, sent_ns, monotonic_ns, returned_monotonic_ns)
        return False, None


def probe_of(reply: pb.Reply, sent_ns: int, sent_monotonic_ns: int, returned_monotonic_ns: int) -> Probe | None:
    """The probe that a reply to a clock request is; None where the node does not know the clock of the reading host."""
    clock = reply.clock
    if reply.WhichOneof("body") != "clock" or not clock.HasField("reader_ahead_ns"):
        return None
    probe = Probe(
        sent_ns=sent_ns,
        received_ns=clock.received_realtime_ns,
        replied_ns=clock.replied_realtime_ns,
        returned_ns=sent_ns + returned_monotonic_ns - sent_monotonic_ns,
        monotonic_ns=returned_monotonic_ns,
        reader_ahead_ns=clock.reader_ahead_ns,
        reader_uncertainty_ns=clock.reader_uncertainty_ns,
    )
    return probe if max(abs(probe.least_ns), abs(probe.most_ns)) < _SENSIBLE_NS else None


__all__ = ["EVERY_S", "FIRST_PROBES", "ClockWatch", "probe_of"]

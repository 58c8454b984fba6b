"""Connections: the peers on a node's sockets as the operating system sees them, so that each can be named, counted and cut.

libzmq tells the descriptor of a connection and nothing else, and it can drop none. A duplicate of the descriptor can ask
whose it is, who ended it, and how much came; and what is shut down through it is shut down for libzmq too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket as posix
import struct
import sys
import termios
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum

LOCAL = "a process of this user"
"""The name of every peer on a local socket: the directory it stands in lets nobody else in."""

GONE_AT_ONCE = "a peer that was gone at once"
"""The name of one that libzmq had done with before it could be asked for its address."""

_SPARE_DESCRIPTORS = 256
"""File descriptors kept free for everything else that a node opens."""

_READ_AWAY, _READ_AWAY_BYTES = 64, 64 * 1024
"""Most reads and bytes read from a connection that is cut: a little more than the system buffers."""

_TCP_INFO = struct.Struct("=120xQQ")
"""tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info."""

_SIOCOUTQNSD = 0x894B
"""Of Linux's linux/sockios.h: how many bytes of a TCP connection have not been sent yet. The socket module does not have it."""

_FRAMING_BYTES = 64
"""Most bytes that ZMTP adds to a message on the wire, encrypted or not."""

_STALE_S = 0.02
"""Longest age of the sum over all connections: asking the system costs some microseconds for each."""


class EndedBy(Enum):
    """The side that ended a connection."""

    PEER = "peer"
    LIBZMQ = "libzmq"
    """The peer broke the protocol, or was refused."""
    CUT = "cut"
    """Ended by `cut`, or because there were too many connections."""


@dataclass(slots=True)
class _Open:
    connection: posix.socket
    peer: str
    cut: bool = False
    heard_bytes: int = 0
    """Bytes received as complete messages, as far as known; the rest belongs to an unfinished message."""
    heard: bool = False
    """True if a message was completed since the last call of `unending`."""
    owed_until: int = 0
    """Total of acknowledged bytes that is reached once the peer has taken all its answers."""
    owed_bytes: int = 0
    """Bytes of that not yet acknowledged at the last look."""
    owes_since_s: float = 0.0
    said: int = 0
    """Number of its messages counted by `said`."""
    unsent_bytes: int = 0
    """Bytes that the system had not sent to it at the last look."""
    behind_since_s: float = 0.0
    """Time of the first of the looks, up to the last one, at which not all was sent; 0 if all was."""

    def shut(self) -> None:
        self.cut = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(posix.SHUT_RDWR)
            # What has come and has not been read would still be read. A peer may go on sending, but nothing more gets in.
            for _ in range(_READ_AWAY):
                if not self.connection.recv(_READ_AWAY_BYTES, posix.MSG_DONTWAIT):
                    break


class Connections:
    """A bounded table, by socket and descriptor. Changed by the authenticator's thread; anybody may cut."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], _Open] = {}
        self._by_peer: Counter[str] = Counter()
        self._owing: dict[tuple[str, int], _Open] = {}
        """Connections that may not have taken all their answers."""
        self._owed_at_s = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def has(self, which: str, fd: int) -> bool:
        """Return True if a connection with this descriptor is open and was not cut."""
        found = self._open.get((which, fd))
        return found is not None and not found.cut

    def add(self, which: str, fd: int) -> tuple[str, bool]:
        """A peer has connected to the socket `which`: its address, and whether it may stay; if not, it is cut already."""
        self.remove(which, fd)
        connection = _duplicate(fd)
        if connection is None:
            return GONE_AT_ONCE, True
        peer = _peer_of(connection)
        with self._lock:
            found = self._open[which, fd] = _Open(connection, peer)
            self._by_peer[peer] += 1
            # Nobody can take all places, so that others can still come.
            stays = len(self._open) <= self.most and (peer == LOCAL or self._by_peer[peer] <= max(1, self.most // 2))
            if not stays:
                found.shut()
        return peer, stays

    def remove(self, which: str, fd: int) -> tuple[str, EndedBy] | None:
        """Forget a connection that has ended; return its peer and the side that ended it, None if it is unknown."""
        with self._lock:
            found = self._open.pop((which, fd), None)
            self._owing.pop((which, fd), None)
            if found is None:
                return None
            self._by_peer[found.peer] -= 1
            if not self._by_peer[found.peer]:
                del self._by_peer[found.peer]
            with found.connection as connection:
                if found.cut:
                    return found.peer, EndedBy.CUT
                return found.peer, EndedBy.LIBZMQ if _was_ended_here(connection) else EndedBy.PEER

    def cut(self, which: str, fd: int) -> bool:
        """End one connection; False if that has been done, or it has gone."""
        with self._lock:
            found = self._open.get((which, fd))
            if found is None or found.cut:
                return False
            found.shut()
            return True

    def cut_all(self, which: str) -> int:
        """End all connections to the socket `which`; return how many."""
        with self._lock:
            found = [one for (of, _), one in self._open.items() if of == which]
            for one in found:
                one.shut()
            return len(found)

    def talkative(self, which: str, most_bytes: int) -> list[tuple[int, str]]:
        """The connections to `which` that have sent more than `most_bytes`, as descriptor and peer; none where unknown."""
        with self._lock:
            return [
                (fd, one.peer)
                for (of, fd), one in self._open.items()
                if of == which and one.peer != LOCAL and not one.cut and _counts(one.connection)[1] > most_bytes
            ]

    def heard(self, which: str, fd: int, size_bytes: int) -> None:
        """A message of this size is complete."""
        with self._lock:
            found = self._open.get((which, fd))
            if found is not None:
                found.heard = True
                found.heard_bytes += size_bytes + _FRAMING_BYTES

    def said(self, which: str, fd: int) -> int:
        """Count a message of this connection; return how many there were. 0 if it is not known, as it has gone."""
        with self._lock:
            found = self._open.get((which, fd))
            if found is None:
                return 0
            found.said += 1
            return found.said

    def unending(self, which: str, most_bytes: int) -> list[tuple[int, str, int]]:
        """The connections to `which` that have sent most beyond whole messages, as descriptor, peer and bytes.

        As many as it takes for the others to have sent no more than `most_bytes` of it together. None where unknown.

        One that completed a message since this was asked last is not among them: more of the same may be on its way up.
        """
        found = []
        with self._lock:
            for (of, fd), one in self._open.items():
                if of != which or one.peer == LOCAL or one.cut:
                    continue
                received_bytes = _counts(one.connection)[1]
                one.heard_bytes = min(one.heard_bytes, received_bytes)
                heard, one.heard = one.heard, False
                if not heard:
                    found.append((received_bytes - one.heard_bytes, fd, one.peer))
        found.sort()
        total = sum(size for size, *_ in found)
        beyond = []
        while total > most_bytes:
            size, fd, peer = found.pop()
            total -= size
            beyond.append((fd, peer, size))
        return beyond

    def gave(self, which: str, fd: int, size_bytes: int) -> None:
        """This connection is about to be given an answer of this size; below 0: it was not given it after all.

        Said before it is sent: nothing of it is acknowledged yet, so what is counted as owed is never too much.
        """
        with self._lock:
            found = self._open.get((which, fd))
            acked = _counts(found.connection)[0] if found is not None else None
            if found is None or acked is None:
                return
            if found.owed_until <= acked:
                found.owed_until, found.owes_since_s = acked, time.monotonic()
            found.owed_until += size_bytes
            found.owed_bytes = max(0, found.owed_until - acked)
            self._owing[which, fd] = found

    def owed(self, which: str, fd: int) -> int:
        """Return the bytes of answers that this connection has not acknowledged; 0 if unknown."""
        with self._lock:
            found = self._owing.get((which, fd))
            return self._ask(found) if found is not None else 0

    def owed_by_all(self) -> tuple[int, int]:
        """Return the bytes that all connections together have not acknowledged, and the number of these connections."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._owed_at_s > _STALE_S:
                self._owed_at_s = now_s
                self._owing = {key: one for key, one in self._owing.items() if not one.cut and self._ask(one)}
            return sum(one.owed_bytes for one in self._owing.values()), len(self._owing)

    def slow(self, most_s: float) -> list[tuple[str, int, str]]:
        """The connections that have taken all that they were given at no time within `most_s`: socket, descriptor, peer."""
        with self._lock:
            since_s = time.monotonic() - most_s
            return [
                (which, fd, one.peer)
                for (which, fd), one in self._owing.items()
                if not one.cut and one.owes_since_s < since_s and self._ask(one)
            ]

    def behind(self, which: str, most_s: float) -> list[tuple[int, str]]:
        """The connections to `which` that took all that was sent at no look within `most_s`, as descriptor and peer.

        Called at each look. A local connection counts only if it takes nothing: the system tells what was not read by it,
        and that is seldom nothing on a busy stream.
        """
        found = []
        with self._lock:
            now_s = time.monotonic()
            for (of, fd), one in self._open.items():
                if of != which or one.cut:
                    continue
                before, one.unsent_bytes = one.unsent_bytes, _unsent(one.connection)
                if not one.unsent_bytes or (one.peer == LOCAL and one.unsent_bytes != before):
                    one.behind_since_s = 0.0
                else:
                    one.behind_since_s = one.behind_since_s or now_s
                    if now_s - one.behind_since_s > most_s:
                        found.append((fd, one.peer))
        return found

    @staticmethod
    def _ask(one: _Open) -> int:
        acked = _counts(one.connection)[0]
        one.owed_bytes = max(0, one.owed_until - acked) if acked is not None else 0
        return one.owed_bytes

    def close(self) -> None:
        with self._lock:
            for one in self._open.values():
                one.connection.close()
            self._open.clear()
            self._owing.clear()
            self._by_peer.clear()


def make_room(connections: int) -> int:
    """Raise the limit on open files for this many connections, two descriptors each; return how many are possible."""
    wanted = 2 * connections + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return min(connections, max(16, (soft - _SPARE_DESCRIPTORS) // 2))
    return connections


def _duplicate(fd: int) -> posix.socket | None:
    """A duplicate of the connection; None if it has gone, and its number is perhaps something else by now."""
    try:
        duplicate = os.dup(fd)
    except OSError:
        return None
    try:
        return posix.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


def _peer_of(connection: posix.socket) -> str:
    if connection.family == posix.AF_UNIX:
        return LOCAL
    try:
        host = str(connection.getpeername()[0])
    except OSError:
        return GONE_AT_ONCE
    return host.removeprefix("::ffff:")


def _was_ended_here(connection: posix.socket) -> bool:
    """Return True if the peer has neither closed nor reset the connection, so that libzmq must have ended it."""
    try:
        return bool(connection.recv(1, posix.MSG_PEEK | posix.MSG_DONTWAIT))  # not even all was read
    except BlockingIOError:
        return True
    except OSError:
        return False


def _unsent(connection: posix.socket) -> int:
    """Return the bytes not sent yet, of a local connection those that the peer has not read; 0 if unknown."""
    if sys.platform != "linux":
        return 0
    try:
        asked = termios.TIOCOUTQ if connection.family == posix.AF_UNIX else _SIOCOUTQNSD
        return int.from_bytes(fcntl.ioctl(connection, asked, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _counts(connection: posix.socket) -> tuple[int | None, int]:
    """Return the bytes that the peer has acknowledged (None if unknown), and the bytes received from it (0 if unknown)."""
    if sys.platform != "linux":
        return None, 0
    try:
        info = connection.getsockopt(posix.IPPROTO_TCP, posix.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None, 0
    if len(info) < _TCP_INFO.size:
        return None, 0
    acked, received = _TCP_INFO.unpack(info)
    return acked, received

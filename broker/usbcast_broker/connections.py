"""Connections: the peers on a node's sockets, as the system sees them, so that one can be named, counted and cut.

libzmq tells the descriptor of a connection and nothing else, and it can drop none. A duplicate of the descriptor can ask
whose it is, who ended it, and how much came; and what is shut down through it is shut down for libzmq too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket as posix
import struct
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from enum import Enum

LOCAL = "a process of this user"
"""The name of every peer on a local socket: the directory it stands in lets nobody else in."""

GONE_AT_ONCE = "a peer that was gone at once"
"""The name of one that libzmq had done with before it could be asked for its address."""

_SPARE_DESCRIPTORS = 256
"""For all else that a node holds open."""

_TCP_INFO_BYTES_RECEIVED = 128
"""Offset of tcpi_bytes_received in Linux's struct tcp_info."""


class EndedBy(Enum):
    """Who ended a connection."""

    PEER = "peer"
    LIBZMQ = "libzmq"
    """It broke the protocol, or was refused."""
    CUT = "cut"
    """By `cut`, or as it was one too many."""


@dataclass(slots=True)
class _Open:
    connection: posix.socket
    peer: str
    cut: bool = False
    heard_bytes: int = 0
    """How much had come when a message of it was last complete."""
    heard: bool = True
    """Whether one was since `unending` looked last."""

    def shut(self) -> None:
        self.cut = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(posix.SHUT_RDWR)


class Connections:
    """A bounded table, by socket and descriptor. Changed by the gatekeeper's thread; anybody may cut."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], _Open] = {}
        self._by_peer: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def has(self, which: str, fd: int) -> bool:
        """Whether there is a connection with this descriptor that was not cut."""
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
        """A connection is over: its peer, and who ended it. None if it was not known of."""
        with self._lock:
            found = self._open.pop((which, fd), None)
            if found is None:
                return None
            self._by_peer[found.peer] -= 1
            if not self._by_peer[found.peer]:
                del self._by_peer[found.peer]
            with found.connection as connection:
                if found.cut:
                    return found.peer, EndedBy.CUT
                return found.peer, EndedBy.LIBZMQ if _was_ended_here(connection) else EndedBy.PEER

    def cut(self, which: str, fd: int) -> None:
        """End one connection."""
        with self._lock:
            found = self._open.get((which, fd))
            if found is not None:
                found.shut()

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
                if of == which and one.peer != LOCAL and not one.cut and _received_bytes(one.connection) > most_bytes
            ]

    def heard(self, which: str, fd: int) -> None:
        """A message of this connection is complete."""
        with self._lock:
            found = self._open.get((which, fd))
            if found is not None:
                found.heard = True

    def unending(self, which: str, most_bytes: int) -> list[tuple[int, str]]:
        """The connections to `which` that have sent more than `most_bytes` and completed no message since; to be asked often."""
        found = []
        with self._lock:
            for (of, fd), one in self._open.items():
                if of != which or one.peer == LOCAL or one.cut:
                    continue
                received_bytes = _received_bytes(one.connection)
                if one.heard:
                    one.heard, one.heard_bytes = False, received_bytes
                elif received_bytes - one.heard_bytes > most_bytes:
                    found.append((fd, one.peer))
        return found

    def close(self) -> None:
        with self._lock:
            for one in self._open.values():
                one.connection.close()
            self._open.clear()
            self._by_peer.clear()


def make_room(connections: int) -> int:
    """See that the process may hold so many connections, with a duplicate each; return how many it may."""
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
    """Whether the peer has neither closed nor reset the connection, so that only libzmq can have given it up."""
    try:
        return bool(connection.recv(1, posix.MSG_PEEK | posix.MSG_DONTWAIT))  # not even all was read
    except BlockingIOError:
        return True
    except OSError:
        return False


def _received_bytes(connection: posix.socket) -> int:
    if sys.platform != "linux":
        return 0
    try:
        info = connection.getsockopt(posix.IPPROTO_TCP, posix.TCP_INFO, _TCP_INFO_BYTES_RECEIVED + 8)
    except OSError:
        return 0
    if len(info) < _TCP_INFO_BYTES_RECEIVED + 8:
        return 0
    return int(struct.unpack_from("=Q", info, _TCP_INFO_BYTES_RECEIVED)[0])

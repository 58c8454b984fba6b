"""Connections as the system sees them: what has come by them, and what was not taken."""

from __future__ import annotations

import contextlib
import socket as posix
import sys
from collections.abc import Iterator

import pytest

from tests.support.nodes import eventually
from usbcast_broker.access.connections import Connections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much has come and gone")

WHICH = "requests"


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(100)
    yield made
    made.close()


@contextlib.contextmanager
def connected(connections: Connections) -> Iterator[tuple[posix.socket, posix.socket]]:
    """A peer, and this side of its connection."""
    with posix.create_server(("127.0.0.1", 0)) as server, posix.create_connection(server.getsockname()) as peer:
        here, _ = server.accept()
        with here:
            assert connections.add(WHICH, here.fileno()) == ("127.0.0.1", True)
            yield peer, here


def test_those_that_sent_most_without_an_end_are_told_until_the_rest_is_little(connections: Connections) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(connections)) for _ in range(4)]
        for size, (peer, _) in zip((1000, 20_000, 30_000, 2000), peers, strict=True):
            peer.sendall(bytes(size))
        fds = [here.fileno() for _, here in peers]
        eventually(lambda: len(connections.unending(WHICH, 0)) == 4)

        def beyond(most_bytes: int) -> list[tuple[int, int]]:
            return [(fd, size) for fd, _, size in connections.unending(WHICH, most_bytes)]

        eventually(lambda: sum(size for _, size in beyond(0)) == 53_000, "all has come")
        assert beyond(53_000) == []
        assert beyond(52_999) == [(fds[2], 30_000)]
        assert beyond(3_000) == [(fds[2], 30_000), (fds[1], 20_000)]
        connections.heard(WHICH, fds[2], 29_000)
        assert beyond(3_000) == [(fds[1], 20_000)], "more of the same may be on its way up"
        assert beyond(0)[2:] == [(fds[0], 1000), (fds[2], 936)], "and then what is no whole message counts"
        connections.cut(WHICH, fds[1])
        assert [fd for fd, _ in beyond(0)] == [fds[3], fds[0], fds[2]]


def test_what_a_peer_has_not_taken_is_known(connections: Connections) -> None:
    with connected(connections) as (_, here), connected(connections) as (_, other):
        fd = here.fileno()
        assert (connections.owed(WHICH, fd), connections.owed_by_all()) == (0, (0, 0))
        connections.gave(WHICH, fd, 50_000_000)
        here.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            here.sendall(bytes(50_000_000))  # as much as the system takes
        eventually(lambda: 10_000_000 < connections.owed(WHICH, fd) < 50_000_000)
        eventually(lambda: connections.owed_by_all() == (connections.owed(WHICH, fd), 1))
        assert connections.owed(WHICH, other.fileno()) == 0
        assert connections.slow(0.0) == [(WHICH, fd, "127.0.0.1")]
        assert connections.slow(60.0) == []
        owed_bytes = connections.owed(WHICH, fd)
        connections.gave(WHICH, fd, 5)
        connections.gave(WHICH, fd, -5)
        assert connections.owed(WHICH, fd) == owed_bytes
        connections.remove(WHICH, fd)
        assert (connections.owed(WHICH, fd), connections.owed_by_all()) == (0, (0, 0))


def test_one_that_takes_all_owes_nothing(connections: Connections) -> None:
    with connected(connections) as (peer, here):
        fd = here.fileno()
        for _ in range(3):
            connections.gave(WHICH, fd, 1000)
            assert connections.owed(WHICH, fd) > 900
            here.sendall(bytes(1009))  # with what ZMTP adds
            peer.recv(1009, posix.MSG_WAITALL)
            eventually(lambda: connections.owed(WHICH, fd) == 0)
        assert connections.slow(0.0) == []
        eventually(lambda: connections.owed_by_all() == (0, 0))


def fill(connection: posix.socket) -> int:
    """Send until the system takes no more."""
    connection.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += connection.send(bytes(65536))
    return sent


def test_who_takes_nothing_of_what_is_sent_is_behind_until_he_has_taken_it_all(connections: Connections) -> None:
    with connected(connections) as (peer, here), connected(connections) as (_, other):
        here.setsockopt(posix.SOL_SOCKET, posix.SO_SNDBUF, 65536)
        other.sendall(b"little")
        assert connections.behind(WHICH, 0) == []
        waiting = fill(here)
        eventually(lambda: connections.behind(WHICH, 0) == [(here.fileno(), "127.0.0.1")])
        assert connections.behind("data", 0) == []
        assert connections.behind(WHICH, 60) == []
        while waiting:
            waiting -= len(peer.recv(min(waiting, 65536)))
        assert connections.behind(WHICH, 0) == []


def test_a_local_peer_is_behind_as_long_as_it_takes_nothing_at_all(connections: Connections) -> None:
    peer, here = posix.socketpair()
    with peer, here:
        connections.add(WHICH, here.fileno())
        fill(here)
        assert connections.behind(WHICH, 0) == []
        eventually(lambda: connections.behind(WHICH, 0) == [(here.fileno(), "a process of this user")])
        peer.recv(65536)
        assert connections.behind(WHICH, 0) == [], "it takes something"

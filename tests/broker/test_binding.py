"""Binding: an address is had, or one sentence says why not; and nothing is left of it."""

from __future__ import annotations

import socket as posix
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from usbcast_broker.access.binding import bind, bind_first, check_exposure, release, sweep
from usbcast_schemas.errors import ConfigError, EndpointTaken, UsageError


class Sockets:
    """Makes sockets, and closes them all."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._made: list[zmq.Socket[bytes]] = []

    def make(self, kind: int = zmq.PUB) -> zmq.Socket[bytes]:
        self._made.append(self._context.socket(kind))
        return self._made[-1]

    def close(self) -> None:
        for socket in self._made:
            socket.close(linger=0)
        self._context.term()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def directory(private_directories: tuple[Path, Path]) -> Path:
    return private_directories[1]


def test_port_zero_becomes_the_port_that_was_free(sockets: Sockets) -> None:
    endpoint = bind(sockets.make(zmq.REP), "tcp://127.0.0.1:0")
    assert endpoint.startswith("tcp://127.0.0.1:")
    assert int(endpoint.rpartition(":")[2]) > 0


def test_a_port_in_use(sockets: Sockets) -> None:
    with posix.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        sentence = f"{taken} is in use by another program: stop that one, or choose another address with --bind"
        with pytest.raises(EndpointTaken, match=sentence):
            bind(sockets.make(zmq.REP), taken)
        socket = sockets.make()
        assert bind_first(socket, [taken, "tcp://127.0.0.1:0"]) != taken
        with pytest.raises(EndpointTaken, match=sentence):
            bind_first(sockets.make(), [taken, taken])


def test_an_address_of_another_machine(sockets: Sockets) -> None:
    with pytest.raises(EndpointTaken, match=r"cannot listen on tcp://192\.0\.2\.1:0: .*; choose another"):
        bind(sockets.make(zmq.REP), "tcp://192.0.2.1:0")


@pytest.mark.parametrize("endpoint", ["", "tcp://127.0.0.1", "udp://127.0.0.1:5", "tcp://127.0.0.1:99999", "ipc://"])
def test_what_is_no_address(sockets: Sockets, endpoint: str) -> None:
    with pytest.raises(UsageError, match="is not an endpoint: write tcp://HOST:PORT or ipc://PATH"):
        bind(sockets.make(zmq.REP), endpoint)


def test_ipv6(sockets: Sockets) -> None:
    try:
        posix.create_server(("::1", 0), family=posix.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert bind(sockets.make(zmq.REP), "tcp://[::1]:0").startswith("tcp://[::1]:")


def test_a_local_address_in_use_is_not_stolen(sockets: Sockets, directory: Path) -> None:
    endpoint = f"ipc://{directory}/node"
    first = sockets.make(zmq.REP)
    bind(first, endpoint)
    with pytest.raises(EndpointTaken, match="exists already: stop the node that uses it, or remove the file"):
        bind(sockets.make(zmq.REP), endpoint)
    client = sockets.make(zmq.REQ)
    client.connect(endpoint)
    client.send(b"still you?")
    assert first.poll(5000)
    sockets.close()
    release([endpoint, "tcp://127.0.0.1:1"])
    assert list(directory.iterdir()) == []


def test_a_file_that_is_no_socket_is_not_removed(sockets: Sockets, directory: Path) -> None:
    path = directory / "precious"
    path.write_text("thesis")
    with pytest.raises(EndpointTaken, match="exists already"):
        bind(sockets.make(zmq.REP), f"ipc://{path}")
    assert path.read_text() == "thesis"
    path.unlink()


def test_the_socket_of_a_killed_node_makes_room(sockets: Sockets, directory: Path) -> None:
    path = directory / "node"
    _abandon(path)
    endpoint = bind(sockets.make(zmq.REP), f"ipc://{path}")
    sockets.close()
    release([endpoint])


def test_sweeping_takes_the_dead_and_leaves_the_living(sockets: Sockets, directory: Path) -> None:
    _abandon(directory / "data-1-dead")
    alive = bind(sockets.make(), f"ipc://{directory}/data-1-alive")
    (directory / "data-1-file").touch()
    _abandon(directory / "other")
    assert sweep(directory) == [directory / "data-1-dead"]
    assert sorted(path.name for path in directory.iterdir()) == ["data-1-alive", "data-1-file", "other"]
    sockets.close()
    release([alive, f"ipc://{directory}/data-1-file", f"ipc://{directory}/other"])


def _abandon(path: Path) -> None:
    """Leave the file of a socket that nobody listens on."""
    with posix.socket(posix.AF_UNIX) as socket:
        socket.bind(str(path))


@pytest.mark.parametrize(
    ("endpoint", "exposed"),
    [
        ("tcp://127.0.0.1:5570", False),
        ("tcp://127.8.8.8:0", False),
        ("tcp://localhost:5570", False),
        ("tcp://[::1]:5570", False),
        ("ipc:///tmp/x", False),
        ("tcp://0.0.0.0:5570", True),
        ("tcp://*:5570", True),
        ("tcp://192.168.1.2:5570", True),
        ("tcp://[::]:5570", True),
        ("tcp://eth0:5570", True),
    ],
)
def test_what_others_could_reach_needs_to_be_said(endpoint: str, exposed: bool) -> None:
    check_exposure(endpoint, insecure=True)
    if exposed:
        with pytest.raises(ConfigError, match=r"can be reached from other machines by anybody: .*--insecure"):
            check_exposure(endpoint, insecure=False)
    else:
        check_exposure(endpoint, insecure=False)

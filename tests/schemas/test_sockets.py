"""Sockets and addresses: every bound is set, and what is no address is said to be none."""

from __future__ import annotations

import pytest
import zmq

from usbcast_schemas.errors import UsageError
from usbcast_schemas.sockets import (
    HIGH_WATER_MARK,
    as_reached,
    connectable,
    is_local,
    set_up,
    split_tcp,
)


def test_every_socket_has_its_bounds() -> None:
    with zmq.Context.instance().socket(zmq.SUB) as socket:
        set_up(socket, max_message_bytes=1000)
        options = {name: socket.getsockopt(getattr(zmq, name)) for name in ("LINGER", "SNDHWM", "RCVHWM", "MAXMSGSIZE")}
        assert options == {"LINGER": 0, "SNDHWM": HIGH_WATER_MARK, "RCVHWM": HIGH_WATER_MARK, "MAXMSGSIZE": 1000}
        assert socket.getsockopt(zmq.RECONNECT_IVL_MAX) > socket.getsockopt(zmq.RECONNECT_IVL) > 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0, "with a bounded queue they abort the process: libzmq #3937"


@pytest.mark.parametrize(
    ("endpoint", "split"),
    [
        ("tcp://127.0.0.1:5570", ("127.0.0.1", 5570)),
        ("tcp://host.example:0", ("host.example", 0)),
        ("tcp://[::1]:65535", ("[::1]", 65535)),
        ("tcp://*:1", ("*", 1)),
        ("ipc:///tmp/x", None),
    ],
)
def test_addresses(endpoint: str, split: tuple[str, int] | None) -> None:
    assert split_tcp(endpoint) == split


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://lab:5570", "tcp://lab:5570"),
        ("tcp://[fe80::1%eth0]:1", "tcp://[fe80::1%eth0]:1"),
        ("tcp://bücher.example:1", "tcp://xn--bcher-kva.example:1"),
        ("ipc:///tmp/ü", "ipc:///tmp/ü"),
    ],
)
def test_addresses_as_libzmq_knows_them(endpoint: str, address: str) -> None:
    assert connectable(endpoint) == address


@pytest.mark.parametrize("endpoint", ["tcp://*:1", "tcp://" + "é" * 80 + ":1", "tcp://a..b:1", "tcp://a\udce9:1"])
def test_addresses_that_nobody_can_connect_to(endpoint: str) -> None:
    with pytest.raises(UsageError, match=r"is an address to listen on|cannot be the name of a host|is not an endpoint"):
        connectable(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["", "tcp://", "tcp://x", "tcp://x:65536", "tcp://::1:5", "ipc://", "http://x:1", "x:1"]
)
def test_what_is_no_address(endpoint: str) -> None:
    with pytest.raises(UsageError, match="is not an endpoint: write tcp://HOST:PORT or ipc://PATH"):
        split_tcp(endpoint)


@pytest.mark.parametrize(
    ("told", "reached_by", "use"),
    [
        ("tcp://0.0.0.0:71", "tcp://lab:70", "tcp://lab:71"),
        ("tcp://[::]:71", "tcp://[fe80::1]:70", "tcp://[fe80::1]:71"),
        ("ipc:///tmp/x", "tcp://lab:70", "ipc:///tmp/x"),
        ("tcp://127.0.0.1:71", "ipc:///tmp/x", "tcp://127.0.0.1:71"),
    ],
)
def test_the_host_by_which_a_node_was_reached_is_kept(told: str, reached_by: str, use: str) -> None:
    assert as_reached(told, reached_by) == use


def test_what_nobody_else_can_reach() -> None:
    assert is_local("ipc:///tmp/x")
    assert is_local("tcp://127.0.0.1:1")
    assert not is_local("tcp://lab:1")

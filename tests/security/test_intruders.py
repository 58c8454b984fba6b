"""What comes to the ports that is no client: counted, named once per peer, cut off, and nobody else notices."""

from __future__ import annotations

import contextlib
import logging
import random
import socket as posix
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from parties import AT_ONCE_S, bystander, intruder

from tests.support.nodes import DEADLINE_S, Served, eventually, serving, small
from usbcast import NodeClient
from usbcast_broker.serving.data_socket import MAX_SAID
from usbcast_schemas import sockets
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import RemoteError
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = pytest.mark.slow

PORTS = ("requests", "data")
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\6DEALER"


@pytest.fixture(params=["without keys", "with keys"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Served, Keyring | None]]:
    ring = Keyring.create(tmp_path / "lab", "lab") if request.param == "with keys" else None
    with serving(rate_hz=500, settings=small(keys=str(ring.directory) if ring else "")) as served:
        yield served, ring


def address(served: Served, port: str) -> tuple[str, int]:
    endpoint = served.endpoint if port == "requests" else served.node.data_endpoints[0]
    return "127.0.0.1", int(endpoint.rpartition(":")[2])


def refused(served: Served, ring: Keyring | None) -> dict[str, int]:
    with NodeClient(served.endpoint, keys=ring.directory if ring else None) as client:
        return dict(client.health().refused)


@pytest.mark.parametrize("port", PORTS)
def test_a_port_scan(node: tuple[Served, Keyring | None], port: str, caplog: pytest.LogCaptureFixture) -> None:
    served, ring = node
    with bystander(served, ring):
        for _ in range(20):
            posix.create_connection(address(served, port)).close()
        eventually(lambda: refused(served, ring) == {"gone before the handshake was over": 20}, "each is counted", 5)
    assert len([record for record in caplog.records if "as a port scan or" in record.message]) in (1, 2), "named"


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "what", ["an HTTP request", "random bytes", "a greeting and random bytes", "an older protocol"]
)
def test_what_is_not_the_protocol(
    node: tuple[Served, Keyring | None], port: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off at once, whatever it still wants to send."""
    served, ring = node
    noise = random.Random(1).randbytes(1_000_000)
    sent = {
        "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "random bytes": noise,
        "a greeting and random bytes": GREETING + noise,
        "an older protocol": b"\x01\x00" + noise,
    }[what]
    with bystander(served, ring):
        with posix.create_connection(address(served, port)) as peer, contextlib.suppress(OSError):
            peer.settimeout(5)
            peer.sendall(sent)
            while peer.recv(65536):
                pass
        counted = eventually(lambda: refused(served, ring), "it is counted", AT_ONCE_S)
    assert set(counted) <= {"not ZMTP, or too long", "broken handshake", "no key"}
    assert "refused 127.0.0.1: " in caplog.text or "refused a peer that was gone at once: " in caplog.text


@pytest.mark.parametrize("port", PORTS)
def test_who_stalls_in_the_handshake_is_cut_off(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 300)
    with serving(rate_hz=500) as served, bystander(served), contextlib.ExitStack() as stack:
        for sent in (b"", GREETING[:20], GREETING):
            peer = stack.enter_context(posix.create_connection(address(served, port)))
            peer.sendall(sent)
        eventually(lambda: refused(served, None) == {"stalled in the handshake": 3}, "each is counted", 5)


def test_who_stalls_in_the_middle_of_a_message_harms_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    """It announces 4 MiB and sends a little, a hundred times; nobody waits for it, and no memory is taken for it."""
    with serving(rate_hz=500) as served, bystander(served), contextlib.ExitStack() as stack:
        client = stack.enter_context(NodeClient(served.endpoint))
        assert client.describe()
        before = client.health().node_memory_bytes
        for _ in range(100):
            peer = stack.enter_context(posix.create_connection(address(served, "requests")))
            peer.sendall(GREETING + READY + b"\x02" + (4 << 20).to_bytes(8, "big") + b"x" * 100)
            assert len(peer.recv(64)) > 0
        assert client.health().node_memory_bytes - before < 20e6
        assert client.describe()


def test_who_talks_to_the_data_port_is_cut_off(node: tuple[Served, Keyring | None]) -> None:
    served, ring = node
    own = ring.own().public if ring else b""
    with bystander(served, ring), intruder(zmq.XSUB, served.node.data_endpoints[0], ring, own) as data:
        for _ in range(100):
            data.send(b"what is this?")
        eventually(lambda: refused(served, ring).get("talks to the data port"), "it is counted", 5)


@pytest.mark.parametrize("at", [0, 1], ids=["over the network", "on this machine"])
def test_who_subscribes_to_what_does_not_exist_is_cut_off_at_the_first(
    node: tuple[Served, Keyring | None], at: int, caplog: pytest.LogCaptureFixture
) -> None:
    served, ring = node
    own = ring.own().public if ring else b""
    with bystander(served, ring), intruder(zmq.XSUB, served.node.data_endpoints[at], ring, own) as data:
        data.send(b"\1data/sim/")
        data.send(b"\1data/another/")
        eventually(lambda: refused(served, ring).get("subscribes to what does not exist"), "it is counted", 5)
    assert "subscribed to b'data/another/', and there is no such topic" in caplog.text


def test_topics_longer_than_any_are_not_read(node: tuple[Served, Keyring | None]) -> None:
    served, ring = node
    own = ring.own().public if ring else b""
    with bystander(served, ring), intruder(zmq.SUB, served.node.data_endpoints[0], ring, own) as data:
        for n in range(500):  # its own queue holds 1000
            data.subscribe(b"data/%0500d/" % n)
        eventually(lambda: refused(served, ring).get("not ZMTP, or too long"), "it is counted", 5)
        assert "subscribes to what does not exist" not in refused(served, ring)


def test_who_subscribes_without_end_is_cut_off() -> None:
    """Though to what exists."""
    with serving(rate_hz=500) as served, bystander(served), intruder(zmq.XSUB, served.node.data_endpoints[0]) as data:

        def is_cut_off() -> int:
            with contextlib.suppress(zmq.Again):
                for _ in range(MAX_SAID // 2):
                    data.send(b"\1data/sim/", zmq.DONTWAIT)
                    data.send(b"\0data/sim/", zmq.DONTWAIT)
            return refused(served, None).get("talks to the data port", 0)

        eventually(is_cut_off, "it is counted", 10)


@pytest.mark.parametrize("kind", ["health", "fetch", "garbage"])
@pytest.mark.parametrize("with_keys", [False, True], ids=["without keys", "with keys"])
def test_a_flood_of_requests(tmp_path: Path, kind: str, with_keys: bool) -> None:
    """It is told to wait, then cut off; whoever asks beside it is answered."""
    ring = Keyring.create(tmp_path / "lab", "lab") if with_keys else None
    own = ring.own().public if ring else b""
    settings = small(keys=str(ring.directory) if ring else "", max_requests_per_s=100, ring_size=1 << 20)
    request = pb.Request(contract=CONTRACT, request_id=7, health=pb.HealthRequest())
    if kind == "fetch":
        request.fetch.CopyFrom(pb.FetchRequest(stream="sim", from_sequence=0))
    raw = b"?" if kind == "garbage" else request.SerializeToString()
    with (
        serving(rate_hz=500, settings=settings) as served,
        bystander(served, ring),
        intruder(zmq.DEALER, served.endpoint, ring, own) as flood,
    ):
        flood.rcvtimeo = int(1000 * DEADLINE_S)

        def is_told_to_wait() -> bool:
            """Ask twenty times, fewer than it takes to be cut off, and read what is answered."""
            for _ in range(20):
                flood.send(raw)
            replies = [pb.Reply.FromString(flood.recv_multipart()[0]) for _ in range(20)]
            return any(reply.error.code == pb.ErrorReply.CODE_BUSY for reply in replies)

        def is_cut_off() -> int:
            """Go on and read nothing. What it would still be told ends with its connection."""
            with contextlib.suppress(zmq.Again):
                for _ in range(1000):
                    flood.send(raw, zmq.DONTWAIT)
            return refused(served, ring).get("floods with requests", 0)

        if kind != "garbage":  # which is told that it is no request
            eventually(is_told_to_wait, "it is told to wait")
        eventually(is_cut_off, "it is cut off")


def test_more_connections_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    """One address gets half of them; those that were there before stay."""
    with serving(rate_hz=500, settings=small(max_connections=16)) as served, bystander(served):
        with contextlib.ExitStack() as stack, NodeClient(served.endpoint) as client:
            assert client.describe()
            for _ in range(50):
                stack.enter_context(posix.create_connection(address(served, "requests")))
            eventually(lambda: client.health().refused["too many connections"] >= 40, "each is counted", 5)
        assert len([record for record in caplog.records if "max_connections is 16" in record.message]) == 1
        eventually(lambda: _answers(served), "there is room again when they have gone", 5)


def _answers(served: Served) -> bool:
    logging.disable(logging.CRITICAL)
    try:
        with NodeClient(served.endpoint, timeout_s=0.5) as client:
            return bool(client.describe())
    except RemoteError:
        return False
    finally:
        logging.disable(logging.NOTSET)

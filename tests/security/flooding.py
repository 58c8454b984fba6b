"""A crowd that floods a node in one way: `python -m tests.security.flooding KIND CONNECTIONS SECONDS REQUESTS DATA`.

REQUESTS and DATA are ports of 127.0.0.1. It runs with a lower priority, as it stands for other machines, whose processors are not
the node's.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket as posix
import sys
import time
from collections.abc import Callable

import zmq

from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.v1 import usbcast_pb2 as pb

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31)
STREAM = "flooded"

Ports = tuple[int, int]


def subscriptions(count: int, seconds: float, ports: Ports) -> None:
    """Ordinary sockets that each subscribe to 60 long topics, and leave all at once."""
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 2 * count + 10)
        peers = [context.socket(zmq.SUB) for _ in range(count)]
        for peer in peers:
            peer.linger = 0
            for _ in range(60):
                peer.subscribe(os.urandom(900))
            peer.connect(f"tcp://127.0.0.1:{ports[1]}")
        time.sleep(seconds)
        for peer in peers:
            peer.close()


def short_subscriptions(count: int, seconds: float, ports: Ports) -> None:
    """Topics that look like real ones, 60 by each, said by all at the same moment; all that are left leave at the same moment."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        peers = [one for one in (_shake_hands(ports[1], b"SUB") for _ in range(count)) if one is not None]
        said = [b"".join(_frame(b"\x01data/" + random.randbytes(66)) for _ in range(60)) for _ in peers]
        for peer, what in zip(peers, said, strict=True):
            with contextlib.suppress(OSError):
                peer.send(what)
        time.sleep(1)
        for peer in peers:
            peer.close()


def late_subscriptions(count: int, seconds: float, ports: Ports) -> None:
    """What exists, by each; when all have subscribed to it, 100 short topics that do not, said by all at the same moment."""
    peers = [one for one in (_shake_hands(ports[1], b"SUB") for _ in range(count)) if one is not None]
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.send(_frame(b"\x01data/" + STREAM.encode() + b"/"))
    time.sleep(1)
    said = [b"".join(_frame(b"\x01data/" + random.randbytes(66)) for _ in range(100)) for _ in peers]
    for peer, what in zip(peers, said, strict=True):
        with contextlib.suppress(OSError):
            peer.send(what)
    time.sleep(seconds)
    for peer in peers:
        peer.close()


def real_subscriptions(count: int, seconds: float, ports: Ports) -> None:
    """What anybody may subscribe to, by all, who take nothing of what they get; all leave at the same moment, again and again."""
    topics = [kind + STREAM.encode() + b"/" for kind in (b"data/", b"notify/", b"tail/")]
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        peers = [one for one in (_shake_hands(ports[1], b"SUB") for _ in range(count)) if one is not None]
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.send(b"".join(_frame(b"\x01" + topic) for topic in topics))
        time.sleep(1)
        for peer in peers:
            peer.close()


def fetches(count: int, seconds: float, ports: Ports) -> None:
    """Each keeps 16 fetches under way that find nothing and ask for everything."""
    request = pb.Request(contract=CONTRACT, fetch=pb.FetchRequest(stream=STREAM, from_sequence=0, from_number=2**63))
    _ask(count, seconds, ports, [request.SerializeToString()] * 16, 0.05)


def reports(count: int, seconds: float, ports: Ports) -> None:
    """Reports of nearly the size that a request may have."""
    name = "x" * 1_900_000
    request = pb.Request(contract=CONTRACT, report=pb.SubscriptionReport(stream=STREAM, subscriber=name))
    _ask(count, seconds, ports, [request.SerializeToString()], 1.0)


def endless_frames(count: int, seconds: float, ports: Ports) -> None:
    """Messages of empty frames that never end, begun again on a new connection when it is cut."""
    frames = b"\x01\x00" * 50_000
    end_s = time.monotonic() + seconds
    peers: list[posix.socket | None] = [None] * count
    while time.monotonic() < end_s:
        for at, peer in enumerate(peers):
            if peer is None:
                peers[at] = _shake_hands(ports[0], b"DEALER")
                continue
            try:
                peer.send(frames)
            except BlockingIOError:
                continue
            except OSError:
                peer.close()
                peers[at] = None
        time.sleep(0.01)
    for peer in peers:
        if peer is not None:
            peer.close()


def handshakes(count: int, seconds: float, ports: Ports) -> None:
    """Half a handshake on each connection, at both ports, then a new one."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        peers = []
        for at in range(count):
            with contextlib.suppress(OSError):
                peer = posix.create_connection(("127.0.0.1", ports[at % 2]), 5)
                peer.sendall(GREETING[: 20 if at % 3 else 64])
                peers.append(peer)
        time.sleep(0.2)
        for peer in peers:
            peer.close()


KINDS: dict[str, Callable[[int, float, Ports], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        subscriptions,
        short_subscriptions,
        late_subscriptions,
        real_subscriptions,
        fetches,
        reports,
        endless_frames,
        handshakes,
    )
}


def _ask(count: int, seconds: float, ports: Ports, requests: list[bytes], pause_s: float) -> None:
    """By `count` connections, all `requests` each time; the answers are taken and thrown away."""
    end_s = time.monotonic() + seconds
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 2 * count + 10)
        peers = [context.socket(zmq.DEALER) for _ in range(count)]
        for peer in peers:
            peer.linger = 0
            peer.connect(f"tcp://127.0.0.1:{ports[0]}")
        while time.monotonic() < end_s:
            for peer in peers:
                with contextlib.suppress(zmq.Again):
                    for request in requests:
                        peer.send(request, zmq.DONTWAIT)
                with contextlib.suppress(zmq.Again):
                    while True:
                        peer.recv_multipart(zmq.DONTWAIT)
            time.sleep(pause_s)
        for peer in peers:
            peer.close()


def _shake_hands(port: int, kind: bytes) -> posix.socket | None:
    """A connection that has said which kind of socket it is; None if it was cut."""
    peer = posix.socket()
    try:
        peer.settimeout(5)
        peer.connect(("127.0.0.1", port))
        peer.sendall(GREETING)
        greeting = b""
        while len(greeting) < 64:
            more = peer.recv(64 - len(greeting))
            if not more:
                raise ConnectionResetError
            greeting += more
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
        peer.sendall(b"\x04" + bytes([len(ready)]) + ready)
        if not peer.recv(256):
            raise ConnectionResetError
        peer.setblocking(False)
    except OSError:
        peer.close()
        return None
    return peer


def _frame(body: bytes) -> bytes:
    return b"\0" + bytes([len(body)]) + body


if __name__ == "__main__":
    os.nice(10)
    kind, connections, lasting_s, requests_port, data_port = sys.argv[1:]
    KINDS[kind](int(connections), float(lasting_s), (int(requests_port), int(data_port)))

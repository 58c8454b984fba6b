"""The memory of a node beside hostile peers, many of one kind at once: `python -m tests.security.memory` prints a table.

Each kind sends what would grow in the node if only each peer's part had a bound. The node is a process of its own, with a
simulated device; an honest client asks it for the time all the while. Peers come from 127.0.0.2, the honest client does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket as posix
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from usbcast import NodeClient
from usbcast_schemas.contract import CONTRACT, data_topic
from usbcast_schemas.errors import UsbcastError
from usbcast_schemas.v1 import usbcast_pb2 as pb

STREAM = "first-case"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(32)
MOST_BYTES = 400_000_000
"""All that the peers of one kind send."""


def command(name: bytes, body: bytes) -> bytes:
    body = bytes([len(name)]) + name + body
    return b"\x06" + len(body).to_bytes(8, "big") + body


def ready(kind: bytes, further: bytes = b"") -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind + further)


def frame(body: bytes) -> bytes:
    return b"\x02" + len(body).to_bytes(8, "big") + body


def frame_of_few(body: bytes) -> bytes:
    """A frame of at most 255 bytes."""
    return bytes([0, len(body)]) + body


def request(**body: object) -> bytes:
    return frame(pb.Request(contract=CONTRACT, request_id=1, **body).SerializeToString())  # type: ignore[arg-type]


def report(name: str) -> bytes:
    told = pb.SubscriptionReport(name=name, via="push")
    return request(report=pb.ReportRequest(stream=STREAM, report=told))


@dataclass(frozen=True)
class Kind:
    """What each peer of one kind says once it is connected; `{n:06d}` differs from peer to peer."""

    what: str
    first: bytes = ready(b"DEALER")
    then: bytes = b""
    repeated: int = 1
    port: str = "requests"
    every_s: float = 0.0
    """Pause between two peers that join."""
    stream: tuple[str, ...] = ("--rate", "20000")
    """Options of the simulated device."""


PROPERTIES = (b"\x04junk" + (250_000).to_bytes(4, "big") + bytes(250_000)) * 4

KINDS = {
    "nothing": Kind("say nothing at all", first=b""),
    "replies": Kind(
        "ask for 4 MiB forty times and read nothing",
        then=request(fetch=pb.FetchRequest(stream=STREAM, from_sequence=0)),
        repeated=40,
    ),
    "health": Kind("ask for health forty times and read nothing", then=request(health=pb.HealthRequest()), repeated=40),
    "reports": Kind("send reports of 1.9 MB", then=report("{n:06d}" + "x" * 1_900_000), repeated=2),
    "frames": Kind("send empty frames without an end", then=b"\x01\x00" * 50_000, repeated=40),
    "unfinished": Kind("send all of a request of 4 MB but its last byte", then=frame(bytes(4_000_000))[:-1]),
    "requests": Kind("send garbage of 3.9 MB again and again", then=frame(bytes(3_900_000)), repeated=3),
    "commands": Kind(
        "send the device 1.9 MB again and again",
        then=request(command=pb.CommandRequest(stream=STREAM, out=pb.OutTransfer(endpoint=1, data=bytes(1_900_000)))),
        repeated=3,
    ),
    "properties": Kind("name a megabyte of properties in the handshake", first=ready(b"DEALER", PROPERTIES)),
    "subscribers": Kind(
        "subscribe to all data and read nothing", first=ready(b"SUB"), then=b"\x00\x01\x01", port="data"
    ),
    "laggards": Kind(
        "subscribe one after the other to 40 MB/s and read nothing",
        first=ready(b"SUB"),
        then=frame_of_few(b"\x01" + data_topic(STREAM)),
        port="data",
        every_s=0.03,
        stream=("--rate", "40000", "--packet-size", "1000"),
    ),
}


class Peer:
    """One connection: what is still to be sent by it."""

    def __init__(self, address: tuple[str, int], kind: Kind, n: int) -> None:
        self.socket = posix.socket()
        self.socket.setsockopt(posix.SOL_SOCKET, posix.SO_RCVBUF, 4096)
        self.socket.settimeout(5)
        self.socket.bind(("127.0.0.2", 0))
        self.socket.connect(address)
        self.socket.sendall(GREETING)
        self.socket.recv(64, posix.MSG_WAITALL)
        self.socket.setblocking(False)
        then = kind.then.replace(b"{n:06d}", b"%07d" % n)
        self._left = iter([memoryview(part) for part in (kind.first, *[then] * kind.repeated) if part])
        self._part = memoryview(b"")

    def send(self) -> int:
        """Send what the node takes now; return how much. Raises StopIteration after the last byte, OSError if it was cut."""
        if not self._part:
            self._part = next(self._left)
        try:
            sent = self.socket.send(self._part[:1_000_000])
        except BlockingIOError:
            return 0
        self._part = self._part[sent:]
        return sent

    @property
    def is_cut(self) -> bool:
        try:
            while self.socket.recv(65536):
                pass
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True


class Peers:
    """Peers of one kind, that send as quickly as the node takes it, and read nothing."""

    def __init__(self, address: tuple[str, int], kind: Kind, count: int) -> None:
        self.sent_bytes = 0
        self._all: list[Peer] = []
        for n in range(count):
            self._all.append(Peer(address, kind, n))
            if kind.every_s:
                self._begin_at_once(self._all[-1])
                time.sleep(kind.every_s)

    def _begin_at_once(self, peer: Peer) -> None:
        """Have a peer say all that it says, where that is little, before the next one joins."""
        with contextlib.suppress(StopIteration, OSError):
            while sent := peer.send():
                self.sent_bytes += sent
                select.select([peer.socket], [], [], 1)  # after the handshake, and not in it

    def send(self, until_s: float) -> None:
        poller = select.poll()
        sending = {peer.socket.fileno(): peer for peer in self._all}
        for fd in sending:
            poller.register(fd, select.POLLOUT)
        while sending and time.monotonic() < until_s and self.sent_bytes < MOST_BYTES:
            for fd, _ in poller.poll(100):
                try:
                    self.sent_bytes += sending[fd].send()
                except (StopIteration, OSError):
                    poller.unregister(fd)
                    del sending[fd]

    def cut(self) -> int:
        return sum(peer.is_cut for peer in self._all)

    def close(self) -> None:
        for peer in self._all:
            peer.socket.close()


class Honest:
    """Asks for the time ten times a second, by a connection of its own; tells how long the answers took."""

    def __init__(self, endpoint: str) -> None:
        self.slowest_s = 0.0
        self.answers = self.unanswered = 0
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            with NodeClient(self._endpoint, timeout_s=5) as client, contextlib.suppress(UsbcastError):
                while not self._stop.wait(0.1):
                    begun_s = time.monotonic()
                    self.unanswered += 1
                    client.clock()
                    self.unanswered -= 1
                    self.answers += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass(frozen=True)
class Seen:
    """What a kind of peers did to the node."""

    kind: str
    peers: int
    sent_mb: float
    cut: int
    before_mb: float
    peak_mb: float
    after_mb: float
    """Some seconds after the last of them has gone."""
    slowest_ms: float
    unanswered: int
    refused: dict[str, int]


def memory_mb(pid: int) -> float:
    """Its anonymous memory, which leaves out the ring."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000


@contextmanager
def node(stream: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """A node in a process of its own: its process, its two addresses. It has some ten MiB in its ring."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        program = shutil.which("usbcast", path=str(Path(sys.executable).parent)) or "usbcast"
        options = [
            "--simulate",
            *stream,
            "--ring-size",
            "33554432",
            "--stream",
            STREAM,
            "--bind",
            "tcp://127.0.0.1:0",
            "--json",
        ]
        environment = {**os.environ, "USBCAST_RUNTIME_DIR": directory, "USBCAST_RING_DIR": directory}
        process = subprocess.Popen(
            [program, "serve", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
        )
        assert process.stdout is not None
        try:
            endpoint = json.loads(process.stdout.readline())["endpoint"]
            with NodeClient(endpoint) as client:
                (info,) = client.describe()
                while client.describe()[0].next_sequence < 100_000:
                    time.sleep(0.1)
            data = next(one for one in info.data_endpoints if one.startswith("tcp"))
            yield process.pid, endpoint, data
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
            process.stdout.close()


def besiege(name: str, count: int, *, seconds: float = 10.0) -> Seen:
    """Have so many peers of one kind at a new node at once, and go; return what it did."""
    kind = KINDS[name]
    with node(kind.stream) as (pid, requests, data):
        address = "127.0.0.1", int((data if kind.port == "data" else requests).rpartition(":")[2])
        before = peak = memory_mb(pid)
        stop = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not stop.wait(0.02):
                peak = max(peak, memory_mb(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        honest = Honest(requests)
        try:
            until_s = time.monotonic() + seconds
            peers = Peers(address, kind, count)
            peers.send(until_s)
            time.sleep(max(2.0, min(6.0, until_s - time.monotonic())))
            cut = peers.cut()
            peers.close()
        finally:
            honest.stop()
        after = min(_later(pid))
        stop.set()
        watcher.join()
        with NodeClient(requests, timeout_s=10) as client:
            refused = dict(client.health().refused)
    return Seen(
        name,
        count,
        round(peers.sent_bytes / 1e6, 1),
        cut,
        *(round(one, 1) for one in (before, peak, after)),
        round(honest.slowest_s * 1000, 1),
        honest.unanswered,
        refused,
    )


def _later(pid: int) -> Iterator[float]:
    for _ in range(60):
        time.sleep(0.1)
        yield memory_mb(pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each kind, at the most")
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    options = parser.parse_args()
    print(f"{options.peers} peers of each kind, at once; memory in MB, times in ms")
    print(
        f"{'kind':12} {'sent':>7} {'cut':>5} {'before':>7} {'peak':>7} {'after':>7} {'slowest':>8} {'unanswered':>10}"
    )
    for name in options.kinds:
        seen = besiege(name, options.peers, seconds=options.seconds)
        print(
            f"{name:12} {seen.sent_mb:7} {seen.cut:5} {seen.before_mb:7} {seen.peak_mb:7} {seen.after_mb:7} "
            f"{seen.slowest_ms:8} {seen.unanswered:10}  {seen.refused}",
            flush=True,
        )


if __name__ == "__main__":
    main()

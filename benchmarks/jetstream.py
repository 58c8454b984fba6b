"""What storing on a NATS server adds: lag of a reader beside one at the node, CPU, and the most that goes through.

python -m benchmarks.jetstream   (needs nats-server and the extra nats; some 60 s)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import usbcast
from usbcast import Batch
from usbcast.jetstream.forwarding import Forwarding, ForwardOptions, forward
from usbcast.node.endpoints import parse
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.simulator.profile import profile_of

SECONDS = 10.0
RATES = (100, 1000, 20_000)
THROUGHPUT = ((1_000_000, 96 << 10), (200_000, 1120), (60_000, 112))
"""Packets, and the bytes at which a batch goes: large ones, some ten packets, one packet."""


@contextlib.contextmanager
def server(store: Path) -> Iterator[str]:
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    assert program, "nats-server is not installed"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [program, "-js", "-sd", str(store), "-a", "127.0.0.1", "-p", str(port), "-l", str(store / "log")]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def serve(endpoint: str, rate_hz: float, packets: int | None, batch_size: int = 96 << 10) -> int:
    """A node in a process of its own; its pid. Ended by SIGKILL."""
    pid = os.fork()
    if pid:
        return pid
    device = SimulatedDevice(SimulatorConfig(rate_hz=rate_hz, packets=packets, fifo_bytes=1 << 26))
    node = Node(NodeSettings(bind=endpoint, ring_size=256 << 20, batch_size=batch_size))
    add_device(node, profile_of(device.config, "sim"), stream="sim", backend=SimulatorBackend([device]))
    node.start()
    threading.Event().wait()
    os._exit(0)


def forwarder(url: str, endpoint: str, look: Callable[[Forwarding], None] = lambda _: None) -> int:
    """The bridge in a process of its own; its pid."""
    pid = os.fork()
    if pid:
        return pid
    options = ForwardOptions(parse(url), endpoint, wait=True)
    forward(("sim",), options, threading.Event(), warn=print, look=look)
    os._exit(0)


def lags_ms(endpoint: str, seconds: float) -> list[float]:
    with usbcast.subscribe("sim", endpoint) as stream:
        stream.ready()
        found = []
        until = time.monotonic() + seconds
        for event in stream.events():
            if isinstance(event, Batch):
                found.append(stream.lag_ns / 1e6)
            if time.monotonic() > until:
                return sorted(found)
    return found


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(name: str, found: list[float]) -> str:
    at = [found[min(len(found) - 1, int(len(found) * p))] for p in (0.5, 0.99)]
    return f"{name} p50 {at[0]:.2f} ms p99 {at[1]:.2f} ms ({len(found)} batches)"


def free_endpoint() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def lag(rate_hz: int) -> None:
    with tempfile.TemporaryDirectory() as store, server(Path(store)) as url:
        endpoint = free_endpoint()
        pids = [serve(endpoint, rate_hz, None), forwarder(url, endpoint)]
        try:
            time.sleep(2.0)
            direct = lags_ms(endpoint, SECONDS)
            before_s, begun_s = cpu_s(pids[1]), time.monotonic()
            stored = lags_ms(url, SECONDS)
            busy = (cpu_s(pids[1]) - before_s) / (time.monotonic() - begun_s)
        finally:
            stop(pids)
    print(f"{rate_hz}/s: {told('at the node', direct)}; {told('from the server', stored)}; bridge {busy:.0%} of a core")


def throughput(packets: int, batch_size: int) -> None:
    """How fast a full ring is stored, in batches of this size."""
    with tempfile.TemporaryDirectory() as store, server(Path(store)) as url:
        endpoint = free_endpoint()
        pids = [serve(endpoint, 0, packets, batch_size)]
        begun: list[tuple[float, int]] = []

        def look(work: Forwarding) -> None:
            for one in work.forwarders.values():
                begun.append((time.monotonic(), one.ledger.left))
                if one.ledger.left >= packets:
                    first = next(at for at in begun if at[1])
                    rate = (one.ledger.left - first[1]) / (begun[-1][0] - first[0])
                    batches = one.ledger.counters["batches"]
                    print(
                        f"most: {rate:,.0f} packets/s, {rate * 112 / 1e6:.1f} MB/s, {rate * batches / packets:,.0f} batches/s",
                        flush=True,
                    )
                    os._exit(0)

        try:
            time.sleep(4.0)
            os.waitpid(forwarder(url, endpoint, look), 0)
        finally:
            stop(pids)


def stop(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    for rate in RATES:
        lag(rate)
    for packets, batch_size in THROUGHPUT:
        throughput(packets, batch_size)

"""100 MB of rubbish to each port, floods and stalls all at once: a subscriber beside it loses nothing, and memory stays flat."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket as posix
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zmq
from parties import intruder

from tests.support.programs import Program, run, serve
from usbcast import NodeClient
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.v1 import usbcast_pb2 as pb

RUBBISH_BYTES = int(os.environ.get("ONSLAUGHT_BYTES", "100_000_000"))
QUIET_S = 3.0

BYSTANDER = """
import sys, time, usbcast
with usbcast.subscribe("first-case", sys.argv[1], via="push") as stream:
    stream.ready()
    print('{"event": "ready"}', flush=True)
    lags, told = [], time.monotonic()
    for event in stream:
        lags.append(stream.lag_ns)
        if time.monotonic() - told > 1:
            told, lags = time.monotonic(), sorted(lags)
            p50, p99 = (lags[int(part * (len(lags) - 1))] / 1e6 for part in (0.5, 0.99))
            print(f'{{"event": "second", "p50_ms": {p50}, "p99_ms": {p99}, "lost": {stream.ledger.lost_total}}}', flush=True)
            lags = []
"""


def send_rubbish(address: tuple[str, int], size_bytes: int) -> None:
    """So much in all, over as many connections as it takes, and at least a hundred."""
    noise = random.Random(2).randbytes(1_000_000)
    sent = 0
    while sent < size_bytes:
        with contextlib.suppress(OSError), posix.create_connection(address, 5) as peer:
            # What is cut off at once still counts: it was thrown at the port.
            sent += len(noise)
            peer.sendall(noise)


def seconds(bystander: Program, until_s: float) -> list[dict[str, Any]]:
    found = []
    while time.monotonic() < until_s:
        found.append(bystander.hear("second"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("with_keys", [False, True], ids=["without keys", "with keys"])
def test_an_onslaught(with_keys: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = str(tmp_path / "keys") if with_keys else ""
    if keys:
        assert run("keys", "new", "--name", "lab", "--keys", keys).finish() == 0
    environment = {"USBCAST_KEYS": keys} if keys else {}
    node, endpoint = serve("--rate", "1000", "--bind", "tcp://127.0.0.1:0", **environment)
    with node, Program([sys.executable, "-c", BYSTANDER, endpoint], **environment) as bystander:
        bystander.hear("ready")
        with NodeClient(endpoint, keys=keys or None) as client:
            (info,) = client.describe()
            before = client.health()
        data = next(one for one in info.data_endpoints if one.startswith("tcp"))
        quiet = seconds(bystander, time.monotonic() + QUIET_S)
        stop = threading.Event()

        def flood() -> None:
            request = pb.Request(contract=CONTRACT, health=pb.HealthRequest()).SerializeToString()
            with intruder(zmq.DEALER, endpoint) as socket:
                while not stop.is_set():
                    for _ in range(100):
                        with contextlib.suppress(zmq.Again):
                            socket.send(request, zmq.DONTWAIT)
                    while socket.poll(1):
                        socket.recv_multipart()

        ports = [("127.0.0.1", int(one.rpartition(":")[2])) for one in (endpoint, data)]
        attackers = [threading.Thread(target=send_rubbish, args=(port, RUBBISH_BYTES)) for port in ports]
        attackers.append(threading.Thread(target=flood))
        begun_s = time.monotonic()
        with contextlib.ExitStack() as stalled:
            for port in ports:
                for _ in range(100):
                    stalled.enter_context(posix.create_connection(port)).sendall(b"\xff" + bytes(8))
            for attacker in attackers:
                attacker.start()
            under_attack = []
            while any(attacker.is_alive() for attacker in attackers[:2]):
                under_attack += seconds(bystander, time.monotonic() + 1)
            stop.set()
            attackers[2].join()
        lasted_s = time.monotonic() - begun_s
        with NodeClient(endpoint, keys=keys or None, timeout_s=10) as client:
            after = client.health()
        assert {one["lost"] for one in quiet + under_attack} == {0}
        assert after.node_memory_bytes - before.node_memory_bytes < 30e6
        assert after.refused["not ZMTP, or too long"] > 100
        assert not after.streams[0].discrepancies
        assert "Traceback" not in node.stderr
        with capsys.disabled():
            told = {
                "keys": with_keys,
                "seconds": round(lasted_s, 1),
                "p99_ms": [round(max(one["p99_ms"] for one in part), 2) for part in (quiet, under_attack)],
                "memory_mb": [round(one.node_memory_bytes / 1e6, 1) for one in (before, after)],
                "refused": dict(after.refused),
            }
            print(json.dumps(told))
        node.signal(signal.SIGTERM)
        assert node.finish() == 0

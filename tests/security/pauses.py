"""Pauses of USB reading beside a flood: `python -m tests.security.pauses [--table] [KIND ...] [--connections N ...]`.

A node owns a simulated device that loses what is not read in time. Beside it are three that are welcome: one reads the ring, one
is pushed to on this machine and one over TCP. Then a crowd floods the node. A table says, for each flood, the longest time
between two USB reads, what the device lost, and the longest lag of the three; `--json` says the same for programs. `--table`
makes the whole table of docs/security.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tests.security.flooding import KINDS, STREAM

RATE_HZ = 2_000
FIFO_BYTES = 1 << 20
"""Of the device: some 4.7 s at this rate."""

TABLE = (
    "subscriptions",
    "short-subscriptions",
    "late-subscriptions",
    "fetches",
    "reports",
    "endless-frames",
    "handshakes",
)
TABLE_SECONDS = 2.5

HEAD = (
    "| flood | connections | longest pause, ms | lost: device, ring, push, tcp | longest lag, ms: ring, push, tcp |\n"
    "|---|---:|---:|---|---|"
)

AFTER_S = 5.0
"""Time for which it is watched how the node fares after the flood; a data socket may still be busy with it."""

ROOT = Path(__file__).parent.parent.parent

WATCHER = """
import json, sys, time, usbcast
from usbcast.receiving.channels import published
via, endpoint = sys.argv[1:]
if via == "tcp":
    published.host_id = lambda: "another one"
pause = lag = lost = last = 0
with usbcast.subscribe("flooded", endpoint, via="ring" if via == "ring" else "push") as stream:
    stream.ready(20)
    print("ready", flush=True)
    for event in stream.events():
        if isinstance(event, usbcast.Batch):
            arrivals = [int(at) for at in event.monotonic_ns]
            for at in arrivals:
                pause, last = max(pause, at - last if last else 0), at
            lag = max(lag, time.monotonic_ns() - arrivals[0] if arrivals else 0)
        elif isinstance(event, usbcast.Gap):
            lost += event.count
        elif isinstance(event, usbcast.End):
            break
print(json.dumps({"pause_ms": pause / 1e6, "lag_ms": lag / 1e6, "lost": lost}), flush=True)
"""


def measure(kind: str, connections: int, seconds: float, fifo_bytes: int = FIFO_BYTES) -> dict[str, Any]:
    """One flood, or none (`kind` ""), beside a node of its own."""
    with tempfile.TemporaryDirectory(prefix="usbcast-pauses-") as directory, contextlib.ExitStack() as stack:
        place = Path(directory)
        log, faults = place / "device.json", place / "faults.toml"
        faults.touch()
        environment = {
            **os.environ,
            "USBCAST_RUNTIME_DIR": str(place / "run"),
            "USBCAST_RING_DIR": str(place / "rings"),
            "PYTHONPATH": ":".join(str(ROOT / one) for one in (".", "schemas", "broker", "clients")),
        }
        for name in ("run", "rings"):
            (place / name).mkdir(mode=0o700)
        device = {"rate_hz": RATE_HZ, "fifo_bytes": fifo_bytes}
        settings = {"bind": "tcp://127.0.0.1:0", "publish": "tcp://127.0.0.1:0", "ring_size": 1 << 24}
        node = stack.enter_context(
            _started(
                environment,
                *("-m", "tests.chaos.device_node", "--device", json.dumps(device), "--node", json.dumps(settings)),
                *("--faults", str(faults), "--stream", STREAM, "--log", str(log), "--drain-s", "0"),
            )
        )
        endpoint = json.loads(_line(node))["endpoint"]
        watchers = {
            via: stack.enter_context(_started(environment, "-c", WATCHER, via, endpoint))
            for via in ("ring", "push", "tcp")
        }
        for watcher in watchers.values():
            assert _line(watcher) == "ready\n"
        before, data_port = _health(environment, endpoint)
        time.sleep(0.5)
        if kind:
            ports = endpoint.rpartition(":")[2], data_port
            crowd = ("-m", "tests.security.flooding", kind, str(connections), str(seconds), *ports)
            with _started(environment, *crowd) as flood:
                flood.wait(seconds * 10 + 60)
        time.sleep(AFTER_S if kind else seconds + AFTER_S)
        after, _ = _health(environment, endpoint)
        node.send_signal(signal.SIGTERM)
        told = {via: json.loads(_line(watcher)) for via, watcher in watchers.items()}
        made = json.loads(log.read_text())
        node.send_signal(signal.SIGTERM)
    return {
        "kind": kind or "nothing",
        "connections": connections,
        "pause_ms": told["ring"]["pause_ms"],
        "lost": {"device": made["dropped"], **{via: one["lost"] for via, one in told.items()}},
        "lag_ms": {via: one["lag_ms"] for via, one in told.items()},
        "memory_mb": [one["memory"] / 1e6 for one in (before, after)],
        "refused": after["refused"],
    }


@contextlib.contextmanager
def _started(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        out: IO[str] | None = process.stdout
        assert out is not None
        out.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _health(environment: dict[str, str], endpoint: str) -> tuple[dict[str, Any], str]:
    """What the node says of itself, asked in a process of its own; and the port of its data."""
    asked = (
        "import json, sys, usbcast\n"
        "with usbcast.NodeClient(sys.argv[1], timeout_s=30) as node:\n"
        "    health, (info,) = node.health(), node.describe()\n"
        "tcp = next(one for one in info.data_endpoints if one.startswith('tcp'))\n"
        "print(json.dumps([health.node_memory_bytes, dict(health.refused), tcp.rpartition(':')[2]]))\n"
    )
    for _ in range(10):
        answer = subprocess.run(
            [sys.executable, "-c", asked, endpoint], capture_output=True, text=True, env=environment, check=False
        )
        if answer.returncode == 0:
            memory, refused, port = json.loads(answer.stdout)
            return {"memory": memory, "refused": refused}, port
    raise AssertionError(f"the node does not say how it fares: {answer.stderr[-500:]}")


def main() -> None:
    given = _parser().parse_args()
    kinds, seconds = given.kinds or list(KINDS), given.seconds
    if given.table:
        kinds, seconds = given.kinds or list(TABLE), min(seconds, TABLE_SECONDS)
    fifo_bytes = int(given.fifo_ms / 1000 * RATE_HZ) * 112
    began = time.monotonic()
    if not given.json:
        print(HEAD, flush=True)
    for kind, count in [("", 0), *((kind, count) for kind in kinds for count in given.connections)]:
        told = measure(kind, count, seconds, fifo_bytes)
        print(json.dumps(told) if given.json else _row(told), flush=True)
    if not given.json:
        print(f"\nin {time.monotonic() - began:.0f} s; the row of nothing is this machine's own pause")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.security.pauses")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all if none is given")
    parser.add_argument("--connections", type=int, nargs="+", default=[10, 60, 200, 500])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--fifo-ms", type=float, default=100.0, help="how long the device can store what is not read")
    parser.add_argument(
        "--table", action="store_true", help="the floods of docs/security.md, shorter: some six minutes"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def _row(told: dict[str, Any]) -> str:
    lags = ", ".join(f"{lag:.0f}" for lag in told["lag_ms"].values())
    lost = ", ".join(map(str, told["lost"].values()))
    return f"| {told['kind']} | {told['connections']} | {told['pause_ms']:.1f} | {lost} | {lags} |"


if __name__ == "__main__":
    main()

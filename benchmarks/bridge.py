"""What a bridge adds: one subscriber of the node and one of a bridge of it, in the same run; their lags, and the CPU of both.

    python benchmarks/bridge.py                                 # 100 and 20,000 packets/s, by push and by ring, 15 s each
    python benchmarks/bridge.py --rate 20000 --via push --seconds 60

The lag of a packet is from its arrival at the node to its delivery to the application. All processes are on this machine.
Exit code 1 if a packet was lost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import usbcast
from usbcast.demo.children import Children

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.processes import cpu_ns

WARM_S = 2.0


def read(endpoint: str, via: str, seconds: float) -> None:
    """A subscriber: prints the lags of its packets, after a while in which everything gets warm."""
    lags_us: list[float] = []
    packets: list[int] = []
    with usbcast.subscribe("first-case", endpoint, via=via) as stream:
        begin_s = time.monotonic() + WARM_S
        for batch in stream:
            now_ns = time.monotonic_ns()
            if now_ns / 1e9 < begin_s:
                continue
            arrivals = batch.encoded.arrivals
            lags_us += [(now_ns - at) / 1000 for at in arrivals.monotonic_ns]
            packets += arrivals.packets
            if now_ns / 1e9 > begin_s + seconds:
                break
        lost = stream.ledger.lost_total
    p50, p99 = np.percentile(np.repeat(lags_us, packets), [50, 99])
    print(json.dumps({"p50_us": p50, "p99_us": p99, "packets": sum(packets), "lost": lost}))


def pid_of(endpoint: str) -> int:
    with usbcast.NodeClient(endpoint) as node:
        return node.health().node_pid


def measure(rate: float, via: str, seconds: float) -> dict[str, Any]:
    """One run."""
    with Children() as children:
        serve = ["--simulate", "--json", "--bind", "tcp://127.0.0.1:0", "--rate", str(rate)]
        children.start("node", "usbcast", "serve", *serve)
        direct = children.wait_for("node", "serving", 20)["endpoint"]
        upstream = ["--via", via, "--start", "now", "--json", "--bind", "tcp://127.0.0.1:0"]
        children.start("bridge", "usbcast", "bridge", direct, *upstream)
        bridged = children.wait_for("bridge", "serving", 20)["endpoint"]
        pids = [pid_of(endpoint) for endpoint in (direct, bridged)]
        command = [sys.executable, __file__, "--seconds", str(seconds), "--via", via, "--read"]
        readers = [
            subprocess.Popen([*command, endpoint], stdout=subprocess.PIPE, text=True) for endpoint in (direct, bridged)
        ]
        time.sleep(WARM_S)
        begin_s, begin = time.monotonic(), [cpu_ns(pid) for pid in pids]
        outputs = [reader.communicate()[0] for reader in readers]
        lasted_s = time.monotonic() - begin_s
        used = [cpu_ns(pid) - before for pid, before in zip(pids, begin, strict=True)]
    found = [json.loads(output) for output in outputs]
    return {
        "rate": rate, "via": via, "direct": found[0], "bridged": found[1],
        "cpu_node": used[0] / 1e9 / lasted_s, "cpu_bridge": used[1] / 1e9 / lasted_s,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rate", type=float, action="append")
    parser.add_argument("--via", choices=["push", "ring", "notify"], action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", metavar="ENDPOINT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        read(given.read, given.via[0], given.seconds)
        return 0
    lost = 0
    print(
        f"{'packets/s':>9} {'by':>6}   {'direct p50':>10} {'p99 µs':>8}   {'bridged p50':>11} {'p99 µs':>8}   "
        f"{'ratio p50':>9} {'p99':>5}   {'CPU node':>8} {'bridge':>7}"
    )
    for rate in given.rate or [100, 20_000]:
        for via in given.via or ["push", "ring"]:
            run = measure(rate, via, given.seconds)
            one, two = run["direct"], run["bridged"]
            lost += one["lost"] + two["lost"]
            if given.json:
                print(json.dumps(run))
                continue
            print(
                f"{rate:>9,.0f} {via:>6}   {one['p50_us']:>10,.0f} {one['p99_us']:>8,.0f}   {two['p50_us']:>11,.0f} "
                f"{two['p99_us']:>8,.0f}   {two['p50_us'] / one['p50_us']:>9.2f} {two['p99_us'] / one['p99_us']:>5.2f}   "
                f"{run['cpu_node']:>8.1%} {run['cpu_bridge']:>7.1%}"
            )
    print("nothing was lost" if not lost else f"{lost} packets were lost")
    return 0 if not lost else 1


if __name__ == "__main__":
    sys.exit(main())

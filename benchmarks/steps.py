"""The hot path, step by step: microseconds of each step for one batch, in one process and one thread.

    python -m benchmarks.steps

The steps are those of the product, called as the product calls them: for a batch that comes by itself, and, per batch, for a
run of several. What two processes need beyond that is what waking, changing threads and contention cost.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import zmq

from benchmarks.harness import SHARED_MEMORY
from benchmarks.hot_path import HotPath
from usbcast_schemas.contract import data_topic
from usbcast_schemas.fanout import fanout_of, sender_of
from usbcast_schemas.messages import messages_of

SIZES = (1, 64, 512, 4096)
ROUNDS = 7
ROUND_S = 0.03

RUN = 32
RUN_BYTES = 256 * 1024
"""A run is as long as one under load: so many batches, or so many bytes, but at least one."""

Step = tuple[str, Callable[[], object], int]
"""Its name, what does it, and for how many batches."""


def measure(packets: int, directory: Path) -> dict[str, float]:
    """µs of each step for a batch of so many packets, the medians of some rounds taken in turn."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with HotPath(packets, directory) as path, HotPath(packets, directory) as whole:
            steps = [*_steps(path, whole), *_socket_steps(path, context, directory)]
            found: dict[str, list[float]] = {name: [] for name, *_ in steps}
            times = {name: max(3, int(ROUND_S * 1e6 / max(0.05, _once(call, 20)))) for name, call, _ in steps}
            for _ in range(ROUNDS):
                for name, call, batches in steps:
                    found[name].append(_once(call, times[name]) / batches)
    finally:
        context.destroy(linger=0)
    return {name: median(values) for name, values in found.items()}


def _once(call: Callable[[], object], times: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(times):
        call()
    return (time.perf_counter_ns() - begin) / times / 1000


def _steps(path: HotPath, whole: HotPath) -> list[Step]:
    raw = path.raw
    target = memoryview(bytearray(len(raw)))
    run = max(1, min(RUN, RUN_BYTES // len(raw)))
    path.node(run)

    def copy() -> None:
        target[:] = raw

    return [
        ("memcpy of the batch, for comparison", copy, 1),
        ("node: clocks and Transfer", path.transfer, 1),
        ("node: host queue, put and take", path.gather, 1),
        ("node: from transfer to ring, by itself", path.node, 1),
        ("node: from transfer to ring, in a run", lambda: path.node(run), run),
        ("of it, encoded and written", lambda: path.write(run), run),
        ("both: from transfer to event, by itself", whole.through, 1),
        ("both: from transfer to event, in a run", lambda: whole.through(run), run),
        ("of it, copied and decoded", lambda: path.take(run), run),
    ]


def _socket_steps(path: HotPath, context: zmq.Context[zmq.Socket[bytes]], directory: Path) -> list[Step]:
    topic, raw = data_topic("bench"), path.raw
    alone = context.socket(zmq.PUB)
    alone.bind(f"ipc://{directory}/alone")
    publishing, subscribed = context.socket(zmq.PUB), context.socket(zmq.SUB)
    publishing.bind("inproc://steps")
    subscribed.connect("inproc://steps")
    subscribed.subscribe(b"")

    send, send_alone, receive = (
        sender_of([fanout_of(publishing)], topic),
        sender_of([fanout_of(alone)], topic),
        messages_of(subscribed).receive,
    )

    def through_sockets() -> None:
        send(raw)
        receive()

    return [
        ("node: PUB, nobody subscribed", lambda: send_alone(raw), 1),
        ("PUB to SUB in one process", through_sockets, 1),
    ]


def table(sizes: tuple[int, ...] = SIZES) -> str:
    """The steps of batches of these sizes as a markdown table."""
    where = str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="usbcast-bench-", dir=where) as directory:
        columns = [measure(size, Path(directory)) for size in sizes]
    lines = ["| µs per batch of | " + " | ".join(str(size) for size in sizes) + " |"]
    lines.append("|---|" + "---:|" * len(sizes))
    for name in columns[0]:
        lines.append(f"| {name} | " + " | ".join(f"{column[name]:.1f}" for column in columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

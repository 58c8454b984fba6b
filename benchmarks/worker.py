"""One process of a run: `python -m benchmarks.worker publish|subscribe TASK`. Speaks JSON, one object a line."""

from __future__ import annotations

import json
import mmap
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import blocks
from benchmarks.peers import Delivered, load
from benchmarks.processes import memory
from benchmarks.script import EARLY, Told, script
from benchmarks.task import Task


def main() -> None:
    role, task = sys.argv[1], Task.from_json(sys.argv[2])
    if role == "publish":
        publish(task)
    else:
        subscribe(task)


def publish(task: Task) -> None:
    told = Told()
    publisher = load(task.peer).publisher(task)

    def sent(figures: dict[str, Any]) -> None:
        say("sent", **figures, **publisher.figures())

    say("up", address=publisher.address)
    publisher.run(script(task, shared_progress(task), told, sent))
    publisher.close()
    say("closed")


def subscribe(task: Task) -> None:
    checker = blocks.Checker(task, shared_progress(task))
    delivered = Delivered()
    slow_s = task.slow_s if task.index else 0.0
    slow_ns = int(task.seconds * 1e9)
    early_at = int(task.blocks * EARLY) or sys.maxsize
    early = 0
    ready = False

    def take(piece: blocks.Buffer) -> bool:
        nonlocal ready, early
        over = checker.take(piece)
        if not ready and checker.said_hello:
            ready = True
            say("ready")
        if not early and checker.received >= early_at:
            early = memory()["private_bytes"]
        # It is slow while the run lasts; what it then has not had it takes at full speed, so that a run has an end.
        if slow_s and not over and checker.start_ns and time.monotonic_ns() < checker.start_ns + slow_ns:
            time.sleep(slow_s)
        return over

    load(task.peer).subscribe(task, take, delivered)
    lags = sorted(checker.lags_ns)
    say(
        "done",
        index=task.index,
        received=checker.received,
        wrong=checker.wrong,
        declared_lost=delivered.declared_lost,
        pieces=checker.pieces,
        last_ns=checker.last_ns,
        cpu_ns=checker.end_cpu_ns - checker.start_cpu_ns,
        elapsed_ns=checker.end_ns - checker.start_ns,
        lag_p50_us=percentile_us(lags, 0.5),
        lag_p99_us=percentile_us(lags, 0.99),
        lag_max_us=percentile_us(lags, 1.0),
        private_early_bytes=early,
        **memory(),
    )


def percentile_us(values_ns: list[int], share: float) -> float:
    return values_ns[min(len(values_ns) - 1, int(len(values_ns) * share))] / 1000 if values_ns else 0.0


def shared_progress(task: Task) -> memoryview:
    """One word for each subscriber: how many blocks it has had."""
    with (Path(task.directory) / "progress").open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


def say(event: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""What a publisher is to send, as one iterator of blocks: greetings, a start mark, the data of the run, end marks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import blocks
from benchmarks.processes import memory
from benchmarks.task import Task

HELLO_S = 0.01
END_S = 0.02
WAIT_S = 20e-6
GIVE_UP_NS = 500_000_000
LOOK_AT_CLOCK = 16
EARLY = 0.1
"""Share of a long run after which memory is looked at for the first time."""

Say = Callable[[dict[str, Any]], None]


def script(task: Task, progress: memoryview, told: Told, sent: Say) -> Iterator[bytes]:
    """The blocks of a run, each one when it is its turn; `sent` is told the publisher's figures after the data."""
    hello = blocks.control(task, blocks.HELLO)
    while not told.go.wait(HELLO_S):
        yield hello
    yield blocks.control(task, blocks.START)
    work = {"fast": _fast, "paced": _paced, "idle": _idle}[task.kind](task, progress)
    begin_ns, begin_cpu_ns = time.monotonic_ns(), time.process_time_ns()
    count, early = 0, 0
    for block in work:
        yield block
        count += 1
        if count == int(task.blocks * EARLY):
            early = memory()["private_bytes"]
    end_ns, end_cpu_ns = time.monotonic_ns(), time.process_time_ns()
    figures = {"begin_ns": begin_ns, "end_ns": end_ns, "cpu_ns": end_cpu_ns - begin_cpu_ns, "blocks": count}
    sent({**figures, "private_early_bytes": early, **memory()})
    end = blocks.control(task, blocks.END)
    while not told.stop.wait(END_S):
        yield end


def _fast(task: Task, progress: memoryview) -> Iterator[bytes]:
    """Never further ahead of the slowest subscriber than the window."""
    contents = blocks.prepared(task)
    window = _Window(task, progress)
    limit = task.window
    end_ns = time.monotonic_ns() + int(task.seconds * 1e9)
    n = 0
    while True:
        if task.blocks:
            if n >= task.blocks:
                return
        elif n % LOOK_AT_CLOCK == 0 and time.monotonic_ns() >= end_ns:
            return
        if n >= limit:
            limit = window.wait(n)
        yield contents[n % blocks.CONTENTS]
        n += 1


def _paced(task: Task, _progress: memoryview) -> Iterator[bytes]:
    """Each block stamped as it is handed over; what is late goes at once."""
    pack = blocks.HEADER.pack
    rest = [blocks.noise(content, task.block_bytes - blocks.HEADER.size) for content in range(blocks.CONTENTS)]
    step_ns = 1e9 / task.rate_hz
    begin_ns = time.monotonic_ns()
    for n in range(int(task.seconds * task.rate_hz)):
        ahead_ns = begin_ns + n * step_ns - time.monotonic_ns()
        if ahead_ns > 0:
            time.sleep(ahead_ns / 1e9)
        content = n % blocks.CONTENTS
        yield pack(time.monotonic_ns(), content, blocks.DATA) + rest[content]


def _idle(task: Task, _progress: memoryview) -> Iterator[bytes]:
    time.sleep(task.seconds)
    return
    yield


class _Window:
    """Waits for the slowest subscriber; what it has not had after so long is taken for lost, and no longer waited for."""

    def __init__(self, task: Task, progress: memoryview) -> None:
        self._size = task.window
        self._progress = progress[: task.subscribers]
        self._lost = 0

    def wait(self, n: int) -> int:
        """Return when block `n` may be sent: up to which one others may be, too."""
        give_up_ns = time.monotonic_ns() + GIVE_UP_NS
        seen = -1
        while True:
            had = min(self._progress)
            if had + self._lost + self._size > n:
                return had + self._lost + self._size
            now_ns = time.monotonic_ns()
            if had != seen:
                seen, give_up_ns = had, now_ns + GIVE_UP_NS
            elif now_ns > give_up_ns:
                self._lost = n - had
            time.sleep(WAIT_S)


class Told:
    """What the parent says on standard input: `go`, then anything else, or the end of it, for stop."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        if sys.stdin.readline() == "go\n":
            self.go.set()
            sys.stdin.readline()
        self.go.set()
        self.stop.set()

"""The limit: the same blocks copied once, in one process, into a buffer as large as a ring."""

from __future__ import annotations

import mmap
import time

from benchmarks import blocks
from benchmarks.task import Task
from benchmarks.works import Case, Figures

RING_BYTES = 64 * 1024 * 1024


def memcpy_case(column: str, packets: int, seconds: float) -> Case:
    return Case("memcpy", column, lambda: _measure(packets, seconds))


def _measure(packets: int, seconds: float) -> Figures:
    task = Task("memcpy", block_packets=packets)
    size = task.block_bytes
    contents = blocks.prepared(task)
    places = RING_BYTES // size
    with mmap.mmap(-1, RING_BYTES) as ring:
        for at in range(0, RING_BYTES, mmap.PAGESIZE):
            ring[at] = 1
        begin_ns = now_ns = time.monotonic_ns()
        end_ns = begin_ns + int(min(seconds, 1.0) * 1e9)
        n = 0
        while now_ns < end_ns:
            for _ in range(64):
                at = n % places * size
                ring[at : at + size] = contents[n % blocks.CONTENTS]
                n += 1
            now_ns = time.monotonic_ns()
        good = ring[at : at + size] == contents[(n - 1) % blocks.CONTENTS]
    return {
        "mega_per_s": n * packets / ((now_ns - begin_ns) / 1e9) / 1e6,
        "lost_percent": 0.0,
        "wrong": float(not good),
    }

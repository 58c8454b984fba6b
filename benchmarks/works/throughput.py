"""Packets a second through one publisher and one subscriber, handed over 1, 64, 512 or 4096 at a time."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of, taking_part
from benchmarks.works.memcpy import memcpy_case

BATCHES = (1, 64, 512, 4096)


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:
    found = [memcpy_case(f"batch {size}", size, mode.seconds) for size in BATCHES]
    for peer in taking_part(peers, "throughput"):
        found += [
            case_of(f"batch {size}", Task(peer, block_packets=size, seconds=mode.seconds), _figures) for size in BATCHES
        ]
    return found


def _figures(result: Run) -> Figures:
    return {
        "mega_per_s": result.packets_per_s / 1e6,
        "packets_per_piece": result.done[0]["received"] * result.task.block_packets / max(1, result.done[0]["pieces"]),
        "publisher_ns": result.sent["cpu_ns"] / max(1, result.sent["blocks"] * result.task.block_packets),
        "subscriber_ns": result.done[0]["cpu_ns"] / max(1, result.done[0]["received"] * result.task.block_packets),
    }


WORK = Work(
    "Throughput",
    "Million packets of 112 bytes a second, one publisher and one subscriber in two processes.",
    cases,
    (
        Show("mega_per_s", "million packets/s", 2, more_is_better=True),
        Show("lost_percent", "% of packets lost", 2, more_is_better=False),
        Show("publisher_ns", "publisher's processor time, ns per packet", 0, more_is_better=False),
        Show("subscriber_ns", "subscriber's processor time, ns per packet", 0, more_is_better=False),
    ),
)

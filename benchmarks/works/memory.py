"""Whether memory stays as it is while as many packets pass as in an hour at 20,000/s."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.script import EARLY
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of, taking_part

BATCH = 512


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:
    return [
        case_of("growth", Task(peer, block_packets=BATCH, blocks=mode.hour_blocks), _figures, limit_s=120.0)
        for peer in taking_part(peers, "memory")
    ]


def _figures(result: Run) -> Figures:
    done = result.done[0]
    return {
        "publisher_kb": (result.sent["private_bytes"] - result.sent["private_early_bytes"]) / 1e3,
        "subscriber_kb": (done["private_bytes"] - done["private_early_bytes"]) / 1e3,
        "million_packets": result.sent["blocks"] * BATCH / 1e6,
    }


WORK = Work(
    "Memory over an hour's packets",
    f"Memory of its own after the last packet less that after the first {EARLY:.0%}; an hour at 20,000/s is 72 million packets.",
    cases,
    (
        Show("publisher_kb", "publisher grew by, kB", 0, more_is_better=False),
        Show("subscriber_kb", "subscriber grew by, kB", 0, more_is_better=False),
        Show("million_packets", "million packets", 1, more_is_better=True),
    ),
)

"""A slow or stopped subscriber beside a fast one at 10,000 packets a second: how far behind, what is lost, whom it disturbs."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of, taking_part

RATE_HZ = 10_000
SLOW_S = 0.001
"""What each delivery costs the slow one: ten times what it has."""


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:
    found = []
    seconds = 2 * mode.seconds
    for peer in taking_part(peers, "slow"):
        # Stopped: its first delivery lasts as long as the run.
        for beside, slow_s in (("beside a slow one", SLOW_S), ("beside a stopped one", seconds)):
            task = Task(peer, kind="paced", rate_hz=RATE_HZ, seconds=seconds, subscribers=2, slow_s=slow_s)
            found.append(case_of(beside, task, _figures))
    return found


def _figures(result: Run) -> Figures:
    fast, slow = result.done
    sent = result.sent["blocks"]
    return {
        "behind_ms": slow["lag_max_us"] / 1000,
        "slow_missing_percent": 100.0 * (sent - slow["received"]) / sent,
        "slow_undeclared": float(max(0, sent - slow["received"] - slow["declared_lost"])),
        "fast_p50_us": fast["lag_p50_us"],
        "fast_p99_us": fast["lag_p99_us"],
        "fast_missing_percent": 100.0 * (sent - fast["received"]) / sent,
        "rate_percent": 100.0 * sent / RATE_HZ / ((result.sent["end_ns"] - result.sent["begin_ns"]) / 1e9),
    }


WORK = Work(
    "A slow subscriber beside a fast one",
    "10,000 packets/s; the slow one takes 1 ms for each delivery, be it a packet or a batch, as long as the run lasts; "
    "the stopped one takes the whole run for its first.",
    cases,
    (
        Show("behind_ms", "slow one: furthest behind, ms", 1, more_is_better=False),
        Show("slow_missing_percent", "slow one: did not get, %", 1, more_is_better=False),
        Show("slow_undeclared", "slow one: packets lost without a word", 0, more_is_better=False),
        Show("fast_p99_us", "fast one: lag, µs, 99th percentile", 0, more_is_better=False),
        Show("fast_missing_percent", "fast one: did not get, %", 1, more_is_better=False),
        Show("rate_percent", "publisher kept to its rate, %", 1, more_is_better=True),
    ),
)

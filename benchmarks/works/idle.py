"""Nothing to do: processor time while connected, memory, and how long it takes to begin."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of, taking_part


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:
    return [
        case_of("idle", Task(peer, kind="idle", seconds=2 * mode.seconds), _figures)
        for peer in taking_part(peers, "idle")
    ]


def _figures(result: Run) -> Figures:
    return {
        "publisher_cpu_percent": result.publisher_cpu,
        "subscriber_cpu_percent": result.subscriber_cpu,
        "server_cpu_percent": result.server_cpu,
        "up_ms": 1000 * result.up_s,
        "joined_ms": 1000 * result.joined_s,
        "publisher_mb": result.sent["resident_bytes"] / 1e6,
        "subscriber_mb": result.done[0]["resident_bytes"] / 1e6,
    }


WORK = Work(
    "Idle, start-up and memory",
    "Both sides connected, nothing sent. Start-up is from the start of the process, interpreter and imports included.",
    cases,
    (
        Show("publisher_cpu_percent", "publisher, % of a core", 3, more_is_better=False),
        Show("subscriber_cpu_percent", "subscriber, % of a core", 3, more_is_better=False),
        Show("up_ms", "publisher up after, ms", 0, more_is_better=False),
        Show("joined_ms", "subscriber's first packet after, ms", 0, more_is_better=False),
        Show("publisher_mb", "publisher resident, MB", 0, more_is_better=False),
        Show("subscriber_mb", "subscriber resident, MB", 0, more_is_better=False),
    ),
)

"""The kinds of work: each module has a WORK, which says what is to be run and what of it is shown.

To add one: a module with a WORK here, its name in NAMES, and a peer that takes part in it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness import Run, run
from benchmarks.mode import Mode
from benchmarks.peers import load
from benchmarks.task import Task

NAMES = ("lag", "throughput", "fanout", "idle", "slow", "device", "recording", "bridge", "memory", "imports")

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One thing to measure: a row and a column of the work's tables."""

    row: str
    column: str
    measure: Callable[[], Figures]


@dataclass(frozen=True)
class Show:
    """One table of a work."""

    figure: str
    heading: str
    digits: int
    more_is_better: bool


@dataclass(frozen=True)
class Work:
    title: str
    about: str
    cases: Callable[[Mode, Sequence[str]], list[Case]]
    """Of these peers."""
    shows: tuple[Show, ...]


def load_work(name: str) -> Work:
    work: Work = importlib.import_module(f"benchmarks.works.{name}").WORK
    return work


def taking_part(peers: Sequence[str], work: str) -> list[str]:
    return [name for name in peers if work in load(name).works]


def case_of(column: str, task: Task, figures: Callable[[Run], Figures], *, limit_s: float = 60.0) -> Case:
    """The case in which `task` is run once; whatever it shows, what was lost and wrong is told with it."""

    def measure() -> Figures:
        result = run(task, limit_s)
        sent = max(1, int(result.sent["blocks"])) * task.subscribers
        return {
            **figures(result),
            "lost_percent": 100.0 * result.lost_blocks / sent,
            "wrong": float(result.wrong),
            "declared_lost": float(sum(one["declared_lost"] for one in result.done)),
        }

    return Case(task.peer, column, measure)

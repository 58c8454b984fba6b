"""The account: does what one subscriber says it got and was told of add up to what the device sent?

Pure, and written from docs/wire.md and docs/simulator.md alone; it shares no code with the product. A log is what
`reader.py` writes: `runs` of packets that follow each other by sequence and by the device's own counter, `gaps` and `events`,
each with the index of the run before which it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

BEFORE_NUMBERING = ("device", "host", "framing")
"""Stages before a packet gets its sequence: what they lose leaves no hole in the sequences, but one in the counters."""


@dataclass(frozen=True, slots=True)
class Run:
    """Packets [sequence, sequence + count) of an epoch, with the device's counters [counter, counter + count)."""

    epoch: int
    sequence: int
    counter: int
    count: int

    @property
    def until(self) -> int:
        return self.sequence + self.count

    @property
    def counter_until(self) -> int:
        return self.counter + self.count


@dataclass(frozen=True, slots=True)
class Loss:
    """A declared gap. `at` is the number of runs that had come before it was told."""

    epoch: int
    first: int
    last: int
    count: int
    stage: str
    at_least: bool
    at: int

    @property
    def has_sequences(self) -> bool:
        return self.stage not in BEFORE_NUMBERING


@dataclass
class Log:
    """What one subscriber has written down."""

    name: str
    runs: list[Run] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    latest: bool = False
    complete: bool = False
    """Whether it came to its own end, and was not killed."""

    @classmethod
    def from_json(cls, name: str, said: dict[str, Any]) -> Log:
        return cls(
            name,
            [Run(*run) for run in said["runs"]],
            [Loss(*loss) for loss in said["losses"]],
            said["events"],
            said["errors"],
            said["latest"],
            said["complete"],
        )


def check(log: Log) -> list[str]:
    """Everything in one log that does not add up."""
    problems = list(log.errors[:5])
    epochs = list(dict.fromkeys([run.epoch for run in log.runs] + [loss.epoch for loss in log.losses]))
    for epoch in epochs:
        problems += _sequences(log, epoch)
        problems += _counters(log, epoch)
    problems += _end(log)
    return [f"{log.name}: {problem}" for problem in problems]


def _sequences(log: Log, epoch: int) -> Iterable[str]:
    """Each sequence from the first to the last is delivered or declared, once, and in order."""
    runs = [run for run in log.runs if run.epoch == epoch]
    losses = [loss for loss in log.losses if loss.epoch == epoch and loss.has_sequences]
    for loss in losses:
        if loss.last - loss.first + 1 != loss.count:
            yield f"a gap says {loss.count} packets and names {loss.first} to {loss.last}"
    if [run.sequence for run in runs] != sorted(run.sequence for run in runs):
        yield f"the packets of epoch {epoch:x} came out of order"
    spans = sorted(
        [(run.sequence, run.until) for run in runs] + [(loss.first, loss.last + 1) for loss in losses if loss.count]
    )
    for (begin, until), (following, _) in pairwise(spans):
        if until < following:
            yield f"UNSAID: sequences {until} to {following - 1} of epoch {epoch:x} neither came nor were declared lost"
        elif until > following:
            yield f"TWICE: sequences {following} to {until - 1} of epoch {epoch:x} came or were declared twice (from {begin})"


def _counters(log: Log, epoch: int) -> Iterable[str]:
    """Where the device's own counter jumps, exactly so many packets are declared lost before numbering, or at least some."""
    numbered = [(index, run) for index, run in enumerate(log.runs) if run.epoch == epoch]
    for (_, before), (index, after) in pairwise(numbered):
        told = [loss for loss in log.losses if loss.at == index and loss.epoch == epoch and not loss.has_sequences]
        declared, at_least = sum(loss.count for loss in told), any(loss.at_least for loss in told)
        holes = after.sequence - before.until
        jump = after.counter - before.counter_until - holes
        if jump < 0:
            if not _says_restart(log, index) and not holes:
                yield (
                    f"UNSAID: the counter fell from {before.counter_until} to {after.counter} at sequence "
                    f"{after.sequence} of epoch {epoch:x}, and no event tells of it"
                )
            continue
        if holes:  # the counter may have begun anew in them, too
            # What was lost before numbering inside a hole is told by batches that this subscriber never saw.
            continue
        if jump != declared and not (at_least and declared <= jump):
            yield (
                f"UNSAID: the counter jumped by {jump} at sequence {after.sequence} of epoch {epoch:x}, and "
                f"{declared} were declared lost{' at least' if at_least else ''}"
            )


def _says_restart(log: Log, index: int) -> bool:
    """Whether something before run `index` tells that the device was away, or was reset."""
    return any(
        event["at"] == index and event["kind"] in ("attached", "detached", "renumbered", "failed", "overflowed")
        for event in log.events
    )


def _end(log: Log) -> Iterable[str]:
    """The end says how many packets the epoch had, and all of them were delivered or declared."""
    for event in log.events:
        if event["kind"] != "end" or not log.runs:
            continue
        epoch = event["epoch"]
        until = [run.until for run in log.runs if run.epoch == epoch]
        until += [loss.last + 1 for loss in log.losses if loss.epoch == epoch and loss.has_sequences]
        if until and max(until) != event["packets"]:
            yield f"UNSAID: the stream ended with {event['packets']} packets, and this subscriber knows of {max(until)}"


def check_device(log: Log, device: dict[str, Any], *, counter_restarts: bool = False) -> list[str]:
    """What the device made since a subscriber's first packet, against what it got and was told of.

    With `counter_restarts` a counter does not say how many packets came before: then only a log that has the beginning counts.
    """
    epoch = device["epoch"]
    runs = [run for run in log.runs if run.epoch == epoch]
    if not log.complete or log.latest or not runs or not device["ended"]:
        return []
    if counter_restarts and runs[0].sequence:
        return []
    first = log.runs.index(runs[0])
    # What was told before the first packet is of before it, unless this subscriber saw the beginning.
    losses = [loss for loss in log.losses if loss.epoch == epoch and (loss.at > first or not runs[0].sequence)]
    if any(loss.has_sequences and loss.count for loss in losses):
        return []  # what was lost before numbering inside such a hole is told by batches that it never saw
    made = device["made"] - (runs[0].counter if runs[0].sequence else 0)
    delivered, declared = sum(run.count for run in runs), sum(loss.count for loss in losses)
    missing = made - delivered - declared
    at_least = any(loss.at_least for loss in losses)
    if missing == 0 or (missing > 0 and at_least):
        return []
    return [
        f"{log.name}: UNSAID: of {made} packets that the device made {delivered} came and {declared} were declared lost"
        f"{' at least' if at_least else ''}: {missing} are missing"
    ]


def check_together(logs: Iterable[Log]) -> list[str]:
    """One sequence of an epoch is the same packet for everybody."""
    problems = []
    of_epoch: dict[int, list[tuple[int, int, int, str]]] = {}
    for log in logs:
        for run in log.runs:
            of_epoch.setdefault(run.epoch, []).append((run.sequence, run.until, run.counter - run.sequence, log.name))
    for epoch, spans in of_epoch.items():
        spans.sort()
        active: list[tuple[int, int, int, str]] = []
        for span in spans:
            active = [other for other in active if other[1] > span[0]]
            for other in active:
                if other[2] != span[2]:
                    problems.append(
                        f"sequence {span[0]} of epoch {epoch:x} is packet {span[0] + span[2]} for {span[3]} "
                        f"and packet {span[0] + other[2]} for {other[3]}"
                    )
            active.append(span)
    return problems

"""The plan of a run: everything that is random, drawn from one seed before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

STREAM: Final = "chaos"

FAULTS: Final = ("unplug", "stall", "overflow", "short_read", "zero_length", "garbage", "drop", "burst", "silence")
CLOCK_STEPS_S: Final = (-3600, 3600, 86_400, -86_400)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A subscriber in a process of its own."""

    name: str
    place: int
    """Which node it talks to: 0 for the one that owns the device, 1 and up for the bridges, -1 for the NATS server."""
    via: str
    form: str
    start: str
    deliver: str = "all"
    copies: bool = True
    pause_s: float = 0.0
    """How long it sleeps after each batch."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that is done to the system, `at_s` seconds after the start."""

    at_s: float
    what: str
    """join, kill, suspend, suspend-bridge, suspend-recorder, kill-node, kill-bridge, kill-recorder, kill-server or step-clock."""
    target: int = 0
    """Index of the reader, bridge or recorder that it is done to; of the new reader for join."""
    for_s: float = 0.0
    """suspend: how long it stays stopped; step-clock: by how much."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a run that is decided beforehand."""

    seed: int
    seconds: float
    rate_hz: int
    packet_size: int
    max_packet_size: int
    faults: tuple[dict[str, object], ...]
    ring_size: int
    ring_slots: int
    bridges: tuple[dict[str, object], ...]
    stores: bool
    """Whether a NATS server stores the stream too."""
    recorders: tuple[int, ...]
    """At which places."""
    readers: tuple[Reader, ...]
    """Those that begin with the run, and those that join later."""
    joins_later: int
    """How many of the last readers join later."""
    steps: tuple[Step, ...] = field(default=())


def make_plan(seed: int, seconds: float, *, stores: bool, steps_clock: bool) -> Plan:
    """Draw a run. `stores` and `steps_clock` say whether a NATS server and a clock that can be stepped are to be had."""
    draw = Random(seed)
    rate_hz = draw.choice([100, 200, 1000, 2000, 5000, 20_000])
    size = draw.choice([112, 112, 64, 16, 1000]) if rate_hz <= 5000 else draw.choice([112, 64])
    bridges = tuple(
        {"ring_size": draw.choice([1 << 20, 1 << 22, 1 << 24]), "via": draw.choice(["auto", "push", "notify", "ring"])}
        for _ in range(draw.choice([0, 1, 1, 2]))
    )
    stores = stores and draw.random() < 0.4
    places = [*range(len(bridges) + 1), *([-1] if stores else [])]
    readers = [_reader(draw, index, places) for index in range(draw.choice([5, 7]))]
    recorders = tuple(sorted({0, places[-1]}))
    joins_later = 2
    steps = _steps(draw, seconds, readers, joins_later, len(bridges), len(recorders), stores, steps_clock)
    return Plan(
        seed=seed,
        seconds=seconds,
        rate_hz=rate_hz,
        packet_size=size,
        max_packet_size=draw.choice([64, 512]),
        faults=tuple(_fault(draw, seconds, rate_hz, size) for _ in range(draw.choice([0, 4, 12, 30]))),
        ring_size=draw.choice([1 << 20, 1 << 20, 1 << 22]),
        ring_slots=draw.choice([16, 100, 1000, 262_144]),
        bridges=bridges,
        stores=stores,
        recorders=recorders,
        readers=tuple(readers),
        joins_later=joins_later,
        steps=steps,
    )


def _reader(draw: Random, index: int, places: list[int]) -> Reader:
    place = draw.choice(places)
    via = draw.choice(["ring", "push", "notify"]) if place >= 0 else "auto"
    return Reader(
        name=f"reader-{index}",
        place=place,
        via=via,
        form=draw.choice(["events", "events", "aio", "listener"]),
        start=draw.choice(["oldest", "oldest", "oldest", "now", "0"]),
        deliver="latest" if place >= 0 and draw.random() < 0.2 else "all",
        copies=not (via == "ring" and draw.random() < 0.4),
        pause_s=draw.choice([0.001, 0.02, 0.2]) if draw.random() < 0.3 else 0.0,
    )


def _fault(draw: Random, seconds: float, rate_hz: int, size: int) -> dict[str, object]:
    kind = draw.choice(FAULTS)
    at_s = draw.uniform(0.5, seconds * 0.9)
    fault: dict[str, object] = {"kind": kind}
    fault.update({"at_s": round(at_s, 3)} if draw.random() < 0.5 else {"at_packet": int(at_s * rate_hz)})
    match kind:
        case "unplug":
            fault["duration_s"] = round(draw.uniform(0.1, 1.5), 2)
            if draw.random() < 0.3:
                fault["counter"] = "restarts"
        case "silence":
            fault["duration_s"] = round(draw.uniform(0.1, 1.5), 2)
        case "garbage":
            fault["bytes"] = draw.choice([1, size - 1, size, 3 * size, 5000])
        case _:
            fault["count"] = draw.choice([1, 1, 3, 20])
    return fault


def _steps(
    draw: Random,
    seconds: float,
    readers: list[Reader],
    joins_later: int,
    bridges: int,
    recorders: int,
    stores: bool,
    steps_clock: bool,
) -> tuple[Step, ...]:
    """What is done during the run; the last fifth of it is left in peace, so that everybody can catch up."""
    first = len(readers) - joins_later
    peace_s = seconds * 0.8
    found = [Step(at_s=draw.uniform(1, peace_s), what="join", target=first + later) for later in range(joins_later)]
    for _ in range(max(3, int(seconds / 2))):
        at_s = draw.uniform(1, peace_s)
        what = draw.choice(
            [
                *["suspend"] * 6,
                *["kill"],
                *["suspend-recorder"],
                *(["kill-recorder"]),
                *(["suspend-bridge", "kill-bridge"] if bridges else []),
                *(["kill-server"] if stores else []),
                *(["step-clock"] if steps_clock else []),
            ]
        )
        among = bridges if what.endswith("bridge") else recorders if what.endswith("recorder") else first
        for_s = draw.choice(CLOCK_STEPS_S) if what == "step-clock" else draw.uniform(0.2, 4)
        found.append(Step(at_s=at_s, what=what, target=draw.randrange(among), for_s=for_s))
    if draw.random() < 0.4:
        found.append(Step(at_s=draw.uniform(peace_s * 0.3, peace_s), what="kill-node"))
    return tuple(sorted(found, key=lambda step: step.at_s))

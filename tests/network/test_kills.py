"""SIGKILL of node, bridge and subscriber in turn, at random moments, on three hosts; the books balance over every life.

USBCAST_SOAK_S makes it last longer, USBCAST_SOAK_SEED picks other moments.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netrig.site import site
from netrig.trial import PORT, STREAM, VIAS, Trial, bridge, follow, record, serve, verify

from tests.support.nodes import eventually
from tests.support.programs import Program
from usbcast import Batch, open_recording

SOAK_S = float(os.environ.get("USBCAST_SOAK_S", "40"))
SEED = int(os.environ.get("USBCAST_SOAK_SEED", "1"))
VICTIMS = ("node", "bridge", "subscriber")


def soak(directory: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Kill and start again for so long; check the books of every life; what it came to."""
    pick = random.Random(seed)
    endless = Trial("kills", rate_hz=500, packets=10_000_000, deadline_s=10.0)
    lives: list[dict[str, Any]] = []
    kills: Counter[str] = Counter()
    with site(3, seed) as made, contextlib.ExitStack() as stack:
        a, b, c = made.hosts
        upstream, downstream = (f"tcp://{link.addresses[0]}:{PORT}" for link in made.links)
        starts: dict[str, Callable[[], Program]] = {
            "node": lambda: serve(a, endless),
            "bridge": lambda: bridge(b, upstream, endless),
            "subscriber": lambda: follow(c, downstream, pick.choice(VIAS), "oldest"),
        }
        running: dict[str, Program] = {}

        def start(name: str) -> None:
            running[name] = starts[name]()
            stack.callback(running[name].kill)

        for name in VICTIMS:
            start(name)
        recorder = stack.enter_context(record(c, downstream, directory))
        recorder.hear("figures", 60, where=lambda said: packets_of(said) > 0)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for name in pick.sample(VICTIMS, len(VICTIMS)):
                time.sleep(pick.uniform(0.5, 4.0))
                running[name].kill()
                kills[name] += 1
                if name == "subscriber":
                    lives += last_figures(running[name])
                start(name)

        before = last_figures(recorder, "figures")[-1]
        eventually(
            lambda: packets_of(last_figures(recorder, "figures")[-1]) > packets_of(before) + 1000,
            "the recorder goes on after the last kill",
            60,
        )
        running["node"].signal(signal.SIGINT)
        ended = running["node"].hear("ended", 30)["streams"][STREAM]
        lives.append(running["subscriber"].hear("done", 30))
        recorder.hear("ended", 30)
        assert recorder.finish() == 0
        assert ended["balanced"]
        running["bridge"].signal(signal.SIGINT)
        assert running["bridge"].hear("ended", 30)["streams"][STREAM]["balanced"]

    for life in lives:
        assert (life["twice"], life["unsaid"], life["damaged"]) == (0, 0, 0), life
    assert lives[-1]["ended"]
    assert lives[-1]["books"]["balanced"]
    found = verify(directory)
    assert found["balanced"], found["problems"]
    epochs = found["streams"]
    assert epochs[-1]["next_sequence"] == ended["ledgers"]["outlet"]["out"], "the last node's life is known to its end"
    for epoch in epochs:
        assert epoch["recorded"] + sum(epoch["lost"].values()) == epoch["packets"]
    return {
        "seconds": seconds,
        "seed": seed,
        "kills": dict(kills),
        "subscriber_lives": len(lives),
        "epochs": len(epochs),
        "packets": sum(epoch["packets"] for epoch in epochs),
        "recorded": sum(epoch["recorded"] for epoch in epochs),
        "declared_lost": dict(sum((Counter(epoch["lost"]) for epoch in epochs), Counter())),
        "checked": check_contents(directory),
    }


def packets_of(said: dict[str, Any]) -> int:
    return int(said["streams"].get(STREAM, {"packets": 0})["packets"])


def last_figures(program: Program, event: str = "figures") -> list[dict[str, Any]]:
    """The last that a program said of itself, if it came to that."""
    for line in reversed(program.out):
        if line.endswith("\n") and (said := json.loads(line))["event"] == event:
            return [said]
    return []


def check_contents(directory: Path) -> int:
    """Each recorded packet is the one that its sequence says: every life of the device counts from 0 too."""
    checked = 0
    for event in open_recording(directory).events(STREAM):
        if isinstance(event, Batch):
            for sequence, packet in enumerate(event, event.first_sequence):
                assert int.from_bytes(packet[:4], "little") == sequence
                checked += 1
    return checked


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 200)
def test_the_books_balance_over_every_life(tmp_path: Path) -> None:
    figures = soak(tmp_path, SOAK_S, SEED)
    print(json.dumps(figures))
    assert figures["checked"] == figures["recorded"]
    assert figures["epochs"] > 1

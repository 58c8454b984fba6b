"""Bad links between hosts: loss, delay, a cut, less room than the stream needs. All of it arrives, or an exact gap is told."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from netrig.site import Site
from netrig.trial import Outcome, Trial, check, run

pytestmark = pytest.mark.slow

CUT_S = 30.0
TOGETHER = 8
"""So many trials at a time: they wait most of theirs."""


def down(site: Site) -> None:
    """Both hosts see their device go down, and come up again."""
    site.links[0].set_up(False)
    time.sleep(CUT_S)
    site.links[0].set_up(True)


def deaf(site: Site) -> None:
    """Nothing comes through, and no host is told."""
    site.links[0].shape(loss=1.0)
    time.sleep(CUT_S)
    site.links[0].shape(loss=0.0)


FAST_HZ = 4464
"""4 Mbit/s of 112-byte packets, before anything is put around them."""

SMALL = "1MiB"
NARROW = {"rate_bits_per_s": 1e6}

TRIALS = [
    Trial("device down for 30 s", 500, 20_000, disturb=down),
    Trial("device down for 30 s, small ring", 1000, 40_000, ring_size=SMALL, disturb=down, loses=True),
    Trial("all lost for 30 s", 500, 20_000, disturb=deaf),
    Trial("all lost for 30 s, small ring", 1000, 40_000, ring_size=SMALL, disturb=deaf, loses=True),
    Trial("4 Mbit/s over 1 Mbit/s", FAST_HZ, FAST_HZ * 3, shape=NARROW),
    Trial("4 Mbit/s over 1 Mbit/s, small ring", FAST_HZ, FAST_HZ * 15, ring_size=SMALL, shape=NARROW, loses=True),
    Trial("1% loss", 1000, 10_000, shape={"loss": 0.01}),
    Trial("10% loss", 1000, 10_000, shape={"loss": 0.1}),
    Trial("200 ms each way", 1000, 10_000, shape={"delay_s": 0.2}),
    Trial("200 ms each way, ± 50 ms", 1000, 10_000, shape={"delay_s": 0.2, "jitter_s": 0.05}),
    Trial("200 ms each way, 1% loss", 100, 1_500, shape={"delay_s": 0.2, "loss": 0.01}),
]
BRIDGED = [
    replace(trial, name=f"bridged: {trial.name}", hosts=3)
    for trial in TRIALS
    if trial.name not in ("200 ms each way, 1% loss", "200 ms each way, ± 50 ms")
]

SPARED = [
    Trial(
        f"4 Mbit/s over 1 Mbit/s, bridge {' '.join(options)}", FAST_HZ, FAST_HZ * 15, ring_size=SMALL, shape=NARROW, loses=True,
        hosts=3, bridge_options=options,
    )
    for options in (("--every", "10"), ("--latest", "10"), ("--limit", "50kB"))
]  # fmt: skip
EVERYTHING = [*TRIALS, *BRIDGED, *SPARED]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[Outcome]]]:
    """All trials, run side by side."""
    with tempfile.TemporaryDirectory(prefix="usbcast-trials-") as directory, ThreadPoolExecutor(TOGETHER) as pool:
        trials = {
            trial.name: pool.submit(run, trial, Path(directory) / str(number))
            for number, trial in enumerate(EVERYTHING)
        }
        wait(trials.values())  # what still runs would be taken for what the first test left behind
        yield trials


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [trial.name for trial in EVERYTHING])
def test_all_of_the_stream_or_an_exact_gap(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[name].result()
    print(outcome.row())
    check(outcome)


def test_a_tenth_of_all_packets_is_lost_on_the_way(tmp_path: Path) -> None:
    trial = Trial("10% loss, 20 ms each way", 1000, 2_000, shape={"loss": 0.1, "delay_s": 0.02})
    outcome = run(trial, tmp_path)
    check(outcome)
    assert outcome.wire[0]["lost"] > 50

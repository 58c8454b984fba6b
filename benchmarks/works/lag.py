"""From the moment a packet is handed to the publisher to the application's hands, and what that costs in processor time."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of, taking_part

RATES_HZ = (100, 10_000)
LEAST_S = 2.0
"""Fewer than 200 packets have no 99th percentile."""


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:
    seconds = max(LEAST_S, 2 * mode.seconds) if mode.name != "smoke" else mode.seconds
    return [
        case_of(f"{rate_hz:,}/s", Task(peer, kind="paced", rate_hz=rate_hz, seconds=seconds), _figures)
        for peer in taking_part(peers, "lag")
        for rate_hz in RATES_HZ
    ]


def _figures(result: Run) -> Figures:
    done = result.done[0]
    return {
        "p50_us": done["lag_p50_us"],
        "p99_us": done["lag_p99_us"],
        "cpu_percent": result.publisher_cpu + result.subscriber_cpu + result.server_cpu,
        "publisher_cpu_percent": result.publisher_cpu,
        "subscriber_cpu_percent": result.subscriber_cpu,
    }


WORK = Work(
    "Lag and processor time",
    "One packet of 112 bytes at a time. Lag is from handing it over (as a USB read returns) to the application.",
    cases,
    (
        Show("p50_us", "lag, µs, median", 0, more_is_better=False),
        Show("p99_us", "lag, µs, 99th percentile", 0, more_is_better=False),
        Show("cpu_percent", "% of a core, publisher, subscriber and broker together", 2, more_is_better=False),
        Show("lost_percent", "% of packets lost", 2, more_is_better=False),
    ),
)

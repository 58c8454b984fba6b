"""Through a bridge: the lag of a subscriber of the node and of one of a bridge of it, in the same run, and what the two cost."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bridge import measure
from benchmarks.mode import Mode
from benchmarks.works import Case, Figures, Show, Work

RATES_HZ = (100, 20_000)
VIAS = ("ring", "push")
LEAST_S = 2.0


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:  # noqa: ARG001
    seconds = max(LEAST_S, 2 * mode.seconds)
    return [
        Case(f"by {via}", f"{rate_hz:,}/s", lambda made=(rate_hz, via, seconds): _figures(*made))  # type: ignore[misc]
        for via in VIAS
        for rate_hz in RATES_HZ
    ]


def _figures(rate_hz: float, via: str, seconds: float) -> Figures:
    run = measure(rate_hz, via, seconds)
    return {
        "direct_p50_us": run["direct"]["p50_us"],
        "bridged_p50_us": run["bridged"]["p50_us"],
        "direct_p99_us": run["direct"]["p99_us"],
        "bridged_p99_us": run["bridged"]["p99_us"],
        "node_percent": 100 * run["cpu_node"],
        "bridge_percent": 100 * run["cpu_bridge"],
        "lost": float(run["direct"]["lost"] + run["bridged"]["lost"]),
    }


WORK = Work(
    "Through a bridge",
    "A simulated device of 112-byte packets; lag from a packet's arrival at the node, the bridge on the same machine.",
    cases,
    (
        Show("direct_p50_us", "from the node itself: lag, µs, median", 0, more_is_better=False),
        Show("bridged_p50_us", "through the bridge: lag, µs, median", 0, more_is_better=False),
        Show("direct_p99_us", "from the node itself: lag, µs, 99th percentile", 0, more_is_better=False),
        Show("bridged_p99_us", "through the bridge: lag, µs, 99th percentile", 0, more_is_better=False),
        Show("node_percent", "node, % of a core", 1, more_is_better=False),
        Show("bridge_percent", "bridge, % of a core", 1, more_is_better=False),
        Show("lost", "packets lost", 0, more_is_better=False),
    ),
)

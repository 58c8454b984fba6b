"""Many subscribers: what all of them get together, and what they cost the publisher."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of, taking_part

SUBSCRIBERS = (1, 8, 32)
BATCH = 512
PACED_HZ = 200
LIMIT_S = 90.0


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:
    counts = SUBSCRIBERS[:2] if mode.name == "smoke" else SUBSCRIBERS
    found = []
    for peer in taking_part(peers, "fanout"):
        for count in counts:
            fast = Task(peer, block_packets=BATCH, seconds=mode.seconds, subscribers=count)
            paced = Task(peer, kind="paced", rate_hz=PACED_HZ, seconds=2 * mode.seconds, subscribers=count)
            found.append(case_of(f"{count}", fast, _fast, limit_s=LIMIT_S))
            found.append(case_of(f"{count}, {PACED_HZ}/s", paced, _paced, limit_s=LIMIT_S))
    return found


def _fast(result: Run) -> Figures:
    return {"mega_per_s": result.packets_per_s / 1e6}


def _paced(result: Run) -> Figures:
    return {
        "publisher_cpu_percent": result.publisher_cpu + result.server_cpu,
        "p50_us": max(done["lag_p50_us"] for done in result.done),
    }


WORK = Work(
    "Many subscribers",
    f"Subscribers in processes of their own; in batches of {BATCH} as fast as the slowest allows, and {PACED_HZ} packets/s.",
    cases,
    (
        Show("mega_per_s", "million packets/s, of all subscribers together", 2, more_is_better=True),
        Show("publisher_cpu_percent", "publisher (and broker), % of a core", 2, more_is_better=False),
        Show("p50_us", "lag of the subscriber with the greatest, µs, median", 0, more_is_better=False),
        Show("lost_percent", "% of packets lost", 2, more_is_better=False),
    ),
)

"""What the product is meant to reach, as ratios within one run: a figure of usbcast's over that of a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

Results = dict[str, dict[str, dict[str, dict[str, float]]]]
"""work → column → row → figure → median"""


@dataclass(frozen=True)
class Figure:
    work: str
    column: str
    row: str
    figure: str

    def of(self, results: Results) -> float | None:
        return results.get(self.work, {}).get(self.column, {}).get(self.row, {}).get(self.figure)


@dataclass(frozen=True)
class Goal:
    """`ours` divided by `theirs` (1 if there is none) is to be at least, or at most, so much."""

    says: str
    ours: Figure
    theirs: Figure | None
    at_least: float | None = None
    at_most: float | None = None

    def ratio(self, results: Results) -> float | None:
        """None if either was not measured."""
        ours = self.ours.of(results)
        theirs = 1.0 if self.theirs is None else self.theirs.of(results)
        return ours / theirs if _is_positive(theirs) and ours is not None else None

    def is_met(self, ratio: float) -> bool:
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)

    @property
    def wanted(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


def _is_positive(value: float | None) -> TypeGuard[float]:
    return value is not None and value > 0


def _fast(row: str, size: int) -> Figure:
    return Figure("throughput", f"batch {size}", row, "mega_per_s")


def _lag(row: str, figure: str) -> Figure:
    return Figure("lag", "100/s", row, figure)


def _slow(figure: str, row: str = "usbcast-ring-latest", column: str = "beside a slow one") -> Figure:
    return Figure("slow", column, row, figure)


def _device(row: str) -> Figure:
    return Figure("device", "512 packets a read", row, "mb_per_s")


RING, PUSH, RAW, ICEORYX = "usbcast-ring", "usbcast-push", "pyzmq-ipc", "iceoryx2"
IN_PLACE = "usbcast-ring-in-place"
RING_AS_COMES, PUSH_AS_COMES = "usbcast-ring-natural", "usbcast-push-natural"
PEERS_WITH_LAG = ("iceoryx2", "zenoh-tcp", "lsl", "nats", "redis", "mqtt", "cyclonedds")

GOALS = (
    *(
        Goal(f"throughput, ring against iceoryx2, batch {size}", _fast(RING, size), _fast(ICEORYX, size), at_least=share)
        for size, share in ((1, 1.5), (64, 1.5), (512, 1.2), (4096, 1.0))
    ),
    *(
        Goal(
            f"throughput, ring read in place against iceoryx2, which is too, batch {size}",
            _fast(IN_PLACE, size), _fast(ICEORYX, size), at_least=share,
        )
        for size, share in ((512, 1.2), (4096, 1.0))
    ),
    Goal("throughput, ring read in place against memcpy, batch 4096", _fast(IN_PLACE, 4096), _fast("memcpy", 4096), at_least=0.9),
    *(
        Goal(
            f"throughput, ring, batches as they come, against iceoryx2, {size} handed over at once",
            _fast(RING_AS_COMES, size), _fast(ICEORYX, size), at_least=share,
        )
        for size, share in ((1, 1.5), (64, 1.5), (512, 1.2), (4096, 1.0))
    ),
    Goal("throughput, ring against LSL, batch 512", _fast(RING, 512), _fast("lsl", 512), at_least=10),
    Goal("throughput, ring against memcpy, batch 4096", _fast(RING, 4096), _fast("memcpy", 4096), at_least=0.9),
    *(
        Goal(f"throughput, push against raw pyzmq, batch {size}", _fast(PUSH, size), _fast(RAW, size), at_least=share)
        for size, share in ((1, 0.5), (64, 0.8), (512, 0.95))
    ),
    *(
        Goal(
            f"throughput, push, batches as they come, against raw pyzmq, {size} handed over at once",
            _fast(PUSH_AS_COMES, size), _fast(RAW, size), at_least=share,
        )
        for size, share in ((1, 0.5), (64, 0.8), (512, 0.95))
    ),
    *(
        Goal(f"lag at 100/s, {figure[:3]}, ring against raw pyzmq", _lag(RING, figure), _lag(RAW, figure), at_most=0.6)
        for figure in ("p50_us", "p99_us")
    ),
    *(
        Goal(f"lag at 100/s, {figure[:3]}, ring against {peer}", _lag(RING, figure), _lag(peer, figure), at_most=1.0)
        for peer in PEERS_WITH_LAG
        for figure in ("p50_us", "p99_us")
    ),
    Goal("lag at 100/s, p50, push against raw pyzmq", _lag(PUSH, "p50_us"), _lag(RAW, "p50_us"), at_most=1.15),
    Goal("processor time at 100/s, ring against raw pyzmq", _lag(RING, "cpu_percent"), _lag(RAW, "cpu_percent"), at_most=0.9),
    Goal("idle node, % of a core", Figure("idle", "idle", RING, "publisher_cpu_percent"), None, at_most=0.2),
    Goal("slow subscriber, newest only: furthest behind, ms", _slow("behind_ms"), None, at_most=25),
    Goal("slow subscriber: packets lost without a word", _slow("slow_undeclared"), None, at_most=0),
    Goal(
        "fast subscriber beside a slow one, p99, against alone",
        _slow("fast_p99_us", RING), Figure("lag", "10,000/s", RING, "p99_us"), at_most=1.2,
    ),
    Goal(
        "fast subscriber beside a stopped one, p99, against alone",
        _slow("fast_p99_us", RING, "beside a stopped one"), Figure("lag", "10,000/s", RING, "p99_us"), at_most=1.2,
    ),
    Goal("device to application, fixed size, MB/s", _device("device-fixed"), None, at_least=500),
    Goal("device to application, sync and CRC-32, MB/s", _device("device-sync"), None, at_least=150),
    Goal(
        "node's processor time, 32 ring subscribers against 1",
        Figure("fanout", "32, 200/s", RING, "publisher_cpu_percent"),
        Figure("fanout", "1, 200/s", RING, "publisher_cpu_percent"), at_most=1.1,
    ),
    Goal(
        "8 subscribers together, ring against iceoryx2",
        Figure("fanout", "8", RING, "mega_per_s"), Figure("fanout", "8", ICEORYX, "mega_per_s"), at_least=1.0,
    ),
    Goal(
        "8 subscribers together, ring read in place against iceoryx2, which is too",
        Figure("fanout", "8", IN_PLACE, "mega_per_s"), Figure("fanout", "8", ICEORYX, "mega_per_s"), at_least=1.0,
    ),
    Goal("memory over an hour's packets, node grew by, kB", Figure("memory", "growth", RING, "publisher_kb"), None, at_most=1000),
    Goal(
        "memory over an hour's packets, subscriber grew by, kB",
        Figure("memory", "growth", RING, "subscriber_kb"), None, at_most=1000,
    ),
)  # fmt: skip

"""Recording: what the recorder of one stream costs, what stands on the disk for it, and how quickly that is verified."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.mode import Mode
from benchmarks.recording import record
from benchmarks.works import Case, Figures, Show, Work

RATES_HZ = (100, 20_000)
COMPRESSIONS = ("zstd", "lz4", "none")
LEAST_S = 3.0


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:  # noqa: ARG001
    seconds = max(LEAST_S, 3 * mode.seconds)
    return [
        Case(compression, f"{rate_hz:,}/s", lambda made=(rate_hz, seconds, compression): _figures(*made))  # type: ignore[misc]
        for compression in COMPRESSIONS
        for rate_hz in RATES_HZ
    ]


def _figures(rate_hz: float, seconds: float, compression: str) -> Figures:
    found = record(rate_hz, seconds, compression)
    assert found["balanced"], "the ledger of the recording does not balance"
    return {
        "cpu_percent": 100 * found["cpu"],
        "bytes_per_packet": found["bytes_per_packet"],
        "verified_per_ms": found["verified_per_s"] / 1000,
        "lost": float(found["lost"]),
    }


WORK = Work(
    "Recording",
    "A simulated device of 112-byte packets, its node, and a recorder of its stream in a process of its own.",
    cases,
    (
        Show("cpu_percent", "recorder, % of a core", 1, more_is_better=False),
        Show("bytes_per_packet", "on disk, bytes per packet of 112", 1, more_is_better=False),
        Show("verified_per_ms", "verified, thousand packets/s, with the start of the program", 0, more_is_better=True),
        Show("lost", "packets lost", 0, more_is_better=False),
    ),
)

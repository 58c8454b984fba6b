"""The whole way: from a device made of software, through pyusb, transport, framing, batches and ring, to the application."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Run
from benchmarks.mode import Mode
from benchmarks.task import Task
from benchmarks.works import Case, Figures, Show, Work, case_of

PACKETS = (64, 512, 2048)
"""Per USB read."""


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:  # noqa: ARG001
    return [
        case_of(f"{count} packets a read", Task(peer, block_packets=count, seconds=mode.seconds), _figures)
        for peer in ("device-fixed", "device-sync")
        for count in PACKETS
    ]


def _figures(result: Run) -> Figures:
    return {
        "mb_per_s": result.mb_per_s,
        "packets_per_batch": result.sent["blocks"] * result.task.block_packets / max(1, result.sent["batches"]),
    }


WORK = Work(
    "From the device to the application",
    "MB of packets a second; every read returns so many packets at once, as a device does that never lets the host wait.",
    cases,
    (
        Show("mb_per_s", "MB/s", 0, more_is_better=True),
        Show("packets_per_batch", "packets per batch", 0, more_is_better=True),
        Show("lost_percent", "% of packets lost", 2, more_is_better=False),
    ),
)

"""What must hold of every stream that was taken to its end, and the figures of it for a note."""

from __future__ import annotations

from typing import Any

from kernelrig.witnesses import Told


def check_whole(result: Told) -> None:
    """Taken to its end, nothing twice, nothing damaged, and the subscription's own books say the same."""
    assert result["ended"]
    assert result["damaged"] == 0
    assert result["duplicates"] == 0
    assert result["discrepancy"] is None
    assert result["ledger"]["out"] == result["good"]


def check_books(books: dict[str, Any], *, packets: int, lost: dict[str, int]) -> None:
    """The node's books balance, and show so many packets and no other loss on the way from device to outlet."""
    ledgers = books["ledgers"]
    assert books["balanced"], books["discrepancies"]
    assert ledgers["device"]["out"] == ledgers["outlet"]["in"] == ledgers["outlet"]["out"] == packets
    assert ledgers["device"]["lost"] == lost
    assert sum(ledgers["host"]["lost"].values()) == sum(ledgers["outlet"]["lost"].values()) == 0


def runs(result: Told) -> list[tuple[int, int]]:
    """First and last number of each run of consecutive packets."""
    return [(entry[1], entry[2]) for entry in result["story"] if entry[0] == "packets"]


def happened(result: Told) -> list[str]:
    """What happened to the device, in order."""
    return [entry[0] for entry in result["story"] if entry[0] not in ("packets", "gap")]


def declared_lost(result: Told) -> int:
    """Packets in all gaps that were declared."""
    return sum(entry[3] for entry in result["story"] if entry[0] == "gap")


def show(results: list[Told]) -> None:
    """The figures of each subscriber."""
    for result in results:
        said = f"  by {result['via']}: {result['good']} delivered, {declared_lost(result)} declared lost"
        for what, lag in (("device", result["line_lag_us"]), ("read", result["read_lag_us"])):
            if lag:
                p50, p99, most = (lag[name] / 1000 for name in ("p50", "p99", "max"))
                said += f", from the {what} p50 {p50:.1f} p99 {p99:.1f} max {most:.1f} ms"
        print(f"{said} (clocks ± {result['clock_uncertainty_us'] / 1000:.1f} ms)")

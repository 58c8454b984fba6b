"""How much is measured: quick, to see that it works and to compare while developing; full, for figures worth keeping."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    name: str
    rounds: int
    """Every case is measured once in each round, in another order; the median of the rounds is told."""
    seconds: float
    """Of a run."""
    peers: tuple[str, ...]
    """None named: all that are here."""
    hour_blocks: int
    """Blocks of 512 packets in the run that watches memory; an hour at 20,000 packets/s is 140,625."""


MODES = {
    "smoke": Mode("smoke", 1, 0.2, ("usbcast-ring", "pyzmq-ipc"), 2_000),
    "quick": Mode(
        "quick",
        1,
        1.0,
        (
            "usbcast-ring",
            "usbcast-ring-in-place",
            "usbcast-ring-natural",
            "usbcast-ring-latest",
            "usbcast-push",
            "pyzmq-ipc",
            "iceoryx2",
        ),
        14_000,
    ),
    "full": Mode("full", 5, 3.0, (), 140_625),
}

"""What most tests begin with: a node in the guest, and subscribers at the host that cannot miss anything any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kernelrig.guest import Guest
from kernelrig.profiles import Changes, write_profile
from kernelrig.serving import Serving
from kernelrig.soft_device import SoftDevice
from kernelrig.witnesses import Witnesses

FIRST_CASE = "first-case"
WAYS = ("push", "notify")

ROOM_ENOUGH = 10_000
"""Packets of FIFO with which nothing overflows, however slow the machine is."""


@contextmanager
def subscribed(
    guest: Guest, changes: Changes | None = None, *, ways: Sequence[str] = WAYS, watched: bool = False
) -> Iterator[tuple[Serving, Witnesses]]:
    """A node for the device of software, by the shipped profile, or one with `changes`."""
    profile = FIRST_CASE if changes is None else write_profile(guest, FIRST_CASE, "changed", changes)
    with (
        Serving(guest, profile, watched=watched) as serving,
        Witnesses(serving.stream, serving.endpoint, ways, FIRST_CASE) as witnesses,
    ):
        witnesses.ready()
        yield serving, witnesses


__all__ = ["FIRST_CASE", "ROOM_ENOUGH", "WAYS", "SoftDevice", "subscribed"]

"""What to do about a read that failed, by how often it failed before.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from usbcast_schemas.errors import DeviceDetached, DeviceError, DeviceFailed, DeviceOverflowed, DeviceStalled


class Step(Enum):
    READ_AGAIN = auto()
    CLEAR_HALT = auto()
    RESET = auto()
    REOPEN = auto()
    """Let go of the device and look for it; that decides whether it is still there."""


# One ladder per kind of failure, climbed while no read succeeds; its end is always to look for the device anew.
LADDERS: Final[dict[type[DeviceError], tuple[Step, ...]]] = {
    DeviceStalled: (Step.CLEAR_HALT,) * 3 + (Step.RESET,),
    DeviceOverflowed: (Step.READ_AGAIN,) * 3 + (Step.CLEAR_HALT, Step.RESET),
    DeviceFailed: (Step.READ_AGAIN,) * 3,
    DeviceDetached: (),
}

FIRST_WAIT_S: Final = 0.2
MAX_WAIT_S: Final = 5.0


class Recovery:
    """Counts failures since the last read that succeeded."""

    def __init__(self) -> None:
        self._failures: dict[type[DeviceError], int] = {}
        self._fruitless = 0

    def succeeded(self) -> None:
        """Data came."""
        self._failures.clear()
        self._fruitless = 0

    def survived(self) -> None:
        """A read found nothing to read and nothing wrong, or the device was opened again: begin at the first steps."""
        self._failures.clear()

    def failed(self, error: DeviceError) -> Step:
        """The step to take now."""
        kind = type(error)
        taken = self._failures.get(kind, 0)
        self._failures[kind] = taken + 1
        ladder = LADDERS.get(kind, ())
        return ladder[taken] if taken < len(ladder) else Step.REOPEN

    def wait_s(self) -> float:
        """How long to wait before the device is looked for: longer each time that it came back but sent nothing."""
        wait_s = min(FIRST_WAIT_S * 2.0**self._fruitless, MAX_WAIT_S)
        self._fruitless = min(self._fruitless + 1, 30)
        return wait_s

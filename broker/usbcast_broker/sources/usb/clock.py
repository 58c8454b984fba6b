"""The clock of the USB edge: the only place from which a transfer gets its times."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], tuple[int, int]]


def system_clock() -> tuple[int, int]:
    """Realtime and monotonic time in ns."""
    return time.time_ns(), time.monotonic_ns()

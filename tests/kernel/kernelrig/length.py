"""How long the tests take: USBCAST_KERNEL_LONGER=10 makes those ten times as long whose figures are worth it."""

from __future__ import annotations

import os

_LONGER = float(os.environ.get("USBCAST_KERNEL_LONGER", "1"))  # read at once: tests see no settings of the user's


def longer() -> float:
    """By what the usual length is to be multiplied."""
    return _LONGER

"""The engine of the hot path, chosen once, at import: `native` is the C extension where it was built, else None.

`ENGINE` is the name of the choice, "native" or "pure". Both do the same work (docs/decisions/0067); USBCAST_PURE=1 asks for the
second. This module imports nothing else of the product, so every module may ask it.
"""

from __future__ import annotations

import os
from typing import Literal

PURE = "USBCAST_PURE"
"""The variable of the environment that asks for Python alone."""

try:
    if os.environ.get(PURE):
        raise ImportError(f"{PURE} is set")
    from usbcast_schemas import _native as native

    why_not = ""
except ImportError as error:
    native = None  # type: ignore[assignment]
    why_not = str(error)

ENGINE: Literal["native", "pure"] = "pure" if why_not else "native"

__all__ = ["ENGINE", "PURE", "native", "why_not"]

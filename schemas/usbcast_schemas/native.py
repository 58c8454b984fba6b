"""The native core: the hot path of a batch in C, where it was built; everything else works the same without it.

`core` is the module, or None: then the same work is done in Python (docs/decisions/0067). USBCAST_PURE=1 asks for that.
"""

from __future__ import annotations

import os

PURE = "USBCAST_PURE"

try:
    if os.environ.get(PURE):
        raise ImportError(f"{PURE} is set")
    from usbcast_schemas import _native as core

    why_not = ""
except ImportError as error:
    core = None  # type: ignore[assignment]
    why_not = str(error)

__all__ = ["PURE", "core", "why_not"]

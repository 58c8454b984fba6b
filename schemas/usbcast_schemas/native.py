"""The native core: the hot path of a batch in C, where it was built; everything else works the same without it.

`core` is the module, or None: then the same work is done in Python (docs/decisions/0067). `usbcast_schemas.engine` has chosen.
"""

from __future__ import annotations

from usbcast_schemas.engine import PURE, why_not
from usbcast_schemas.engine import native as core

__all__ = ["PURE", "core", "why_not"]

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


def agree(**constants: int) -> None:
    """Compare constants that stand in Python and in C; raise ImportError if the C extension was built with other ones.

    Called at import by the module that has them, by the names that the extension gives them.
    """
    if native is None:
        return
    built = getattr(native, "constants", {})
    for name, value in constants.items():
        if built.get(name) != value:
            raise ImportError(
                f"{native.__file__} was built from other sources than these: {name} is {built.get(name)} there and {value} here; "
                f"install usbcast again, or set {PURE}=1 to do without it"
            )


__all__ = ["ENGINE", "PURE", "agree", "native", "why_not"]

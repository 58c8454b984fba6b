"""The engine of the hot path, chosen once, at import: `native` is the C extension where it was built, else None.

`ENGINE` is the name of the choice, "native" or "pure". Both do the same work (docs/decisions/0067); USBCAST_PURE=1 asks for the
second. Modules whose work both engines do name both at import, and use what `chosen` returns: nothing asks again later. This
module imports nothing else of the product, so that every module may import it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Literal, TypeVar

InPython = TypeVar("InPython")
InC = TypeVar("InC")

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


def chosen(pure: InPython, by_core: Callable[[ModuleType], InC]) -> InPython | InC:
    """Return `pure`, or what `by_core` makes of the C extension if that is the engine."""
    return pure if native is None else by_core(native)


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


__all__ = ["ENGINE", "PURE", "agree", "chosen", "native", "why_not"]

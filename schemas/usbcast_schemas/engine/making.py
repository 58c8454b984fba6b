"""Objects that are made for each batch, without the call of an `__init__`: by the native core, where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from usbcast_schemas import engine

T = TypeVar("T")


def maker(kind: type[T], slot: str, others: Mapping[str, object]) -> Callable[[Any], T]:
    """Return a function of one value, which makes a `kind` with that value in its `slot`, and the `others` in theirs.

    The class says by that which of its attributes it has, private ones too: nobody else has to know them.

    >>> class Pair:
    ...     __slots__ = ("left", "right")
    >>> made = maker(Pair, "left", {"right": 2})(1)
    >>> made.left, made.right
    (1, 2)
    """
    if engine.native is not None:
        return engine.native.Maker(kind, (slot,), dict(others))
    return pure_maker(kind, slot, others)


def pure_maker(kind: type[T], slot: str, others: Mapping[str, object]) -> Callable[[Any], T]:
    """As `maker`, in Python."""
    new = kind.__new__
    attributes = tuple(others.items())

    def make(value: object) -> T:
        made = new(kind)
        setattr(made, slot, value)
        for name, constant in attributes:
            setattr(made, name, constant)
        return made

    return make

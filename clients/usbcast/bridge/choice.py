"""Choice of how much of a stream a bridge carries: everything, or a part; read from flags and from TOML.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from usbcast_broker.settings import parse_size
from usbcast_schemas.errors import ConfigError

MAX_EVERY = 1_000_000
MIN_HZ, MAX_HZ = 0.001, 1000.0
MIN_LIMIT = 100

LEFT_OUT = "left out on purpose"


@dataclass(frozen=True, slots=True)
class Choice:
    """At most one way to carry a part; without one, everything is carried. Raises ConfigError."""

    every: int = 1
    """Carry only packets whose sequence is a multiple of this."""
    latest_hz: float = 0.0
    """Carry only the newest batch, this many times a second."""
    limit: int = 0
    """Carry at most this many bytes a second."""
    on_demand: bool = False
    """Carry only while somebody subscribes."""

    def __post_init__(self) -> None:
        named = [name for name, chosen in self._chosen().items() if chosen]
        if len(named) > 1:
            raise ConfigError(f"{' and '.join(named)} are given for one stream: give only one of them")
        for name, value, least, most in (
            ("every", self.every, 1, MAX_EVERY),
            ("latest_hz", self.latest_hz or MIN_HZ, MIN_HZ, MAX_HZ),
            ("limit", self.limit or MIN_LIMIT, MIN_LIMIT, 2**40),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}: from {least} to {most} is allowed")

    @property
    def whole(self) -> bool:
        return not any(self._chosen().values())

    @property
    def asks(self) -> bool:
        """True if the bridge fetches batches one by one, so that the others do not cross the link."""
        return bool(self.latest_hz or self.limit or self.on_demand)

    @property
    def reason(self) -> str:
        """Reason that subscribers see for what is left out."""
        if self.every > 1:
            return f"{LEFT_OUT}: one of {self.every} packets is carried"
        if self.latest_hz:
            return f"{LEFT_OUT}: the newest is carried, {self.latest_hz:g} times a second"
        if self.limit:
            return f"{LEFT_OUT}: at most {self.limit} bytes a second are carried"
        return f"{LEFT_OUT}: nobody asked for it"

    def _chosen(self) -> dict[str, bool]:
        return {
            "every": self.every != 1,
            "latest_hz": bool(self.latest_hz),
            "limit": bool(self.limit),
            "on_demand": self.on_demand,
        }


EVERYTHING = Choice()


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices for all streams: the first pattern that matches decides, in the order of the file; else the flags."""

    by_pattern: tuple[tuple[str, Choice], ...] = ()
    otherwise: Choice = EVERYTHING

    def of(self, stream: str) -> Choice:
        """Return the choice for a stream, by its name at the bridge."""
        for pattern, choice in self.by_pattern:
            if fnmatch.fnmatchcase(stream, pattern):
                return choice
        return self.otherwise


ALL_OF_EVERYTHING = Choices()


def read_choices(tables: Mapping[str, Any], otherwise: Choice, where: str) -> Choices:
    """Read the table `streams` of a configuration, with a table for each pattern. Raises ConfigError."""
    return Choices(tuple((pattern, _read(pattern, table, where)) for pattern, table in tables.items()), otherwise)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _read(pattern: str, table: Any, where: str) -> Choice:
    known = {item.name: type(item.default) for item in fields(Choice)}
    if not isinstance(table, dict):
        raise ConfigError(f'{where}: streams."{pattern}" is {table!r}: a table is needed, as [streams."{pattern}"]')
    values: dict[str, Any] = {}
    for name, value in table.items():
        kind = known.get(name)
        if kind is None:
            raise ConfigError(
                f'{where}: streams."{pattern}" has the unknown key {name}; allowed are {", ".join(known)}'
            )
        if name == "limit" and isinstance(value, str):
            value = read_limit(value)  # noqa: PLW2901
        if kind is float and type(value) is int:
            value = float(value)  # noqa: PLW2901
        if type(value) is not kind:
            raise ConfigError(f'{where}: {name} of streams."{pattern}" is {value!r}: {_KINDS[kind]} is needed')
        values[name] = value
    return Choice(**values)


def read_limit(text: str) -> int:
    """Return bytes a second for 50kB or 50kB/s. Raises ConfigError."""
    try:
        return parse_size(text.removesuffix("/s"))
    except ValueError:
        raise ConfigError(f"limit is {text!r}: write bytes a second, like 50kB or 1MiB/s") from None

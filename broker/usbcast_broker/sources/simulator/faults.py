"""Scripted faults of a simulated device, and the TOML file that lists them; docs/simulator.md is its reference.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from usbcast_schemas.errors import ConfigError
from usbcast_schemas.profile.problems import shown
from usbcast_schemas.toml import parse_toml

Kind = Literal["unplug", "stall", "overflow", "short_read", "zero_length", "garbage", "drop", "burst", "silence"]

MAX_COUNT: Final = 1_000_000_000
MAX_BYTES: Final = 1 << 20
MAX_DURATION_S: Final = 86_400.0

_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "unplug": ("duration_s", "counter"),
    "stall": ("count",),
    "overflow": ("count",),
    "short_read": ("count", "bytes"),
    "zero_length": ("count",),
    "garbage": ("bytes",),
    "drop": ("count",),
    "burst": ("count",),
    "silence": ("duration_s",),
}
_EVERY: Final = ("kind", "at_packet", "at_s")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, before packet `at_packet` or `at_s` seconds after the first read; exactly one of the two is given."""

    kind: Kind
    at_packet: int | None = None
    at_s: float | None = None
    duration_s: float = 1.0
    """unplug, silence: how long."""
    count: int = 1
    """stall, overflow, short_read, zero_length: how many times in a row; drop, burst: how many packets."""
    bytes: int = 0
    """garbage: how many (0: 16); short_read: of the first part (0: half of the packet)."""
    counter: Literal["continues", "restarts"] = "continues"
    """unplug: what the device's own counter does when it is back."""

    def __post_init__(self) -> None:
        if (self.at_packet is None) == (self.at_s is None):
            raise ConfigError(f"a fault of kind {self.kind} needs a time: give one of at_packet and at_s")


def load_faults(path: str | Path) -> tuple[Fault, ...]:
    """The faults in the TOML file at `path`, in order. Raises ConfigError with a line per problem."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no faults file {path}; docs/simulator.md shows how to write one") from None
    except OSError as error:
        raise ConfigError(f"cannot read the faults file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    return parse_faults(text, path.name)


def parse_faults(text: str, origin: str) -> tuple[Fault, ...]:
    """The faults that `text` lists; `origin` names it in what ConfigError says."""
    try:
        tables = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None
    problems = [f"{key} is not a key of a faults file: only [[fault]] tables are" for key in tables if key != "fault"]
    entries = tables.get("fault", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.append(f"fault is {shown(entries)}: an array of tables, [[fault]], is allowed")
        entries = []
    for i, entry in enumerate(entries):
        problems += (f"fault[{i}]{problem}" for problem in _problems(entry))
    if problems:
        raise ConfigError("\n".join(f"{origin}: {problem}" for problem in problems))
    return tuple(Fault(**entry) for entry in entries)


def _problems(entry: dict[str, Any]) -> list[str]:
    kind = entry.get("kind")
    kinds = ", ".join(f'"{name}"' for name in get_args(Kind))
    if "kind" not in entry:
        return [f".kind is missing: one of {kinds} is needed"]
    if not isinstance(kind, str) or kind not in _KEYS:
        return [f".kind is {shown(kind)}: one of {kinds} is allowed"]
    found = []
    for key, value in entry.items():
        if key not in (*_EVERY, *_KEYS[kind]):
            known = ", ".join((*_EVERY, *_KEYS[kind]))
            found.append(f'.{key} is not a key of a fault of kind "{kind}": those are {known}')
        elif key != "kind" and not _allows(key, value):
            found.append(f".{key} is {shown(value)}: {_ALLOWED[key]} is allowed")
    given = [key for key in ("at_packet", "at_s") if key in entry]
    if len(given) != 1:
        found.append(f" has {' and '.join(given) or 'no time'}: one of at_packet and at_s is needed")
    return found


_ALLOWED: Final = {
    "at_packet": f"a whole number from 0 to {MAX_COUNT}",
    "at_s": f"a number from 0 to {MAX_DURATION_S:.0f}",
    "duration_s": f"a number above 0, up to {MAX_DURATION_S:.0f},",
    "count": f"a whole number from 1 to {MAX_COUNT}",
    "bytes": f"a whole number from 1 to {MAX_BYTES}",
    "counter": '"continues" or "restarts"',
}


def _allows(key: str, value: object) -> bool:
    if key == "counter":
        return value in ("continues", "restarts")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if key in ("at_s", "duration_s"):
        return 0 <= value <= MAX_DURATION_S and (key == "at_s" or value > 0)
    if not isinstance(value, int):
        return False
    least, most = {"at_packet": (0, MAX_COUNT), "count": (1, MAX_COUNT), "bytes": (1, MAX_BYTES)}[key]
    return least <= value <= most

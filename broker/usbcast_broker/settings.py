"""A node's settings: one frozen dataclass, filled from a TOML file, then USBCAST_* variables, then flags."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usbcast_broker.stream.batcher import DEFAULT_MAX_BYTES
from usbcast_broker.stream.host_queue import DEFAULT_MAX_BYTES as HOST_QUEUE_BYTES
from usbcast_schemas.contract import DEFAULT_ENDPOINT
from usbcast_schemas.errors import ConfigError
from usbcast_schemas.ring import DEFAULT_DATA_BYTES, DEFAULT_SLOTS
from usbcast_schemas.toml import parse_toml


def _setting(default: Any, says: str) -> Any:
    return field(default=default, metadata={"says": says})


@dataclass(frozen=True)
class NodeSettings:
    """Settings of a node, apart from its devices. Sizes in bytes, times in the unit of the name."""

    bind: str = _setting(DEFAULT_ENDPOINT, "address for requests")
    publish: str = _setting("", "address for data; empty: the port after that of bind, or a free one")
    insecure: bool = _setting(False, "let anybody on other machines connect, without keys")
    keys: str = _setting("", "directory of keys: only clients that it allows may connect; empty: everybody may")
    max_requests_per_s: int = _setting(2000, "requests of one connection; more are refused, then it is cut")
    max_connections: int = _setting(1024, "connections of all clients together; one address may have half of them")
    announce: str = _setting("", "interfaces or addresses on which mDNS announces the node, or all; empty: none")
    ring_size: int = _setting(DEFAULT_DATA_BYTES, "bytes of batches that a ring holds")
    ring_slots: int = _setting(DEFAULT_SLOTS, "batches that a ring holds at most")
    batch_size: int = _setting(DEFAULT_MAX_BYTES, "bytes of packets at which a batch is published")
    batch_age_ms: float = _setting(0.0, "how long a packet may wait for others to fill its batch; 0: publish at once")
    host_queue_size: int = _setting(HOST_QUEUE_BYTES, "bytes read from a device that may wait to be framed")
    linger_s: float = _setting(2.0, "how long an ended node goes on answering clients that catch up")

    def __post_init__(self) -> None:
        for name, least, most in (
            ("ring_size", 1024 * 1024, 64 * 2**30),
            ("ring_slots", 16, 2**26),
            ("batch_size", 64, 8 * 2**20),
            ("batch_age_ms", 0, 10_000),
            ("host_queue_size", 64 * 1024, 64 * 2**30),
            ("linger_s", 0, 3600),
            ("max_requests_per_s", 10, 1_000_000),
            ("max_connections", 16, 65_536),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}: from {least} to {most} is allowed")
        if self.batch_size * 4 > self.ring_size:
            raise ConfigError(
                f"batch_size is {self.batch_size} and ring_size {self.ring_size}: a ring must hold at least four batches"
            )


@dataclass(frozen=True)
class Sourced:
    """A setting, and the place that its value came from."""

    name: str
    value: Any
    source: str
    says: str


def load_settings(
    file: Path | None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    *,
    tables: Collection[str] = (),
) -> tuple[NodeSettings, list[Sourced]]:
    """The settings and their sources. A flag that is None was not given; `tables` are read by others. Raises ConfigError."""
    known = {item.name: item for item in dataclasses.fields(NodeSettings)}
    values: dict[str, tuple[Any, str]] = {name: (item.default, "default") for name, item in known.items()}
    if file is not None:
        for name, value in read_toml(file).items():
            if name in tables:
                continue
            if name not in known:
                raise ConfigError(f"{file}: {name} is not a setting; the settings are {', '.join(known)}")
            values[name] = (value, str(file))
    for name in known:
        variable = f"USBCAST_{name.upper()}"
        if variable in environment:
            values[name] = (environment[variable], variable)
    for name, value in flags.items():
        if value is not None:
            values[name] = (value, f"--{name.replace('_', '-')}")
    converted = {
        name: _convert(name, value, type(known[name].default), source) for name, (value, source) in values.items()
    }
    sourced = [Sourced(name, converted[name], values[name][1], known[name].metadata["says"]) for name in known]
    return NodeSettings(**converted), sourced


def parse_size(text: str) -> int:
    """Bytes from `64MiB`, `1 GB`, `4096`; raise ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]?)(i?)[bB]?\s*", text)
    if found is None:
        raise ValueError(text)
    number, unit, binary = found.groups()
    if len(number) > 20 or ("." in number and not unit):
        raise ValueError(text)
    base = 1024 if binary else 1000
    return int(float(number) * base ** {"": 0, "k": 1, "K": 1, "M": 2, "G": 3}[unit])


def read_toml(file: Path) -> dict[str, Any]:
    """Read and parse `file`. Raises ConfigError."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not TOML: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except ValueError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _convert(name: str, value: Any, kind: type, source: str) -> Any:
    """`value` as a `kind`: as TOML has it, or from the text of a variable."""
    try:
        if kind is bool and isinstance(value, bool | str):
            words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
            return words[str(value).lower()]
        if kind is str and isinstance(value, str):
            return value
        if isinstance(value, str):
            return parse_size(value) if kind is int else float(value)
        if (kind is int and type(value) is int) or (kind is float and type(value) in (int, float)):
            return kind(value)
    except (ValueError, KeyError):
        pass
    allowed = {
        bool: "true or false",
        int: "a whole number, or a size like 64MiB,",
        float: "a number",
        str: "a text",
    }[kind]
    raise ConfigError(f"{name} is {value!r} (from {source}): {allowed} is allowed")

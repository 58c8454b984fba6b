"""Options of a bridge: its upstreams, which of their streams it carries, and how much of each."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from usbcast.bridge.choice import ALL_OF_EVERYTHING, Choices
from usbcast.node.credentials import Keys
from usbcast_schemas.contract import check_stream_name
from usbcast_schemas.errors import UsageError
from usbcast_schemas.sockets import split_tcp

STARTS = ("oldest", "now")


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Address of an upstream; with a `name`, its streams are called `name-stream` at the bridge."""

    endpoint: str
    name: str = ""

    def local(self, stream: str) -> str:
        """Return the name of `stream` at the bridge. Raises UsageError if it is not a valid name."""
        return check_stream_name(f"{self.name}-{stream}" if self.name else stream)


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Options of a bridge besides those of its node."""

    upstreams: tuple[UpstreamAddress, ...]
    streams: tuple[str, ...] = ("*",)
    """Names or patterns of streams at the upstream."""
    start: str = "oldest"
    via: str = "auto"
    commands: bool = True
    """Forward commands of subscribers to the device."""
    choices: Choices = ALL_OF_EVERYTHING
    keys: Keys = None
    """Keys for connections to the upstreams; the node's own settings say which clients it accepts."""

    def __post_init__(self) -> None:
        if not self.upstreams:
            raise UsageError("no upstream is named: give its address, as in usbcast bridge tcp://HOST:PORT")
        if self.start not in STARTS:
            raise UsageError(f"--start is {self.start!r}: {' or '.join(STARTS)} is allowed")
        seen = set()
        for upstream in self.upstreams:
            if upstream in seen:
                raise UsageError(f"{upstream.endpoint} is named twice")
            seen.add(upstream)

    def wants(self, stream: str) -> bool:
        return any(fnmatch.fnmatchcase(stream, pattern) for pattern in self.streams)


def parse_upstream(text: str) -> UpstreamAddress:
    """Parse `tcp://HOST:PORT` or `NAME=tcp://HOST:PORT`. Raises UsageError."""
    name, found, endpoint = text.rpartition("=")
    if found and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,30}", name):
        raise UsageError(
            f"{name!r} is not a valid prefix for stream names: use 1 to 31 of a-z, 0-9, '_' and '-', beginning with "
            "a letter or digit"
        )
    split_tcp(endpoint)
    return UpstreamAddress(endpoint, name)

"""A node's announcement on the LAN by mDNS: the service's name, and the TXT record to and from bytes.

A TXT record (RFC 6763, section 6) is a list of `key=value` of at most 255 bytes each, and 1300 bytes in all are as much as fits
one packet. It is a hint: anybody on the network may send one, so nothing is believed but by asking the node itself.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from usbcast_schemas.contract import MAJOR, MINOR, check_stream_name
from usbcast_schemas.errors import UsageError, WireError

SERVICE = "_usbcast._tcp.local."
SCHEME = "lan:"
"""An endpoint that begins so means: find it by mDNS, on the interfaces named behind it."""

MAX_STREAMS_BYTES = 1000
"""Names of streams beyond it are left out, and said to be."""

_PART_BYTES = 200
_MOST_PARTS = 20


@dataclass(frozen=True, slots=True)
class Announced:
    """Contents of the TXT record."""

    node: str
    """Random, the same on every interface: how one node is told from two."""
    streams: tuple[str, ...]
    version: str
    """Version of usbcast, for people."""
    contract: str = f"{MAJOR}.{MINOR}"
    key: str = ""
    """The node's public key where it asks for keys; empty where it does not."""
    complete: bool = True
    """All streams of the node are named."""

    def to_txt(self) -> dict[str, str]:
        """The record; long lists of streams over several keys: streams, streams1, …"""
        parts, complete = _parts(self.streams)
        record = {"contract": self.contract, "version": self.version, "node": self.node}
        if self.key:
            record["key"] = self.key
        if not complete:
            record["more"] = "1"
        return record | {f"streams{at or ''}": part for at, part in enumerate(parts)}

    @classmethod
    def from_txt(cls, record: Mapping[bytes, bytes | None]) -> Announced:
        """Raise WireError for what no node of usbcast announces."""
        try:
            said = {key.decode("ascii"): (value or b"").decode("utf-8") for key, value in record.items()}
            names = [said.get(f"streams{at or ''}", "") for at in range(_MOST_PARTS)]
            streams = tuple(check_stream_name(name) for part in names for name in part.split(",") if name)
            contract, version, node = said["contract"], said["version"][:40], said["node"][:40]
        except (KeyError, UnicodeDecodeError, UsageError) as error:
            raise WireError(f"the announcement is not from a usbcast node: {error!r}") from None
        if not (
            contract.isprintable() and version.isprintable() and node.isalnum() and said.get("key", "").isprintable()
        ):
            raise WireError(f"the announcement is not from a usbcast node: {said!r:.200}")
        return cls(node, streams, version, contract[:10], said.get("key", "")[:100], "more" not in said)


def _parts(streams: tuple[str, ...]) -> tuple[list[str], bool]:
    """The names in parts of at most _PART_BYTES, and whether all are there."""
    parts: list[str] = []
    size = 0
    for name in streams:
        size += len(name) + 1
        if size > MAX_STREAMS_BYTES:
            return parts, False
        if parts and len(parts[-1]) + 1 + len(name) <= _PART_BYTES:
            parts[-1] += f",{name}"
        else:
            parts.append(name)
    return parts, True

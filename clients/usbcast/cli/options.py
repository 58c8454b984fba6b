"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

from typing import Annotated

import typer

from usbcast_schemas.errors import UsageError

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        "-e",
        metavar="ENDPOINT",
        help="Address of the node, lan: to find it, or nats://HOST of a server; default: nodes of this machine.",
    ),
]
Keys = Annotated[
    str | None,
    typer.Option(
        "--keys", metavar="DIR", help="Directory of keys, for nodes that ask for them; default: USBCAST_KEYS, or none."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables, one object a line.")]


def number(text: str) -> int:
    """A whole number as people write those of USB: 0x81, 129; raise UsageError."""
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{text!r} is no whole number: write it like 129 or 0x81") from None


def hex_bytes(text: str) -> bytes:
    """Bytes from hex digits; raise UsageError."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{text!r} are no bytes in hex: write pairs of digits like 00ff10") from None

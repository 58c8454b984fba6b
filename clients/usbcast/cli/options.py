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
Via = Annotated[str, typer.Option("--via", help="auto, ring, push or notify.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables, one object a line.")]


def number(text: str) -> int:
    """Return the whole number that `text` writes, like 0x81 or 129. Raises UsageError."""
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{text!r} is not a whole number: write 129 or 0x81") from None


def hex_bytes(text: str) -> bytes:
    """Return the bytes that `text` writes in hex. Raises UsageError."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{text!r} is not bytes in hex: write pairs of digits like 00ff10") from None

"""Keys: what a key pair is, how a public key is written and named, and which rights a client's key can have.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from usbcast_schemas.errors import KeysError

KEY_BYTES = 32
"""Length of a Curve25519 key, public or secret."""

SHORT_DIGITS = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Rights(StrEnum):
    """Rights of a client's key."""

    NONE = "none"
    """No rights: the key was revoked."""
    READ = "read"
    """Describe, subscribe, fetch, clock, health."""
    COMMAND = "read and command"
    """Read, and send commands to the device."""

    @property
    def may_read(self) -> bool:
        return self is not Rights.NONE

    @property
    def may_command(self) -> bool:
        return self is Rights.COMMAND


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A party's key pair; `name` is the owner's name for it."""

    public: bytes
    secret: bytes = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client's public key as a node knows it."""

    public: bytes
    name: str
    rights: Rights


def key_text(public: bytes) -> str:
    """Return a public key as text: 64 hex digits."""
    return public.hex()


def short_text(public: bytes, name: str = "") -> str:
    """Return a short name of a public key for people: its first digits, and the owner if known."""
    digits = public.hex()[:SHORT_DIGITS]
    return f"{digits} ({name})" if name else digits


def parse_key(text: str) -> bytes:
    """The public key that `key_text` wrote; raise KeysError."""
    try:
        public = bytes.fromhex(text)
    except ValueError:
        public = b""
    if len(public) != KEY_BYTES or len(text) != 2 * KEY_BYTES:
        raise KeysError(
            f"{text[:100]!r} is not a public key: one has {2 * KEY_BYTES} hex digits, as `usbcast keys show` prints it"
        )
    return public


def check_name(name: str) -> str:
    """`name` if a key may be called so; raise KeysError."""
    if not _NAME.fullmatch(name):
        raise KeysError(
            f"{name[:100]!r} is not a name for a key: write up to 64 letters, digits and . _ @ -, a letter or digit first"
        )
    return name


def parse_rights(text: str) -> Rights:
    """Rights as people write them: read, command, "read and command", none; raise KeysError."""
    words = {**{rights.value: rights for rights in Rights}, "command": Rights.COMMAND}
    try:
        return words[text]
    except KeyError:
        raise KeysError(f"{text[:100]!r} are not rights: read or command is allowed (command includes read)") from None

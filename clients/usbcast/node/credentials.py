"""Credentials: what a client shows to a node, and which key the node must have to be believed."""

from __future__ import annotations

import os
from pathlib import Path

from usbcast_schemas.errors import AccessRefused, KeysError
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import KeyPair, key_text
from usbcast_schemas.registry import NodeRecord, local_nodes
from usbcast_schemas.sockets import is_local, split_tcp

VARIABLE = "USBCAST_KEYS"


class Credentials:
    """The keys of one directory, for connecting. Raises KeysError."""

    def __init__(self, directory: str | Path) -> None:
        self._ring = Keyring(Path(directory))
        self.own: KeyPair = self._ring.own()

    @property
    def directory(self) -> Path:
        return self._ring.directory

    def node_key(self, endpoint: str) -> bytes:
        """The public key that the node at this request address must have.

        Raises KeysError where none is known, AccessRefused if the node is known to have none.
        """
        known = self._ring.nodes().get(endpoint)
        if known is not None:
            return known
        # What a node of this user says of itself, in a directory that only this user may enter, is as good.
        for record in local_nodes():
            if _stands_at(record, endpoint):
                if record.key:
                    return bytes.fromhex(record.key)
                raise AccessRefused(
                    f"the node at {endpoint} has no keys, but you gave the keys in {self.directory}: "
                    "connect without keys (no --keys, no USBCAST_KEYS), or start the node with --keys"
                )
        if is_local(endpoint):
            return self.own.public  # on the same machine, what is started with the same keys
        raise KeysError(
            f"the key of the node at {endpoint} is not known, so it could be anybody: run `usbcast keys show` on the node's "
            f"machine, and then here: usbcast keys trust {endpoint} KEY --keys {self.directory}"
        )

    def ask_to_be_let_in(self) -> str:
        """Return the command that the owner of a node runs to let this client read."""
        return f"usbcast keys allow {key_text(self.own.public)} --name {self.own.name} --keys DIR"


Keys = str | Path | Credentials | None
"""Keys as a caller gives them: a directory; None for the directory that USBCAST_KEYS names, if it is set."""


def credentials(keys: Keys) -> Credentials | None:
    """The credentials meant by `keys`; None to connect without. Raises KeysError."""
    if isinstance(keys, Credentials):
        return keys
    directory = keys if keys is not None else os.environ.get(VARIABLE) or None
    return None if directory is None else Credentials(directory)


def _stands_at(record: NodeRecord, endpoint: str) -> bool:
    """Return True if `endpoint` names the address of a node on this machine."""
    if record.endpoint == endpoint:
        return True
    told, asked = split_tcp(record.endpoint), split_tcp(endpoint)
    if told is None or asked is None or told[1] != asked[1] or not is_local(endpoint):
        return False
    return is_local(record.endpoint) or told[0] in ("*", "0.0.0.0", "[::]")

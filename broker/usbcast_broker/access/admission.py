"""Admission: which keys a node lets in and what for, and its answer to libzmq's question about each connection (ZAP).

ZAP (https://rfc.zeromq.org/spec/27/): before a handshake is over, libzmq asks `inproc://zeromq.zap.01` about the peer, and
believes the answer. The authenticator has the socket.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from usbcast_schemas.errors import WireError
from usbcast_schemas.keys import KEY_BYTES, ClientKey, KeyPair, Rights, key_text, short_text

ZAP_VERSION = b"1.0"
ADMITTED, REFUSED, FAILED = b"200", b"400", b"500"

NOT_ALLOWED = "key not allowed"
REVOKED = "key revoked"
NO_KEY = "no key"


@dataclass(frozen=True, slots=True)
class Question:
    """A ZAP request: libzmq's question about one connection."""

    request_id: bytes
    address: str
    mechanism: bytes
    key: bytes
    """The client's public key, which it has proved to own; empty without CURVE."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client is not admitted, or not answered: the reason that is counted, and a sentence that names the key."""

    reason: str
    who: str
    sentence: str


def parse_question(frames: Sequence[bytes]) -> Question:
    """Read a ZAP request; raise WireError."""
    if len(frames) < 6 or frames[0] != ZAP_VERSION:
        raise WireError(
            f"a ZAP request of {len(frames)} frames begins with {bytes(frames[0][:10]) if frames else b''!r}"
        )
    _, request_id, _domain, address, _identity, mechanism = frames[:6]
    key = b""
    if mechanism == b"CURVE":
        if len(frames) != 7 or len(frames[6]) != KEY_BYTES:
            raise WireError("a ZAP request for CURVE does not carry one key")
        key = bytes(frames[6])
    return Question(bytes(request_id), address.decode("utf-8", "replace")[:200], bytes(mechanism), key)


def answer(question: Question, status: bytes, text: str = "") -> list[bytes]:
    """Return the ZAP reply. Every message of an admitted connection carries the client's key as its User-Id."""
    user = key_text(question.key).encode() if status == ADMITTED and question.key else b""
    return [ZAP_VERSION, question.request_id, status, text.encode(), user, b""]


class Admission:
    """The clients that may connect. Without keys: everybody, with all rights. Replaced as a whole when the list changes."""

    def __init__(self, own: KeyPair | None = None, clients: Mapping[bytes, ClientKey] | None = None) -> None:
        self.keyed = own is not None
        self._clients = dict(clients or {})
        if own is not None:
            # Who has the node's own secret is the node's owner.
            self._clients[own.public] = ClientKey(own.public, own.name, Rights.COMMAND)

    def may_enter(self, mechanism: bytes, key: bytes) -> Refusal | None:
        """None, or why this connection is not let in."""
        if not self.keyed:
            return None
        if mechanism != b"CURVE":
            return Refusal(NO_KEY, "a client without a key", "this node lets in only clients with a key")
        return self._may(key)

    def may_ask(self, user: str, kind: str) -> Refusal | None:
        """None, or why the client with this User-Id gets no answer to a request of this kind."""
        if not self.keyed:
            return None
        key = bytes.fromhex(user)
        refusal = self._may(key)
        if refusal is None and kind == "command" and not self._clients[key].rights.may_command:
            who = short_text(key, self._clients[key].name)
            return Refusal(
                "command without the right to",
                f"key {who}",
                f"key {who} may read, but not command the device: usbcast keys allow {key_text(key)} "
                f"--name {self._clients[key].name} --rights command --keys DIR, where the node runs",
            )
        return refusal

    def lost_to(self, later: Admission) -> list[ClientKey]:
        """The clients that may read by this admission and not by a later one."""
        return [
            client
            for client in self._clients.values()
            if client.rights.may_read and later._may(client.public) is not None
        ]

    def _may(self, key: bytes) -> Refusal | None:
        client = self._clients.get(key)
        if client is None:
            who = short_text(key)
            sentence = (
                f"key {who} was never allowed: usbcast keys allow {key_text(key)} --name NAME --keys DIR lets it in"
            )
            return Refusal(NOT_ALLOWED, f"key {who}", sentence)
        if not client.rights.may_read:
            who = short_text(key, client.name)
            return Refusal(REVOKED, f"key {who}", f"key {who} was revoked")
        return None

"""Peers: what libzmq knows about the sender of a message."""

from __future__ import annotations

import zmq

from usbcast_broker.access.connections import LOCAL
from usbcast_schemas.keys import short_text
from usbcast_schemas.sockets import property_of


def peer_of(frame: zmq.Frame) -> str:
    """Return the sender's name for people: its key if it has one, else its address."""
    return peer_named(property_of(frame, "User-Id"), property_of(frame, "Peer-Address"))


def peer_named(user: str | None, address: str | None) -> str:
    """A peer with this User-Id and this address, for people."""
    if user:
        return f"key {short_text(bytes.fromhex(user))}"
    return (address or "").removeprefix("::ffff:") or LOCAL

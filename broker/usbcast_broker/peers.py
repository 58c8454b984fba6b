"""Peers: what libzmq knows of who sent a message."""

from __future__ import annotations

import zmq

from usbcast_broker.connections import LOCAL
from usbcast_schemas.keys import short_text


def peer_of(frame: zmq.Frame) -> str:
    """Who sent it, for people: its key if it has one, else its address."""
    user = property_of(frame, "User-Id")
    if user:
        return f"key {short_text(bytes.fromhex(user))}"
    return property_of(frame, "Peer-Address").removeprefix("::ffff:") or LOCAL


def property_of(frame: zmq.Frame, name: str) -> str:
    """A property of the connection that it came by; empty if there is none."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""

"""Find the program that holds an address that a node needs: another usbcast node identifies itself when asked."""

from __future__ import annotations

from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import AccessRefused, EndpointTaken, UsbcastError
from usbcast_schemas.sockets import split_tcp

ANSWER_S = 1.0
_ANY_HOST = ("*", "0.0.0.0", "[::]")


def taken(error: EndpointTaken) -> str:
    """The sentence of `error`, with the name of the node that has the address, if one has."""
    if not error.endpoint:
        return str(error)
    instead = f"{error.endpoint} is in use by another usbcast node"
    then = "stop that one, or choose another address with --bind"
    try:
        with NodeClient(_reached(error.endpoint), timeout_s=ANSWER_S) as node:
            streams = node.describe()
    except AccessRefused:
        return f"{instead}, which asks for a key: {then}"
    except UsbcastError:
        return str(error)
    serves = ", ".join(info.stream for info in streams) or "nothing yet"
    pid = f"process {streams[0].node_pid}, " if streams else ""
    return f"{instead} ({pid}serving {serves}): {then}"


def _reached(endpoint: str) -> str:
    tcp = split_tcp(endpoint)
    return f"tcp://127.0.0.1:{tcp[1]}" if tcp is not None and tcp[0] in _ANY_HOST else endpoint


__all__ = ["taken"]

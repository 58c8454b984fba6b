"""Where a stream's node is: the endpoint given, else a node of this user on this machine that has it, else the default."""

from __future__ import annotations

from usbcast_schemas.contract import DEFAULT_ENDPOINT
from usbcast_schemas.registry import local_nodes


def locate(stream: str, endpoint: str | None) -> str:
    """The request address to ask for `stream`; the latest node to have started wins."""
    if endpoint is not None:
        return endpoint
    for node in local_nodes():
        if stream in node.streams:
            return node.endpoint
    return DEFAULT_ENDPOINT


def endpoints(endpoint: str | None) -> list[str]:
    """The request addresses of all nodes that are known of."""
    if endpoint is not None:
        return [endpoint]
    found = [node.endpoint for node in local_nodes()]
    return found or [DEFAULT_ENDPOINT]

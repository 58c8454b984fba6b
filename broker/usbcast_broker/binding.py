"""Binding a socket to an address, or saying in one sentence why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import zmq

from usbcast_schemas.errors import ConfigError, EndpointTaken
from usbcast_schemas.sockets import is_local, split_tcp


def bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind to `endpoint`; return it with the port that it got. Raises EndpointTaken, UsageError."""
    tcp = split_tcp(endpoint)
    if tcp is None and Path(endpoint.removeprefix("ipc://")).exists():
        # A second bind to an ipc path silently steals it from the first.
        raise EndpointTaken(f"{endpoint} exists already: stop the node that uses it, or remove the file")
    # With IPv6 on, an IPv4 address is bound and told in its mapped form, which nobody recognises.
    socket.setsockopt(zmq.IPV6, int(tcp is not None and tcp[0].startswith("[")))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise EndpointTaken(
                f"{endpoint} is in use by another program: stop that one, or choose another address with --bind"
            ) from None
        raise EndpointTaken(
            f"cannot listen on {endpoint}: {error.strerror}; choose another address with --bind"
        ) from None
    bound = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bound.rstrip(b"\0").decode() if isinstance(bound, bytes) else endpoint


def bind_first(socket: zmq.Socket[bytes], endpoints: Sequence[str]) -> str:
    """Bind to the first of `endpoints` that is free; raise EndpointTaken, for the last one, if none is."""
    for endpoint in endpoints[:-1]:
        try:
            return bind(socket, endpoint)
        except EndpointTaken:
            continue
    return bind(socket, endpoints[-1])


def check_exposure(endpoint: str, *, insecure: bool) -> None:
    """Raise ConfigError if others could reach `endpoint` without having been let in."""
    if not is_local(endpoint) and not insecure:
        raise ConfigError(
            f"{endpoint} can be reached from other machines, by anybody: listen on tcp://127.0.0.1, "
            "or say --insecure if everybody on that network may read the stream and command the device"
        )

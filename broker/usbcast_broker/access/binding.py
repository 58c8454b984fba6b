"""Binding a socket to an address, or saying in one sentence why not."""

from __future__ import annotations

import contextlib
import socket as posix
from collections.abc import Iterable, Sequence
from pathlib import Path

import zmq

from usbcast_schemas.errors import ConfigError, EndpointTaken
from usbcast_schemas.sockets import is_local, split_tcp


def bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind to `endpoint`; return it with the port that it got. Raises EndpointTaken, UsageError."""
    tcp = split_tcp(endpoint)
    if tcp is None:
        _make_room(endpoint)
    # With IPv6 on, an IPv4 address is bound and told in its mapped form, which nobody recognises.
    socket.setsockopt(zmq.IPV6, int(tcp is not None and tcp[0].startswith("[")))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise EndpointTaken(
                f"{endpoint} is in use by another program: stop that one, or choose another address with --bind",
                endpoint,
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


def release(endpoints: Iterable[str]) -> None:
    """Remove the files of local sockets that were bound and are closed: libzmq leaves them behind."""
    for endpoint in endpoints:
        if split_tcp(endpoint) is None:
            _path(endpoint).unlink(missing_ok=True)


def sweep(directory: Path) -> list[Path]:
    """Remove the local data sockets in `directory` that nobody listens on, as their nodes were killed; return them."""
    removed = [path for path in sorted(directory.glob("data-*")) if path.is_socket() and not _is_listened_on(path)]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def check_exposure(endpoint: str, *, insecure: bool, keyed: bool = False) -> None:
    """Raise ConfigError if others could reach `endpoint` without having been let in."""
    if not is_local(endpoint) and not insecure and not keyed:
        raise ConfigError(
            f"{endpoint} can be reached from other machines by anybody: listen on tcp://127.0.0.1, "
            "admit only clients with a key (--keys DIR; usbcast keys new --keys DIR makes one), "
            "or pass --insecure if everybody on that network may read the stream and command the device"
        )


def _make_room(endpoint: str) -> None:
    """See that a bind to this ipc path takes it from nobody: a second one silently steals it from the first."""
    path = _path(endpoint)
    if path.is_socket() and not _is_listened_on(path):
        path.unlink(missing_ok=True)
    elif path.exists():
        raise EndpointTaken(f"{endpoint} exists already: stop the node that uses it, or remove the file", endpoint)


def _is_listened_on(path: Path) -> bool:
    with contextlib.closing(posix.socket(posix.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # not ours to judge
        return True


def _path(endpoint: str) -> Path:
    return Path(endpoint.removeprefix("ipc://"))

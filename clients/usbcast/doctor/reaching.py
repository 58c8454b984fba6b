"""The hops below ZeroMQ, by plain sockets: name resolution, TCP connection, and the protocol that answers.

Each raises Unreached with one sentence: what was seen, and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time

from usbcast_schemas.errors import NodeUnreachable
from usbcast_schemas.sockets import split_tcp

CONNECT_S = 3.0
GREETING_S = 3.0
_NUDGE_S = 1.0

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_GREETING_BYTES = 64
_MAJOR, _MECHANISM = 10, slice(12, 32)
"""Places in the greeting of ZMTP 3.x (https://rfc.zeromq.org/spec/23/)."""


class Unreached(NodeUnreachable):
    """This hop fails."""


def resolve(endpoint: str) -> list[str]:
    """The addresses of the endpoint's host; for a local socket, its path."""
    tcp = split_tcp(endpoint)
    if tcp is None:
        return [endpoint.removeprefix("ipc://")]
    host = tcp[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, tcp[1], type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else "not a valid host name"
        raise Unreached(
            f"the name {host!r} cannot be resolved ({why}): check the spelling, use the IP address, or ask whoever runs "
            "the DNS; `usbcast list --lan` finds announced nodes without DNS"
        ) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def connect(endpoint: str) -> socket.socket:
    """A connection to the port."""
    tcp = split_tcp(endpoint)
    try:
        if tcp is not None:
            return socket.create_connection((tcp[0].strip("[]"), tcp[1]), CONNECT_S)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(CONNECT_S)
            connection.connect(endpoint.removeprefix("ipc://"))
        except BaseException:
            connection.close()
            raise
        return connection
    except OSError as error:
        raise Unreached(f"{endpoint}: {_why(error, endpoint)}") from None


def _why(error: OSError, endpoint: str) -> str:
    tcp = split_tcp(endpoint)
    if isinstance(error, FileNotFoundError):
        return "there is no such local socket: the node has ended, or belongs to another user"
    if isinstance(error, ConnectionRefusedError):
        return (
            "connection refused, so the machine is up but nothing listens on this port: is the node running, and does it "
            f"listen on the network? A node serves its own machine only, unless started with --bind tcp://0.0.0.0:{tcp[1]} "
            "and --keys (or --insecure)"
            if tcp
            else "nobody listens on this local socket any more: the node was killed"
        )
    if isinstance(error, TimeoutError):
        return (
            f"no answer within {CONNECT_S:g} s: the machine is off, the address is wrong, or a firewall drops what "
            "is sent to this port"
        )
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"{error.strerror}: there is no route to this network from here, or the machine is off"
    return error.strerror or str(error)


def mechanism(connection: socket.socket, endpoint: str) -> str:
    """Return the security mechanism that the peer at `endpoint` wants in ZMTP: NULL, or CURVE (keys)."""
    said = _greeting(connection)
    if len(said) == _GREETING_BYTES and said.startswith(b"\xff") and said[9] & 1:
        if said[_MAJOR] < 3:
            raise Unreached(
                f"{endpoint} speaks ZMTP {said[_MAJOR]}, but 3 is needed: it is another program, or uses a ZeroMQ from "
                "before 2013"
            )
        return said[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")
    if not said:
        raise Unreached(
            f"{endpoint} accepts connections but says nothing for {GREETING_S:g} s: the node there hangs or was suspended "
            "(check with `ps` on its machine), or the port belongs to another program"
        )
    if said.startswith((b"HTTP/", b"<")):
        raise Unreached(f"{endpoint} is a web server, not a node: it says {_shown(said)}; check the port")
    raise Unreached(f"{endpoint} is another program, not a node: it says {_shown(said)}; check the port")


def _greeting(connection: socket.socket) -> bytes:
    """Return what the peer sends within GREETING_S; a program that waits for a line gets an empty one."""
    deadline = time.monotonic() + GREETING_S
    said = b""
    nudged = False
    with contextlib.suppress(OSError):
        connection.sendall(_SIGNATURE + b"\x03")
        while len(said) < _GREETING_BYTES and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s if nudged or said else min(left_s, _NUDGE_S))
            try:
                more = connection.recv(_GREETING_BYTES - len(said))
            except TimeoutError:
                if nudged or said:
                    break
                nudged = True
                connection.sendall(b"\r\n\r\n")
                continue
            if not more:
                break
            said += more
    return said


def _shown(said: bytes) -> str:
    line = said.splitlines()[0] if said.splitlines() else said
    return repr(line[:40].decode("ascii", "replace"))


__all__ = ["Unreached", "connect", "mechanism", "resolve"]

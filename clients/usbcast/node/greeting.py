"""Read the greeting of the program that listens at an address, in steps that never block.

ZMTP 3.x: the first 64 bytes of either side are its greeting, 20 of them the name of the security mechanism
(https://rfc.zeromq.org/spec/23/).
"""

from __future__ import annotations

import contextlib
import select
import socket as posix
import time
from collections.abc import Generator

from usbcast_schemas.sockets import split_tcp

PROBE_S = 2.0
"""The time limit for all steps together."""

_GREETING_BYTES = 64
_LOOKED_AT_S = 0.1
"""The connection stays open this long, so that the node can see which process made it."""

_VERSION = 11
_MECHANISM = slice(12, 32)


class Probe:
    """A connection to `endpoint`, which is greeted with `mechanism`. Used by one thread; `look` again until it has found out.

    A node that wants another mechanism is waited for, so that it notices and says so too: of two libzmq that do not agree, the
    one that hears first hangs up, and the other never learns why.
    """

    def __init__(self, endpoint: str, mechanism: str) -> None:
        self._steps = _ask(endpoint, mechanism, time.monotonic() + PROBE_S)

    def look(self) -> str | None:
        """The mechanism that is wanted there: NULL, CURVE, or other; empty if no ZMTP is spoken; None: not known yet."""
        try:
            next(self._steps)
        except StopIteration as done:
            found: str = done.value
            return found
        except OSError:
            return ""
        return None

    def close(self) -> None:
        self._steps.close()


def _ask(endpoint: str, mechanism: str, deadline: float) -> Generator[None, None, str]:
    for family, address in _addresses(endpoint):
        with posix.socket(family, posix.SOCK_STREAM) as peer:
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                peer.connect(address)
            while not _settled(peer) and time.monotonic() < deadline:
                yield
            if peer.getsockopt(posix.SOL_SOCKET, posix.SO_ERROR) or not _settled(peer):
                continue
            return (yield from _greet(peer, mechanism, deadline))
    return ""


def _greet(peer: posix.socket, mechanism: str, deadline: float) -> Generator[None, None, str]:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.encode().ljust(20, b"\0") + bytes(32)
    peer.send(greeting[:_VERSION])  # enough to hear the whole of the node's; more might make it hang up
    said = b""
    while len(said) < _GREETING_BYTES:
        more = _received(peer, _GREETING_BYTES - len(said))
        if more == b"" or time.monotonic() >= deadline:
            return ""
        said += more or b""
        yield
    if said[0] != 0xFF or not said[9] & 1:
        return ""
    wanted = said[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")
    if wanted == mechanism:
        return wanted
    with contextlib.suppress(OSError):  # it may hang up now
        looked_at = time.monotonic() + _LOOKED_AT_S
        while time.monotonic() < looked_at:
            yield
        peer.send(greeting[_VERSION:])
        while _received(peer, 4096) != b"" and time.monotonic() < deadline:
            yield
    return wanted


def _addresses(endpoint: str) -> list[tuple[int, str | tuple[str, int]]]:
    """Return the addresses to try. The connection in question has just resolved the name, so this does not block."""
    tcp = split_tcp(endpoint)
    if tcp is None:
        return [(posix.AF_UNIX, endpoint.removeprefix("ipc://"))]
    found = posix.getaddrinfo(tcp[0].strip("[]"), tcp[1], type=posix.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def _settled(peer: posix.socket) -> bool:
    """Return True once the connection attempt has succeeded or failed."""
    poll = select.poll()
    poll.register(peer, select.POLLOUT)
    return bool(poll.poll(0))


def _received(peer: posix.socket, most_bytes: int) -> bytes | None:
    """Return the bytes received; empty at the end of the stream, None if nothing has arrived yet."""
    try:
        return peer.recv(most_bytes)
    except BlockingIOError:
        return None


__all__ = ["PROBE_S", "Probe"]

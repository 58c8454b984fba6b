"""Ports of this machine that nobody listens at."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that were free a moment ago."""
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()

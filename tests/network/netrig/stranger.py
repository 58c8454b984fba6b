"""A stranger as a program: scans the ports of a host, then sends HTTP and random bytes to each that is open.

The arguments are the host, the first and last port, and how many bytes; it says in JSON what it found.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHUNK = os.urandom(1 << 20)


def is_open(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def ask_for_a_page(host: str, port: int) -> bytes:
    """What comes back."""
    with socket.create_connection((host, port), 5) as connection, contextlib.suppress(OSError):
        connection.sendall(REQUEST)
        return connection.recv(100)
    return b""


def flood(host: str, port: int, size_bytes: int) -> int:
    """Send so many random bytes, over as many connections as it takes; how many those were."""
    connections = 0
    while size_bytes > 0:
        connections += 1
        with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as connection:
            while size_bytes > 0:
                size_bytes -= connection.send(CHUNK[:size_bytes])
    return connections


def main() -> None:
    host, first, last, size_bytes = sys.argv[1], *map(int, sys.argv[2:])
    found = [port for port in range(first, last + 1) if is_open(host, port)]
    pages = [ask_for_a_page(host, port).hex() for port in found]
    connections = [flood(host, port, size_bytes) for port in found]
    print(json.dumps({"event": "done", "open": found, "pages": pages, "connections": connections}), flush=True)


if __name__ == "__main__":
    main()

"""Plugs a device at the host into a port of the kernel's vhci_hcd, and pulls it out: one JSON line on stdin each.

{"attach": TCP port at the host, "port": number or null, "full_speed": bool}: the socket becomes the cable (Linux's
usbip_protocol.rst); the answer is {"port": number}. {"detach": true}: the cable is cut. At the end of stdin it is cut as
well.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

VHCI = Path("/sys/devices/platform/vhci_hcd.0")
HOST = "10.0.2.2"  # QEMU's own name for its host
PORT_FREE = "004"
DEVICE_ID = 0x00010002
FULL_SPEED, HIGH_SPEED = 2, 3  # of the kernel's enum usb_device_speed


def attach(tcp_port: int, wanted: int | None, speed: int) -> int:
    cable = socket.create_connection((HOST, tcp_port))
    cable.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port = free_ports()[0] if wanted is None else wanted
    (VHCI / "attach").write_text(f"{port} {cable.fileno()} {DEVICE_ID} {speed}")
    cable.close()  # the kernel has its own hold on it
    return port


def free_ports() -> list[int]:
    """The ports of the virtual high-speed hub with nothing in them."""
    ports = [line.split() for line in (VHCI / "status").read_text().splitlines()[1:]]
    return [int(port) for hub, port, state, *_ in ports if (hub, state) == ("hs", PORT_FREE)]


def main() -> None:
    port: int | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "attach" in asked:
            port = attach(asked["attach"], asked["port"], FULL_SPEED if asked["full_speed"] else HIGH_SPEED)
        elif port is not None:
            (VHCI / "detach").write_text(str(port))
        print(json.dumps({"port": port}), flush=True)
    if port is not None and port not in free_ports():
        (VHCI / "detach").write_text(str(port))


if __name__ == "__main__":
    main()

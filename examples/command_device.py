"""Talk to the device while it streams: control transfers, and data for an OUT endpoint.

The requests here are those of the simulated device: request 1 writes and reads registers at the offset in wIndex.

    usbcast serve --simulate &
    python examples/command_device.py first-case
"""

from __future__ import annotations

import sys

import usbcast
from usbcast_schemas.errors import CommandFailed

WRITE, READ, REGISTERS = 0x40, 0xC0, 1  # bmRequestType: vendor request to, and from, the device

name = sys.argv[1] if len(sys.argv) > 1 else "first-case"
with usbcast.subscribe(name) as stream:
    stream.command(WRITE, REGISTERS, index=16, data=b"gain=4")
    print("the register says", stream.command(READ, REGISTERS, index=16, length=6))
    print("the OUT endpoint took", stream.write(0x02, b"\x00" * 64), "bytes")
    try:
        stream.command(READ, 99, length=1)
    except CommandFailed as error:
        print("refused:", error)
    batch = next(iter(stream))
    print("and packets still come:", len(batch) > 0)

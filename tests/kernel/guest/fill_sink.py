"""Writes to the kernel's sink as fast as it takes it, for some seconds; says how fast, as JSON.

    fill_sink.py ENDPOINT SIZE SECONDS [NODE]

With NODE by commands to that node, without it with pyusb alone, as a program does that has the device for itself.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator

import usb.core

from usbcast import NodeClient
from usbcast_schemas.v1 import usbcast_pb2 as pb


@contextlib.contextmanager
def writing(endpoint: int, data: bytes, node: str | None) -> Iterator[Callable[[], int]]:
    """What writes `data` once and returns how many bytes of it were taken."""
    if node is None:
        device = usb.core.find(idVendor=0x0525, idProduct=0xA4A0)
        yield lambda: int(device.write(endpoint, data, 5000))
    else:
        with NodeClient(node, timeout_s=30) as client:
            (stream,) = (described.stream for described in client.describe())
            out = pb.OutTransfer(endpoint=endpoint, data=data)
            yield lambda: client.command(pb.CommandRequest(stream=stream, timeout_ms=5000, out=out)).written


def main(endpoint: str, size: str, seconds: str, node: str | None = None) -> None:
    # The function's pattern 1; it halts the endpoint where it receives anything else.
    data = bytes(n % 512 % 63 for n in range(int(size)))
    with writing(int(endpoint, 0), data, node) as write:
        write()
        written, begin_s = 0, time.monotonic()
        while time.monotonic() - begin_s < float(seconds):
            count = write()
            assert count == len(data), f"{count} of {len(data)} bytes were taken"
            written += count
        print(json.dumps({"written": written, "took_s": time.monotonic() - begin_s}))


main(*sys.argv[1:])

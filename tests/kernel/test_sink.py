"""The kernel's own sink (usb_f_ss_lb on dummy_hcd), written to as fast as it takes it, while its source streams."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from kernelrig.gadget import SINK, source_and_sink
from kernelrig.guest import Guest
from kernelrig.length import longer
from kernelrig.profiles import write_profile
from kernelrig.serving import Serving

from usbcast import NodeClient
from usbcast_schemas.errors import CommandFailed
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

FILL = "/project/tests/kernel/guest/fill_sink.py"
STREAM = "beside-the-sink"
SECONDS = 4.0
SIZES = (512, 16384, 1 << 20)
CLEAR_FEATURE, TO_ENDPOINT, ENDPOINT_HALT = 0x01, 0x02, 0x00
"""Of the USB 2.0 specification, chapter 9.4."""


def test_the_sink_flat_out(guest: Guest) -> None:
    """It examines every byte and halts where one is wrong, so what was taken was right; and the source goes on meanwhile."""
    with source_and_sink(guest):
        alone = {size: fill(guest, size) for size in SIZES}
        path = write_profile(guest, "bulk-source", STREAM, {"transfer": {"queue": 8, "size": 512}})
        with Serving(guest, path) as serving:
            commanded, meanwhile = {}, {}
            for size in SIZES:
                before, begin_s = bytes_read(serving), time.monotonic()
                commanded[size] = fill(guest, size, serving.endpoint)
                meanwhile[size] = (bytes_read(serving) - before) / (time.monotonic() - begin_s) / 1e6
            books = serving.stop()
    for size in SIZES:
        rates = f"pyusb alone {alone[size]:.2f} MB/s, by commands {commanded[size]:.2f} MB/s"
        print(f"writes of {size} bytes: {rates}, while {meanwhile[size]:.2f} MB/s were read")
    assert books["balanced"], books["discrepancies"]
    assert min(commanded.values()) > 0
    assert min(meanwhile.values()) > 0


def test_the_sink_tells_a_wrong_byte(guest: Guest) -> None:
    """So the other test would fail if a byte were wrong; and a halted OUT endpoint is let go on by a command."""
    with source_and_sink(guest):
        path = write_profile(guest, "bulk-source", STREAM, {"transfer": {"queue": 2, "size": 512}})
        with Serving(guest, path) as serving, NodeClient(serving.endpoint, timeout_s=30) as node:

            def write(data: bytes) -> int:
                out = pb.OutTransfer(endpoint=SINK, data=data)
                return node.command(pb.CommandRequest(stream=STREAM, timeout_ms=5000, out=out)).written

            right = bytes(n % 512 % 63 for n in range(16384))
            assert write(right) == len(right)
            with pytest.raises(CommandFailed, match="it answered with a stall"):
                write_until_refused(write)
            clear = pb.ControlTransfer(request_type=TO_ENDPOINT, request=CLEAR_FEATURE, value=ENDPOINT_HALT, index=SINK)
            node.command(pb.CommandRequest(stream=STREAM, timeout_ms=5000, control=clear))
            assert write(right) == len(right)
            books = serving.stop()
    assert books["balanced"], books["discrepancies"]
    assert books["ledgers"]["device"]["counters"]["stalls"] == 0


def write_until_refused(write: Callable[[bytes], int]) -> None:
    """A write ends when the device has its bytes, which it examines afterwards."""
    for _ in range(50):
        write(b"\xff" * 16384)


def fill(guest: Guest, size: int, *node: str) -> float:
    """MB/s that the sink took in writes of `size` bytes."""
    seconds = SECONDS * longer()
    finished = guest.run("python3", FILL, str(SINK), str(size), str(seconds), *node, timeout_s=120 + 2 * seconds)
    assert finished.code == 0, finished
    said: dict[str, Any] = json.loads(finished.out[0])
    return float(said["written"] / said["took_s"] / 1e6)


def bytes_read(serving: Serving) -> int:
    (device,) = (ledger for ledger in serving.health().ledgers if ledger.stage == "device")
    return device.counters["bytes"]

"""The whole way: a device made of software under the real pyusb, through usbcast's transport and framing, to a subscriber."""

from __future__ import annotations

import threading
import time
import zlib
from array import array
from collections.abc import Iterator
from functools import partial

import usbcast
from benchmarks.peers import Delivered, Peer, Take
from benchmarks.peers.usbcast import STREAM, use_directory
from benchmarks.task import PACKET_BYTES, Task
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.simulator.backend import OpenDevice
from usbcast_broker.sources.simulator.failures import TIMEOUT, usb_error
from usbcast_schemas.profile import parse_profile

SYNC = b"\xa5\x5a"
FRAMED_BYTES = len(SYNC) + PACKET_BYTES + 4

IDLE_S = 0.005

PROFILE = """\
[stream]
name = "{stream}"
[device]
vendor_id = 0x1209
product_id = 0x0001
endpoint = 0x81
[transfer]
size = {transfer_bytes}
[framing]
{framing}
"""
FIXED = f'method = "fixed"\nsize = {PACKET_BYTES}'
SYNCED = f"""\
method = "sync"
sync = "{SYNC.hex()}"
size = {FRAMED_BYTES}
checksum = {{ method = "crc32" }}"""


class ScriptedBackend(SimulatorBackend):
    """The simulated device, but for what it sends: each read returns the next block, or as much of it as there is room for.

    The simulator makes its packets in Python, at a tenth of the speed that is measured here.
    """

    def __init__(self) -> None:
        super().__init__([SimulatedDevice(SimulatorConfig())])
        self.script: Iterator[bytes] | None = None
        self.over = threading.Event()
        self._rest = memoryview(b"")

    def bulk_read(self, dev_handle: OpenDevice, ep: int, intf: int, buff: array[int], timeout: int) -> int:  # noqa: ARG002
        if not self._rest:
            self._rest = memoryview(next(self.script, b"")) if self.script else self._rest
        if not self._rest:
            if self.script:
                self.over.set()
            time.sleep(IDLE_S)
            raise usb_error(TIMEOUT)
        room = memoryview(buff).cast("B")
        block, self._rest = self._rest[: len(room)], self._rest[len(room) :]
        room[: len(block)] = block
        return len(block)


class DevicePublisher:
    def __init__(self, task: Task, *, synced: bool) -> None:
        use_directory(task)
        self._synced = synced
        transfer_bytes = task.block_packets * (FRAMED_BYTES if synced else PACKET_BYTES)
        text = PROFILE.format(stream=STREAM, transfer_bytes=transfer_bytes, framing=SYNCED if synced else FIXED)
        self._node = Node(NodeSettings(bind="tcp://127.0.0.1:0", linger_s=0.0))
        self._backend = ScriptedBackend()
        self._pipeline = add_device(self._node, parse_profile(text, "the benchmark"), backend=self._backend)
        self._node.start()
        self.address = self._node.endpoint

    def run(self, script: Iterator[bytes]) -> None:
        self._backend.script = _framed(script) if self._synced else script
        self._backend.over.wait()

    def figures(self) -> dict[str, float]:
        return {"batches": self._pipeline.outlet.next_number}

    def close(self) -> None:
        self._node.stop("the run is over")


def _framed(script: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks with each packet between its sync marker and its CRC-32; each different block is made once."""
    made: dict[bytes, bytes] = {}
    for block in script:
        framed = made.get(block)
        if framed is None:
            framed = made[block] = b"".join(
                body + zlib.crc32(body).to_bytes(4, "little")
                for at in range(0, len(block), PACKET_BYTES)
                for body in (SYNC + block[at : at + PACKET_BYTES],)
            )
        yield framed


def subscribe(task: Task, take: Take, delivered: Delivered, *, synced: bool) -> None:
    use_directory(task)
    with usbcast.subscribe(STREAM, task.address, via="ring") as stream:
        for event in stream.events():
            if isinstance(event, usbcast.Batch):
                packets = event.packets[:, len(SYNC) : -4].tobytes() if synced else event.payload
                if take(packets):
                    return
            elif isinstance(event, usbcast.Gap):
                delivered.declared_lost += event.count


def _peer(label: str, *, synced: bool) -> Peer:
    flow = "the device waits: a read gets the next block when the window allows"
    publisher = partial(DevicePublisher, synced=synced)
    return Peer(label, publisher, partial(subscribe, synced=synced), flow, works=frozenset(("device",)))


PEERS = {
    "device-fixed": _peer("fixed-size framing", synced=False),
    "device-sync": _peer("sync marker and CRC-32", synced=True),
}

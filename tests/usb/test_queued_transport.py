"""A transport whose backend queues reads: real pyusb and real queued reads, on a simulated bus and a libusb made of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_queued_backend import IN, OUT, QUEUE, STALL, FakeLibrary, Handle
from usb_rig import NOWHERE, Backend, match

from usbcast_broker.sources.simulator import SimulatorBackend
from usbcast_broker.sources.usb import libusb
from usbcast_broker.sources.usb.endpoint_reader import QueuesReads
from usbcast_broker.sources.usb.feed import DeviceFeed
from usbcast_broker.sources.usb.queued_backend import QueuedBackend
from usbcast_broker.sources.usb.readahead import Figures
from usbcast_broker.sources.usb.transport import UsbTransport
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.errors import DeviceDetached, DeviceStalled
from usbcast_schemas.profile import TransferSettings

DESCRIPTORS = ("enumerate_devices", "get_parent", *(f"get_{of}_descriptor" for of in ("device", "configuration")))
MORE_DESCRIPTORS = tuple(f"get_{of}_descriptor" for of in ("interface", "endpoint"))


@pytest.fixture
def library() -> FakeLibrary:
    return FakeLibrary()


@pytest.fixture
def backend(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> Iterator[QueuedBackend]:
    """The bus and the descriptors are the simulator's; transfers are queued at `library`."""
    monkeypatch.setattr("usbcast_broker.sources.usb.queued_backend.Library", lambda _lib: library)
    monkeypatch.setattr("usb.util.get_string", lambda *_: "SIM0001")
    base: Any = QueuedBackend.__mro__[1]
    for name in (*DESCRIPTORS, *MORE_DESCRIPTORS):
        monkeypatch.setattr(base, name, getattr(SimulatorBackend, name))
    monkeypatch.setattr(base, "open_device", lambda _self, _place: Handle())
    monkeypatch.setattr(base, "get_configuration", lambda *_: 1)
    monkeypatch.setattr(base, "is_kernel_driver_active", lambda *_: False)
    for name in ("claim_interface", "release_interface", "clear_halt", "reset_device", "close_device"):
        monkeypatch.setattr(base, name, lambda *_: None)
    made = QueuedBackend(libusb._shared().lib, QUEUE, Figures())
    made.devices = Backend().devices
    yield made
    made.finalize()
    assert not library.allocated, "every transfer is freed"


def make(backend: QueuedBackend) -> UsbTransport:
    return UsbTransport(match(), TransferSettings(latency_ms=0), backend=backend, system=NOWHERE)


def test_a_read_returns_all_that_has_ended_and_a_failure_in_its_turn(
    backend: QueuedBackend, library: FakeLibrary
) -> None:
    assert isinstance(backend, QueuesReads)
    way = make(backend)
    assert not way.reads_ahead
    way.open()
    assert way.reads_ahead
    library.ends.extend([(0, b"a"), (0, b""), (0, b"bc"), (STALL, b"")])
    assert [transfer.data for transfer in way.read(20)] == [b"a", b"", b"bc"]
    with pytest.raises(DeviceStalled, match="refused a read"):
        way.read(20)
    way.clear_halt()
    assert way.read(1) == []
    assert [one.endpoint for one in library.flying] == [IN] * QUEUE
    library.held_when_cancelled.append(b"held")
    assert [transfer.data for transfer in way.finish(0.0)] == [b"held"]
    way.close()
    assert not way.reads_ahead
    with pytest.raises(DeviceDetached, match="is not open"):
        way.read(20)


def test_what_is_read_during_a_command_reaches_the_host_queue_at_once(
    backend: QueuedBackend, library: FakeLibrary
) -> None:
    way, queue = make(backend), HostQueue()
    feed = DeviceFeed(way, queue)
    way.open(feed._pass_on)
    library.ends.append((0, b"a"))
    assert [transfer.data for transfer in way.read(20)] == [b"a"]
    library.ends.extend([(0, b"b"), (0, b"c")])
    assert way.write(OUT, b"x", 1000) == 1
    assert [item.data for item in queue.take(1 << 20)] == [b"b", b"c"]  # type: ignore[union-attr]
    assert feed.counters["transfers"] == 2
    way.close()

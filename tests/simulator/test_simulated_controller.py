"""When reads of a simulated device end: as those of a host controller do."""

from __future__ import annotations

import threading
import time
from array import array
from typing import Any

import pytest
import usb.core

from usbcast_broker.sources.simulator import Fault, SimulatedDevice, SimulatorBackend, SimulatorConfig, make_packets
from usbcast_broker.sources.simulator.controller import Read
from usbcast_broker.sources.simulator.source import Signal, Source

MS = 1_000_000
PACKET = 64


def full_packets(**options: Any) -> SimulatorConfig:
    """A packet of 64 bytes every 10 ms, as large as the endpoint's packets."""
    return SimulatorConfig(packet_size=PACKET, max_packet_size=PACKET, **options)


class Bus:
    """One read after another, in a time that only passes when nothing is left to do."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.source = Source(config)
        self.now_ns = 0
        self.source.start(0)

    def read(self, room_bytes: int, timeout_ms: int = 1000) -> tuple[float, bytes | Signal]:
        """When it ended, in ms, and how; what it holds if its time was up."""
        read = Read(self.source, room_bytes, self.config.max_packet_size)
        end_ns = self.now_ns + timeout_ms * MS
        while (outcome := read.poll(self.now_ns)) is None:
            if self.now_ns >= end_ns:
                outcome = read.take()
                break
            wake_ns = read.wake_ns()
            self.now_ns = end_ns if wake_ns is None else min(end_ns, wake_ns)
        return self.now_ns / MS, outcome


@pytest.mark.parametrize(
    ("size", "room", "ends_ms", "got"),
    [
        (64, 64, 0, 64),
        (64, 256, 30, 256),
        (128, 256, 10, 256),
        (128, 64, 0, 64),
        (112, 256, 0, 112),
        (20, 256, 0, 20),
        (64, 16384, 1000, 101 * 64),
    ],
)
def test_a_read_ends_when_it_is_full_or_a_short_packet_comes(size: int, room: int, ends_ms: float, got: int) -> None:
    bus = Bus(SimulatorConfig(packet_size=size, max_packet_size=64))
    ended_ms, data = bus.read(room)
    assert (ended_ms, data) == (ends_ms, make_packets(bus.config, 0, 101)[:got])


def test_a_zero_length_packet_ends_it_and_may_be_all() -> None:
    bus = Bus(full_packets(faults=(Fault(kind="zero_length", at_packet=2, count=2),)))
    assert bus.read(16384) == (20, make_packets(bus.config, 0, 2))
    assert bus.read(16384) == (20, b"")


@pytest.mark.parametrize(
    ("kind", "signal"), [("stall", Signal.STALL), ("overflow", Signal.OVERFLOW), ("unplug", Signal.GONE)]
)
def test_what_it_holds_comes_before_the_failure(kind: str, signal: Signal) -> None:
    bus = Bus(full_packets(faults=(Fault(kind=kind, at_packet=3),)))
    assert bus.read(16384) == (30, make_packets(bus.config, 0, 3))
    assert bus.read(16384) == (30, signal)


def plugged_in(config: SimulatorConfig) -> tuple[usb.core.Device, SimulatedDevice]:
    simulated = SimulatedDevice(config)
    device = usb.core.find(backend=SimulatorBackend([simulated]))
    assert device is not None
    return device, simulated


def test_a_read_whose_time_is_up_returns_what_it_has_taken() -> None:
    device, simulated = plugged_in(full_packets(packets=3, rate_hz=1000))
    assert bytes(device.read(0x81, 16384, 200)) == make_packets(simulated.config, 0, 3)
    assert simulated.exhausted.is_set()
    with pytest.raises(usb.core.USBTimeoutError):
        device.read(0x81, 16384, 20)


def test_what_is_held_is_not_read_yet() -> None:
    device, simulated = plugged_in(full_packets(packets=2, rate_hz=1000))
    buffer = array("B", bytes(16384))
    reader = threading.Thread(target=device.read, args=(0x81, buffer, 1000))
    reader.start()
    deadline = time.monotonic() + 5
    while simulated.produced < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not simulated.exhausted.is_set()
    simulated.unplug()
    reader.join()
    kept = 2 - simulated.dropped  # what had not left the device yet is gone with it
    assert buffer[: kept * PACKET].tobytes() == make_packets(simulated.config, 0, 2)[: kept * PACKET]
    with pytest.raises(usb.core.USBError):
        device.read(0x81, buffer, 20)

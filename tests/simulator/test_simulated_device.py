"""A simulated device as pyusb sees it."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator

import pytest
import usb.control
import usb.core
import usb.util

from usbcast_broker.sources.simulator import Fault, SimulatedDevice, SimulatorBackend, SimulatorConfig, make_packets

GONE, NOT_FOUND, BUSY, TIMEOUT, OVERFLOW, STALL = -4, -5, -6, -7, -8, -9
FOR_EVER_MS = 10_000


def plugged_in(*configs: SimulatorConfig) -> tuple[SimulatorBackend, list[SimulatedDevice]]:
    devices = [SimulatedDevice(config) for config in configs]
    return SimulatorBackend(devices), devices


def find(backend: SimulatorBackend, **wanted: object) -> usb.core.Device:
    device = usb.core.find(backend=backend, **wanted)
    assert device is not None
    return device


@pytest.fixture
def pair() -> Iterator[tuple[usb.core.Device, SimulatedDevice]]:
    backend, [simulated] = plugged_in(SimulatorConfig())
    device = find(backend)
    yield device, simulated
    usb.util.dispose_resources(device)


def code_of(call: object, *arguments: object) -> tuple[type, int | None, int | None]:
    with pytest.raises(usb.core.USBError) as caught:
        call(*arguments)  # type: ignore[operator]
    return type(caught.value), caught.value.errno, caught.value.backend_error_code


def test_descriptors_and_strings(pair: tuple[usb.core.Device, SimulatedDevice]) -> None:
    device, _ = pair
    assert (device.idVendor, device.idProduct, device.bus, device.port_numbers) == (0x1209, 1, 99, (1,))
    assert (device.serial_number, device.product, device.manufacturer) == ("SIM0001", "simulated device", "usbcast")
    assert "Bulk" in str(device)
    endpoints = {endpoint.bEndpointAddress: endpoint.wMaxPacketSize for endpoint in device[0][(0, 0)]}
    assert endpoints == {0x81: 512, 0x02: 512}
    assert device.parent is None


def test_absent_texts() -> None:
    backend, _ = plugged_in(SimulatorConfig(serial="", product=""))
    device = find(backend)
    assert (device.serial_number, device.product, device.manufacturer) == (None, None, "usbcast")
    assert code_of(usb.util.get_string, device, 3)[1:] == (32, STALL)


def test_it_sends_its_packets_in_time(pair: tuple[usb.core.Device, SimulatedDevice]) -> None:
    device, simulated = pair
    begin = time.monotonic_ns()
    packets = [bytes(device.read(0x81, 512, 1000)) for _ in range(20)]
    took_s = (time.monotonic_ns() - begin) / 1e9
    assert b"".join(packets) == make_packets(simulated.config, 0, 20)
    assert took_s >= 0.19
    assert begin <= simulated.last_packet_monotonic_ns - 190_000_000 <= time.monotonic_ns()


def test_a_read_from_an_interrupt_endpoint() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(interrupt=True, max_packet_size=64))
    device = find(backend)
    assert bytes(device.read(0x81, 128, 1000)) == make_packets(simulated.config, 0, 1)


def test_a_read_that_has_nothing_to_read_times_out_and_does_not_spin() -> None:
    backend, _ = plugged_in(SimulatorConfig(packets=1))
    device = find(backend)
    device.read(0x81, 512, 1000)
    begin, processor = time.monotonic(), time.process_time()
    assert code_of(device.read, 0x81, 512, 200) == (usb.core.USBTimeoutError, 110, TIMEOUT)
    assert time.monotonic() - begin >= 0.2
    assert time.process_time() - processor < 0.1


def test_exhausted_says_that_all_is_read() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(packets=3, rate_hz=1000))
    device = find(backend)
    for _ in range(3):
        assert not simulated.exhausted.is_set()
        device.read(0x81, 512, 1000)
    assert simulated.exhausted.is_set()
    assert (simulated.produced, simulated.dropped, simulated.withheld) == (3, 0, 0)


def test_exhausted_also_when_the_last_packets_are_never_sent() -> None:
    faults = (Fault(kind="drop", at_packet=1, count=2),)
    backend, [simulated] = plugged_in(SimulatorConfig(packets=3, rate_hz=1000, faults=faults))
    device = find(backend)
    device.read(0x81, 512, 1000)
    reader = threading.Thread(target=lambda: code_of(device.read, 0x81, 512, 500))
    reader.start()
    assert simulated.exhausted.wait(5)
    reader.join()
    assert (simulated.produced, simulated.withheld) == (3, 2)


def test_faults_raise_what_pyusb_raises() -> None:
    faults = (Fault(kind="stall", at_packet=0), Fault(kind="overflow", at_packet=1), Fault(kind="unplug", at_packet=2))
    backend, [simulated] = plugged_in(SimulatorConfig(rate_hz=1000, faults=faults))
    device = find(backend)
    read = (device.read, 0x81, 512, 1000)
    assert code_of(*read) == (usb.core.USBError, 32, STALL)
    assert code_of(*read) == (usb.core.USBError, 32, STALL)
    endpoint = device[0][(0, 0)][0]
    assert usb.control.get_status(device, endpoint) == 1
    device.clear_halt(0x81)
    assert usb.control.get_status(device, endpoint) == 0
    assert bytes(device.read(0x81, 512, 1000)) == make_packets(simulated.config, 0, 1)
    assert code_of(*read) == (usb.core.USBError, 75, OVERFLOW)
    assert code_of(*read) == (usb.core.USBError, 19, GONE)
    assert usb.core.find(backend=backend) is None
    for call in (device.reset, device.set_configuration, lambda: device.clear_halt(0x81)):
        assert code_of(call) == (usb.core.USBError, 19, GONE)


@pytest.mark.parametrize("how", ["unplug", "dispose", "release", "reset", "close"])
def test_a_waiting_read_ends_at_once(how: str) -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(packets=1))
    device = find(backend)
    device.read(0x81, 512, 1000)
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.append(code_of(device.read, 0x81, 512, FOR_EVER_MS)))
    reader.start()
    begin = time.monotonic()
    time.sleep(0.05)  # for the read to begin; where it has not, what it finds then ends it as well
    {
        "unplug": simulated.unplug,
        "dispose": lambda: usb.util.dispose_resources(device),
        "release": lambda: usb.util.release_interface(device, 0),
        "reset": device.reset,
        "close": device._ctx.managed_close,
    }[how]()
    reader.join(5)
    assert not reader.is_alive()
    assert time.monotonic() - begin < 2
    assert seen == [(usb.core.USBError, 19, GONE)]


def test_plugged_in_again_it_has_another_address_and_the_old_device_is_dead() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig())
    old = find(backend, serial_number="SIM0001")
    old.read(0x81, 512, 1000)
    simulated.unplug()
    simulated.unplug()
    assert usb.core.find(backend=backend) is None
    simulated.plug()
    simulated.plug()
    new = find(backend, serial_number="SIM0001")
    assert new.address != old.address
    assert new != old
    assert code_of(old.read, 0x81, 512, 100)[1:] == (19, GONE)
    number = simulated.produced
    assert bytes(new.read(0x81, 512, 1000)) == make_packets(simulated.config, number, 1)


def test_a_scripted_unplug_ends_by_itself() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(faults=(Fault(kind="unplug", at_packet=0, duration_s=0.1),)))
    assert code_of(find(backend).read, 0x81, 512, 1000)[1:] == (19, GONE)
    deadline = time.monotonic() + 5
    while (device := usb.core.find(backend=backend)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert bytes(device.read(0x81, 512, 1000)) == make_packets(simulated.config, 0, 1)


def test_one_may_have_it_at_a_time() -> None:
    backend, _ = plugged_in(SimulatorConfig())
    one, other = find(backend), find(backend)
    usb.util.claim_interface(one, 0)
    assert code_of(usb.util.claim_interface, other, 0)[1:] == (16, BUSY)
    usb.util.dispose_resources(one)
    usb.util.claim_interface(other, 0)
    assert code_of(usb.util.claim_interface, other, 3)[1:] == (2, NOT_FOUND)
    usb.util.dispose_resources(other)


def test_it_rests_while_nobody_has_it() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(rate_hz=1000))
    device = find(backend)
    device.read(0x81, 512, 1000)
    usb.util.dispose_resources(device)
    produced = simulated.produced
    time.sleep(0.02)
    assert simulated.produced == produced
    while simulated.produced == produced:
        device.read(0x81, 512, 1000)
    assert simulated.dropped == 0
    usb.util.dispose_resources(device)


def test_a_reset_loses_what_waits(pair: tuple[usb.core.Device, SimulatedDevice]) -> None:
    device, simulated = pair
    device.read(0x81, 512, 1000)
    while simulated.produced < 4:
        time.sleep(0.005)
    device.reset()
    produced = simulated.produced
    assert simulated.dropped == produced - 1
    assert bytes(device.read(0x81, 512, 1000)) == make_packets(simulated.config, produced, 1)


def test_registers_can_be_written_and_read_back(pair: tuple[usb.core.Device, SimulatedDevice]) -> None:
    device, simulated = pair
    assert device.ctrl_transfer(0x40, 1, 0, 16, b"hello") == 5
    assert bytes(device.ctrl_transfer(0xC0, 1, 0, 17, 4)) == b"ello"
    assert device.write(0x02, b"abc" * 100) == 300
    assert bytes(device.ctrl_transfer(0xC0, 1, 0, 0, 4)) == b"abca"
    assert bytes(device.ctrl_transfer(0xC0, 2, 0, 0, 8)) == (300).to_bytes(8, "little")
    assert simulated.out_bytes == 300


@pytest.mark.parametrize(
    ("request_type", "request_", "index", "data"),
    [(0x40, 9, 0, b"x"), (0xC0, 9, 0, 8), (0x40, 1, 4095, b"xx"), (0xC0, 1, 4096, 1), (0x00, 9, 0, b"")],
)
def test_what_it_does_not_know_it_refuses(
    pair: tuple[usb.core.Device, SimulatedDevice], request_type: int, request_: int, index: int, data: bytes | int
) -> None:
    device, _ = pair
    assert code_of(device.ctrl_transfer, request_type, request_, 0, index, data)[1:] == (32, STALL)
    assert usb.control.get_status(device) == 0


def test_standard_requests(pair: tuple[usb.core.Device, SimulatedDevice]) -> None:
    device, _ = pair
    assert usb.control.get_configuration(device) == 1
    assert bytes(device.ctrl_transfer(0x81, 10, 0, 0, 1)) == b"\0"
    assert usb.control.get_status(device, device[0][(0, 0)]) == 0
    device.set_configuration(1)
    device.set_interface_altsetting(0, 0)


def test_reading_an_out_endpoint_writes_as_it_does_with_libusb(pair: tuple[usb.core.Device, SimulatedDevice]) -> None:
    device, simulated = pair
    assert len(device.read(0x02, 64)) == 64
    assert simulated.out_bytes == 64
    assert code_of(device.write, 0x81, b"x")[1] == 2


def test_status_bytes_stand_before_every_usb_packet_and_come_alone_when_idle() -> None:
    config = SimulatorConfig(
        packets=3, rate_hz=1000, max_packet_size=64, status_prefix=b"\x01\x60", latency_s=0.005, packet_size=100
    )
    backend, [simulated] = plugged_in(config)
    device, raw = find(backend), b""
    buffer = array("B", bytes(512))
    while not simulated.exhausted.is_set():
        size = device.read(0x81, buffer, 1000)
        data = buffer[:size].tobytes()
        packets = [data[at : at + 64] for at in range(0, size, 64)]
        assert all(packet[:2] == b"\x01\x60" for packet in packets)
        raw += b"".join(packet[2:] for packet in packets)
    assert raw == make_packets(config, 0, 3)
    begin = time.monotonic()
    assert bytes(device.read(0x81, 512, 1000)) == b"\x01\x60"
    assert 0.004 < time.monotonic() - begin < 0.5


def test_a_million_packets_a_second_keep_their_order() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(rate_hz=1e6, packets=100_000, fifo_bytes=1 << 24))
    device, received = find(backend), []
    while not simulated.exhausted.is_set():
        received.append(bytes(device.read(0x81, 1 << 18, 1000)))
    assert b"".join(received) == make_packets(simulated.config, 0, 100_000)


def test_threads_that_ask_disturb_nothing() -> None:
    backend, [simulated] = plugged_in(SimulatorConfig(rate_hz=5000, packets=1000))
    device, received = find(backend), []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            assert simulated.produced <= 1000
            assert usb.control.get_status(device) == 0

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    while not simulated.exhausted.is_set():
        received.append(bytes(device.read(0x81, 16384, 1000)))
    done.set()
    for asker in askers:
        asker.join()
    assert b"".join(received) == make_packets(simulated.config, 0, 1000)

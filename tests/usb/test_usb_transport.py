"""A device from opening to closing, through the real usb.core."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import usb.core
import usb.util
from usb_rig import NOWHERE, PRODUCT, VENDOR, Backend, match, read, transport, twin

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.sources.simulator import Fault, SimulatorConfig, make_packets
from usbcast_broker.sources.simulator.descriptors import (
    ConfigurationDescriptor,
    EndpointDescriptor,
    InterfaceDescriptor,
    device_descriptor,
)
from usbcast_broker.sources.usb.system import System
from usbcast_broker.sources.usb.transport import UsbTransport
from usbcast_schemas.errors import (
    DeviceBusy,
    DeviceDetached,
    DeviceError,
    DeviceFailed,
    DeviceForbidden,
    DeviceOverflowed,
    DeviceStalled,
    ProfileError,
    UsageError,
)
from usbcast_schemas.profile import ControlRequest, TransferSettings

CONTROL, ISOCHRONOUS, INTERRUPT = 0, 1, 3
QUICK = SimulatorConfig(rate_hz=1000)
WRITE = ControlRequest(request_type=0x40, request=1, index=8, data=b"abc")
READ = ControlRequest(request_type=0xC0, request=1, index=8, length=3)
REFUSED = ControlRequest(request_type=0x40, request=77)


def live_devices(backend: Backend) -> list[usb.core.Device]:
    """Return the devices of `backend` that are still there; those of other tests may go at any moment."""
    devices = [one for one in gc.get_objects() if isinstance(one, usb.core.Device)]
    return [one for one in devices if one.backend is backend]


def test_its_whole_life() -> None:
    backend = Backend(QUICK)
    way = transport(backend, startup=(WRITE, READ), shutdown=(WRITE,))
    identity = way.open()
    assert identity == DeviceIdentity(VENDOR, PRODUCT, "SIM0001", "usbcast", "simulated device", "99-1")
    assert way.name == "device 1209:0001 (serial SIM0001, at 99-1)"
    packets = [read(way) for _ in range(5)]
    assert b"".join(one or b"" for one in packets) == make_packets(QUICK, 0, 5)
    way.close()
    assert backend.log == [
        *("open_device", "claim_interface 0", "control 0x40 1 8", "control 0xc0 1 8"),
        *("control 0x40 1 8", "release_interface 0", "close_device"),
    ]
    way.close()
    assert way.open() == identity
    way.close()


def test_reads_that_bring_nothing() -> None:
    faults = (Fault(kind="zero_length", at_packet=1),)
    way = transport(Backend(SimulatorConfig(rate_hz=1000, packets=2, faults=faults)))
    way.open()
    assert [len(one) if one is not None else None for one in (read(way) for _ in range(3))] == [112, 0, 112]
    assert read(way, 20) is None
    way.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="stall", at_packet=0), DeviceStalled),
        (Fault(kind="overflow", at_packet=0), DeviceOverflowed),
        (Fault(kind="unplug", at_packet=0), DeviceDetached),
    ],
)
def test_reads_that_fail(fault: Fault, kind: type[DeviceError]) -> None:
    way = transport(Backend(SimulatorConfig(rate_hz=1000, faults=(fault,))))
    way.open()
    with pytest.raises(kind, match=r"1209:0001 \(serial SIM0001, at 99-1\)"):
        read(way)
    way.close()


@pytest.mark.parametrize(
    ("code", "errno", "kind"),
    [(-1, 5, DeviceFailed), (-10, 4, DeviceFailed), (-99, None, DeviceFailed), (-4, 19, DeviceDetached)],
)
def test_bus_errors(code: int, errno: int | None, kind: type[DeviceError]) -> None:
    backend = Backend(QUICK)
    way = transport(backend)
    way.open()
    backend.refuse("bulk_read", code, errno, times=1)
    with pytest.raises(kind):
        read(way)
    assert read(way) == make_packets(QUICK, 0, 1)
    way.close()


@pytest.mark.parametrize(
    ("packet_size", "interrupt", "asked", "size"),
    [(512, False, 1, 512), (512, False, 512, 512), (512, False, 513, 1024), (64, True, 100, 128), (1, False, 7, 7)],
)
def test_reads_are_of_whole_usb_packets(packet_size: int, interrupt: bool, asked: int, size: int) -> None:
    way = transport(Backend(SimulatorConfig(max_packet_size=packet_size, interrupt=interrupt)), size=asked)
    way.open()
    assert way.read_size == size
    way.close()


def test_a_high_bandwidth_endpoint_sends_more_in_a_microframe() -> None:
    backend = Backend()
    backend.rules["get_endpoint_descriptor"] = lambda *_: EndpointDescriptor(0x81, INTERRUPT, 1024 | 2 << 11, 1)
    way = transport(backend, size=4000)
    way.open()
    assert way.read_size == 6144
    way.close()


@pytest.mark.parametrize(
    ("strip", "divides"),
    [({}, True), ({"strip_prefix": 2}, False), ({"strip_prefix": 2, "strip_every": 64}, True),
     ({"strip_prefix": 2, "strip_every": 512}, False)],
)  # fmt: skip
def test_reads_are_divided_only_where_status_bytes_are_found_all_the_same(strip: dict[str, int], divides: bool) -> None:
    settings = TransferSettings(size=1024, **strip)
    way = UsbTransport(
        match(), settings, backend=Backend(SimulatorConfig(max_packet_size=64, rate_hz=0)), system=NOWHERE
    )
    way.open()
    (first,) = way.read()
    way.close()
    assert len(first.data) == (64 if divides else 1024)


def test_reads_begin_as_large_as_the_rate_in_the_profile_wants_them() -> None:
    settings = TransferSettings(latency_ms=10)
    backend = Backend(SimulatorConfig(max_packet_size=64, rate_hz=0))
    way = UsbTransport(match(), settings, backend=backend, system=NOWHERE, bytes_per_s=64 * 1000)
    way.open()
    (first,) = way.read()
    way.close()
    assert len(first.data) == 5 * 64


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            {"endpoint": 0x02},
            "device.endpoint is 0x02: interface 0 of device 1209:0001 .* has 0x81 .bulk IN., 0x02 .bulk",
        ),
        ({"endpoint": 0x83}, "device.endpoint is 0x83"),
        ({"interface": 1}, "device.interface is 1 and device.alternate 0: .* settings 0/0"),
        ({"alternate": 2}, "device.interface is 0 and device.alternate 2"),
        ({"configuration": 4}, "device.configuration is 4: .* has 1"),
    ],
)
def test_what_the_device_does_not_have(device: dict[str, Any], said: str) -> None:
    backend = Backend(QUICK)
    way = transport(backend, **device)
    with pytest.raises(ProfileError, match=said):
        way.open()
    assert backend.devices[0].out_bytes == 0
    assert backend.log[-1] == "close_device"


@pytest.mark.parametrize("kind", [CONTROL, ISOCHRONOUS])
def test_an_endpoint_of_another_type_is_refused(kind: int) -> None:
    backend = Backend(QUICK)
    backend.rules["get_endpoint_descriptor"] = lambda *_: EndpointDescriptor(0x81, kind, 64, 1)
    with pytest.raises(ProfileError, match="a bulk or interrupt IN endpoint is allowed"):
        transport(backend).open()


class TestOpening:
    def test_forbidden(self, tmp_path: Path) -> None:
        node = tmp_path / "dev/bus/usb/099/002"
        node.parent.mkdir(parents=True)
        node.touch()
        backend = Backend(QUICK)
        backend.refuse("open_device", -3, 13)
        with pytest.raises(DeviceForbidden) as caught:
            transport(backend, system=System(tmp_path)).open()
        assert str(node) in str(caught.value)
        assert 'ATTR{idVendor}=="1209"' in str(caught.value)

    def test_held_by_another_process(self, tmp_path: Path) -> None:
        node = tmp_path / "dev/bus/usb/099/002"
        descriptors = tmp_path / "proc/77/fd"
        for directory in (node.parent, descriptors):
            directory.mkdir(parents=True)
        node.touch()
        (descriptors / "3").symlink_to(node)
        (tmp_path / "proc/77/comm").write_text("oscilloscope\n")
        backend = Backend(QUICK)
        owner = usb.core.find(backend=backend)
        usb.util.claim_interface(owner, 0)
        with pytest.raises(DeviceBusy, match=r"is held by process 77 \(oscilloscope\); end it"):
            transport(backend, system=System(tmp_path)).open()
        with pytest.raises(DeviceBusy, match="is held by another program"):
            transport(backend).open()
        usb.util.dispose_resources(owner)
        way = transport(backend)
        way.open()
        way.close()

    def test_a_kernel_driver_is_detached_and_comes_back(self) -> None:
        backend = Backend(QUICK)
        bound = {"ftdi_sio"}
        backend.rules |= {
            "is_kernel_driver_active": lambda *_: bool(bound),
            "detach_kernel_driver": lambda *_: bound.clear(),
            "attach_kernel_driver": lambda *_: bound.add("ftdi_sio"),
        }
        way = transport(backend)
        way.open()
        assert not bound
        way.close()
        assert bound
        assert backend.log == [
            *("open_device", "detach_kernel_driver 0", "claim_interface 0"),
            *("release_interface 0", "attach_kernel_driver 0", "close_device"),
        ]

    def test_a_kernel_driver_of_two_interfaces_gives_up_both_and_gets_both_back(self) -> None:
        """As that of a CDC-ACM port does, which is asked by the interface for control and takes the other one along."""
        backend = Backend(QUICK)
        bound, claimed = {0, 1}, set[int]()

        def attach(interface: int) -> None:
            assert not claimed
            if interface == 0:
                bound.update({0, 1})

        backend.rules |= {
            "get_configuration_descriptor": lambda _: ConfigurationDescriptor(bNumInterfaces=2),
            "get_interface_descriptor": lambda number, alternate, _: (InterfaceDescriptor(bInterfaceNumber=number),)[
                alternate
            ],
            "is_kernel_driver_active": lambda interface: interface in bound,
            "detach_kernel_driver": lambda _: bound.clear(),
            "attach_kernel_driver": attach,
            "claim_interface": claimed.add,
            "release_interface": claimed.remove,
        }
        way = transport(backend, interface=1)
        way.open()
        assert (bound, claimed) == (set(), {0, 1})
        way.close()
        assert (bound, claimed) == ({0, 1}, set())

    def test_a_kernel_driver_that_left_by_itself(self) -> None:
        backend = Backend(QUICK)
        backend.rules["is_kernel_driver_active"] = lambda *_: True
        backend.refuse("detach_kernel_driver", -5, 2)
        way = transport(backend)
        way.open()
        way.close()
        assert "attach_kernel_driver 0" not in backend.log

    @pytest.mark.parametrize("named", [True, False])
    def test_a_kernel_driver_that_stays(self, tmp_path: Path, named: bool) -> None:
        if named:
            interface = tmp_path / "sys/bus/usb/devices/99-1:1.0"
            interface.mkdir(parents=True)
            (interface / "driver").symlink_to("../../../drivers/ftdi_sio")
        backend = Backend(QUICK)
        backend.rules["is_kernel_driver_active"] = lambda *_: True
        backend.refuse("detach_kernel_driver", -6, 16)
        with pytest.raises(DeviceBusy, match="is held by the kernel driver ftdi_sio;" if named else "a kernel driver;"):
            transport(backend, system=System(tmp_path)).open()

    def test_a_system_without_kernel_drivers(self) -> None:
        backend = Backend(QUICK)

        def unsupported(*_: object) -> bool:
            raise NotImplementedError

        backend.rules["is_kernel_driver_active"] = unsupported
        way = transport(backend)
        way.open()
        assert read(way) == make_packets(QUICK, 0, 1)
        way.close()

    @pytest.mark.parametrize(
        ("active", "wanted", "chosen"),
        [(1, None, []), (1, 1, []), (0, None, [1]), (0, 1, [1]), (2, 1, [1]), (2, None, [])],
    )
    def test_the_configuration_is_chosen_only_if_it_differs(
        self, active: int, wanted: int | None, chosen: list[int]
    ) -> None:
        backend = Backend(QUICK)
        device = replace(device_descriptor(QUICK, bus=99, address=2, port=1), bNumConfigurations=2)
        now = [active]
        backend.rules |= {
            "get_device_descriptor": lambda *_: device,
            "get_configuration_descriptor": lambda index: ConfigurationDescriptor(bConfigurationValue=index + 1),
            "get_configuration": lambda *_: now[0],
            "set_configuration": lambda value: now.__setitem__(0, value),
        }
        way = transport(backend, configuration=wanted)
        way.open()
        way.close()
        assert [int(one.split()[1]) for one in backend.log if one.startswith("set_configuration")] == chosen

    def test_a_kernel_driver_that_comes_with_the_configuration(self) -> None:
        backend = Backend(QUICK)
        now, bound = [0], [True]

        def configure(value: int) -> None:
            now[0], bound[0] = value, True

        backend.rules |= {
            "get_configuration": lambda *_: now[0],
            "set_configuration": configure,
            "is_kernel_driver_active": lambda *_: bound[0],
            "detach_kernel_driver": lambda *_: bound.__setitem__(0, False),
            "attach_kernel_driver": lambda *_: None,
        }
        way = transport(backend)
        way.open()
        way.close()
        detach = "detach_kernel_driver 0"
        assert backend.log[1:5] == [detach, "set_configuration 1", detach, "claim_interface 0"]
        assert backend.log.count("attach_kernel_driver 0") == 1

    def test_to_change_the_configuration_every_interface_is_freed(self) -> None:
        backend = Backend(QUICK)
        device = replace(device_descriptor(QUICK, bus=99, address=2, port=1), bNumConfigurations=2)
        now, bound = [2], {0, 1}

        def configure(value: int) -> None:
            if bound:
                raise usb.core.USBError("Resource busy", -6, 16)
            now[0] = value

        backend.rules |= {
            "get_device_descriptor": lambda *_: device,
            "get_configuration_descriptor": lambda index: ConfigurationDescriptor(
                bConfigurationValue=index + 1, bNumInterfaces=2
            ),
            "get_interface_descriptor": lambda number, alternate, _: (InterfaceDescriptor(bInterfaceNumber=number),)[
                alternate
            ],
            "get_configuration": lambda *_: now[0],
            "set_configuration": configure,
            "is_kernel_driver_active": lambda interface: interface in bound,
            "detach_kernel_driver": bound.remove,
            "attach_kernel_driver": bound.add,
        }
        way = transport(backend, configuration=1)
        way.open()
        assert (now, bound) == ([1], set())
        way.close()
        assert bound == {0, 1}

    def test_an_alternate_setting(self) -> None:
        backend = Backend(QUICK)
        backend.rules["get_interface_descriptor"] = lambda _interface, alternate, _configuration: (
            InterfaceDescriptor(),
            InterfaceDescriptor(bAlternateSetting=1),
        )[alternate]
        way = transport(backend, alternate=1)
        way.open()
        assert backend.log[1:3] == ["claim_interface 0", "set_interface_altsetting 0 1"]
        way.close()

    def test_a_refused_start_up_gives_the_device_back(self) -> None:
        backend = Backend(QUICK)
        with pytest.raises(DeviceStalled, match=r"refused startup\[1\] \(0x40 0x4d\)"):
            transport(backend, startup=(WRITE, REFUSED, WRITE), shutdown=(READ,)).open()
        assert backend.log[-3:] == ["control 0xc0 1 8", "release_interface 0", "close_device"]
        way = transport(backend)
        way.open()
        way.close()

    def test_what_fails_keeps_no_device_alive(self) -> None:
        """A device must be gone before its libusb context is, also when somebody keeps the error."""
        backend = Backend(twin("A"), twin("B"))
        kept = []
        wishes: list[dict[str, Any]] = [{}, {"serial": "C"}, {"serial": "A", "endpoint": 0x83}]
        for wanted in wishes:
            with pytest.raises((DeviceError, UsageError)) as caught:
                transport(backend, **wanted).open()
            kept.append(caught.value)
        backend.refuse("claim_interface", -6, 16)
        with pytest.raises(DeviceBusy) as busy:
            transport(backend, serial="A").open()
        kept.append(busy.value)
        assert live_devices(backend) == []
        assert len(kept) == 4

    @pytest.mark.parametrize("wanted", [{}, {"serial": "C"}, {"serial": "A", "endpoint": 0x83}, {"serial": "A"}])
    def test_what_fails_has_let_go_of_its_devices_when_the_context_ends(
        self, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """libusb crashes if one of its devices goes after the context to which it belongs."""
        backend = Backend(twin("A"), twin("B"))
        backend.refuse("claim_interface", -6, 16)
        alive: list[int] = []
        monkeypatch.setattr(backend, "finalize", lambda: alive.append(len(live_devices(backend))))
        monkeypatch.setattr("usbcast_broker.sources.usb.transport.load_backend", lambda *_: backend)
        with pytest.raises((DeviceError, UsageError)):
            transport(None, **wanted).open()
        assert alive == [0]


class TestCommands:
    def test_control_and_write(self) -> None:
        backend = Backend(QUICK)
        way = transport(backend)
        way.open()
        assert way.control(0x40, 1, 0, 4, b"hello", 500) == 5
        assert way.control(0xC0, 1, 0, 4, 5, 500) == b"hello"
        assert way.write(0x02, b"x" * 1000, 500) == 1000
        assert backend.devices[0].out_bytes == 1000
        way.close()

    def test_what_cannot_be(self) -> None:
        backend = Backend(QUICK)
        way = transport(backend)
        way.open()
        with pytest.raises(DeviceStalled, match="refused the control transfer 0x40 0x4d 0x0001 0x0002"):
            way.control(0x40, 0x4D, 1, 2, b"", 500)
        with pytest.raises(UsageError, match="request type 0xc0 reads: give a length, not data"):
            way.control(0xC0, 1, 0, 0, b"x", 500)
        with pytest.raises(UsageError, match="request type 0x40 writes: give data, not a length"):
            way.control(0x40, 1, 0, 0, 3, 500)
        for endpoint in (0x81, 0x05):
            with pytest.raises(UsageError, match=f"has no OUT endpoint {endpoint:#04x} in use; it has 0x02"):
                way.write(endpoint, b"x", 500)
        backend.refuse("bulk_write", -7, 110)
        with pytest.raises(DeviceFailed, match="did not answer a write of 1 bytes to endpoint 0x02 in time"):
            way.write(0x02, b"x", 500)
        way.close()

    @pytest.mark.parametrize("closed", [True, False])
    def test_away(self, closed: bool) -> None:
        backend = Backend(QUICK)
        way = transport(backend)
        if not closed:
            way.open()
            backend.devices[0].unplug()
        for call in (
            way.read,
            way.clear_halt,
            lambda: way.control(0xC0, 1, 0, 0, 1, 100),
            lambda: way.write(0x02, b"x", 100),
        ):
            with pytest.raises(DeviceDetached):
                call()
        way.close()

    def test_clear_halt(self) -> None:
        backend = Backend(SimulatorConfig(rate_hz=1000, faults=(Fault(kind="stall", at_packet=0),)))
        way = transport(backend)
        way.open()
        for _ in range(2):
            with pytest.raises(DeviceStalled):
                read(way)
        way.clear_halt()
        assert read(way) == make_packets(QUICK, 0, 1)
        way.close()

    def test_a_reset_ends_in_a_closed_device_that_opens_again(self) -> None:
        backend = Backend(QUICK)
        way = transport(backend, shutdown=(WRITE,))
        way.open()
        way.reset()
        assert "control 0x40 1 8" not in backend.log
        assert backend.log.count("close_device") == backend.log.count("open_device")
        way.open()
        assert read(way) == make_packets(QUICK, 0, 1)
        way.close()

    def test_a_reset_that_fails(self) -> None:
        backend = Backend(QUICK)
        way = transport(backend)
        way.open()
        backend.refuse("reset_device", -5, 2)
        with pytest.raises(DeviceDetached, match="went away during a reset"):
            way.reset()

    def test_a_shutdown_is_tried_and_no_more(self) -> None:
        backend = Backend(QUICK)
        way = transport(backend, shutdown=(REFUSED, WRITE, WRITE))
        way.open()
        way.close()
        wrote = "control 0x40 1 8"
        assert backend.log[-5:] == ["control 0x40 77 0", wrote, wrote, "release_interface 0", "close_device"]
        way.open()
        backend.log.clear()
        backend.devices[0].unplug()
        way.close()
        assert backend.log == ["control 0x40 77 0", "release_interface 0", "close_device"]

    def test_a_shutdown_has_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("usbcast_broker.sources.usb.transport.SHUTDOWN_BUDGET_S", 0.05)
        backend = Backend(QUICK)
        timeouts: list[int] = []

        def slow(request_type: int, request: int, *rest: Any) -> Any:
            if request == 1:
                timeouts.append(rest[-1])
                time.sleep(rest[-1] / 1000)
                raise usb.core.USBTimeoutError("Operation timed out", -7, 110)
            return ...

        way = transport(backend, shutdown=(WRITE, WRITE, WRITE))
        way.open()
        backend.rules["ctrl_transfer"] = slow
        way.close()
        assert len(timeouts) == 1
        assert 0 < timeouts[0] <= 50


def test_the_system_of_this_machine_is_not_asked_for_simulated_devices() -> None:
    assert NOWHERE.attribute("99-1", "serial") == ""
    assert System().attribute("99-1", "serial") == ""

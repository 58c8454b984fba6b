"""What is plugged in, and what Linux knows about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from usb_rig import NOWHERE, Backend

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_broker.sources.usb.discovery import FoundEndpoint, list_devices
from usbcast_broker.sources.usb.system import Holder, System
from usbcast_schemas.errors import DeviceFailed

PIPES = (FoundEndpoint(0, 0, 0x81, "bulk", 512, 0xFF), FoundEndpoint(0, 0, 0x02, "bulk", 512, 0xFF))


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A machine with two devices: the second has a driver bound and is open in process 42."""
    for bus_path, texts in (("99-1", {}), ("99-2", {"serial": "S2", "manufacturer": "M2", "product": "P2"})):
        directory = tmp_path / "sys/bus/usb/devices" / bus_path
        directory.mkdir(parents=True)
        for name, text in texts.items():
            (directory / name).write_text(text + "\n")
        (tmp_path / f"sys/bus/usb/devices/{bus_path}:1.0").mkdir()
    (tmp_path / "sys/bus/usb/devices/99-2:1.0/driver").symlink_to("../../../drivers/ftdi_sio")
    nodes = tmp_path / "dev/bus/usb/099"
    nodes.mkdir(parents=True)
    for address in ("002", "003"):
        (nodes / address).touch()
    for pid in (42, 43, os.getpid()):
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/comm").write_text(f"name{pid}\n")
        (tmp_path / f"proc/{pid}/fd/0").symlink_to("/dev/null")
    for pid in (42, os.getpid()):
        (tmp_path / f"proc/{pid}/fd/5").symlink_to(nodes / "003")
    (tmp_path / "proc/43/fd/6").symlink_to(nodes)  # a directory, no device
    (tmp_path / "proc/44").mkdir()  # has ended
    (tmp_path / "proc/self").mkdir()
    return System(tmp_path)


def test_everything_about_a_device(system: System) -> None:
    one, other = list_devices(Backend(SimulatorConfig(), SimulatorConfig(serial="B")), system)
    assert one.identity == DeviceIdentity(0x1209, 1, "SIM0001", "usbcast", "simulated device", "99-1")
    assert (one.bus, one.address, one.speed, one.is_hub, one.may_open) == (99, 2, "high", False, True)
    assert one.endpoints == other.endpoints == PIPES
    assert [endpoint.direction for endpoint in PIPES] == ["in", "out"]
    assert (one.drivers, one.holders) == ((), ())
    assert other.identity.serial == "B"
    assert (other.drivers, other.holders) == (((0, "ftdi_sio"),), (Holder(42, "name42"),))


def test_a_device_that_may_not_be_opened(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("003"))
    backend = Backend(SimulatorConfig(), SimulatorConfig())
    backend.refuse("open_device", -3, 13)
    one, other = list_devices(backend, system)
    assert (one.may_open, other.may_open) == (True, False)
    assert one.identity == DeviceIdentity(0x1209, 1, bus_path="99-1")
    assert other.identity == DeviceIdentity(0x1209, 1, "S2", "M2", "P2", "99-2")
    assert other.endpoints == PIPES


def test_a_system_that_says_nothing() -> None:
    [found] = list_devices(Backend(), NOWHERE)
    assert (found.may_open, found.drivers, found.holders) == (None, (), ())
    assert found.identity.serial == "SIM0001"


def test_a_device_that_was_never_configured() -> None:
    backend = Backend()
    backend.refuse("get_configuration_descriptor", -5, 2)
    [found] = list_devices(backend, NOWHERE)
    assert found.endpoints == ()


def test_nothing_is_left_open() -> None:
    backend = Backend()
    list_devices(backend, NOWHERE)
    assert backend.log == ["open_device", "close_device"]


def test_a_bus_that_cannot_be_listed() -> None:
    backend = Backend()
    backend.refuse("get_device_descriptor", -99, None)
    with pytest.raises(DeviceFailed, match="cannot be listed: refused"):
        list_devices(backend, NOWHERE)


def test_unplugged_devices_are_not_there() -> None:
    backend = Backend(SimulatorConfig(), SimulatorConfig(serial="B"))
    backend.devices[0].unplug()
    assert [found.identity.serial for found in list_devices(backend, NOWHERE)] == ["B"]


def test_what_linux_knows(system: System) -> None:
    assert system.attribute("99-2", "serial") == "S2"
    assert system.attribute("99-1", "serial") == system.attribute("99-3", "serial") == ""
    assert (system.driver("99-2", 0), system.driver("99-2", 1), system.driver("99-1", 0)) == ("ftdi_sio", "", "")
    assert system.holders() == {(99, 3): (Holder(42, "name42"),)}
    assert str(Holder(42, "name42")) == "process 42 (name42)"
    assert system.may_open(99, 2) is True
    assert system.may_open(99, 9) is None


def test_this_machine_can_be_asked() -> None:
    assert isinstance(System().holders(), dict)


@pytest.mark.parametrize(
    ("platform", "controller", "keeps"),
    [
        ("linux", "0000:00:14.0", True),
        ("linux", "vhci_hcd.0", False),
        ("linux", "", True),
        ("darwin", "", False),
        ("win32", "", False),
    ],
)
def test_whether_a_cancelled_read_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, controller: str, keeps: bool
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    (tmp_path / "sys/bus/usb/devices").mkdir(parents=True)
    if controller:
        (tmp_path / "sys/devices" / controller / "usb3").mkdir(parents=True)
        (tmp_path / "sys/bus/usb/devices/usb3").symlink_to(tmp_path / "sys/devices" / controller / "usb3")
    assert System(tmp_path).keeps_cancelled(3) is keeps

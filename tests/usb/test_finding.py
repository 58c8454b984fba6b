"""Which of the devices that are plugged in is the one that a profile means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from usb_rig import Backend, transport, twin

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_broker.sources.usb.finding import doubt
from usbcast_broker.sources.usb.system import System
from usbcast_schemas.errors import DeviceAmbiguous, DeviceDetached, DeviceForbidden, DeviceMissing

QUICK = SimulatorConfig(rate_hz=1000)


def test_nothing_there() -> None:
    with pytest.raises(DeviceMissing, match=r"no USB device 1234:0001 is plugged in; .* usbcast devices"):
        transport(Backend(QUICK), vendor_id=0x1234).open()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"serial": "B"}, "1209:0001 with serial B is plugged in, only one at 99-1 with serial A"),
        ({"product": "x"}, "with product x is plugged in, only one at 99-1"),
        ({"bus_path": "99-2"}, "with bus path 99-2 is plugged in, only one at 99-1"),
        ({"serial": "B", "bus_path": "99-1"}, "with serial B and bus path 99-1"),
    ],
)
def test_only_another_one_there(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(DeviceMissing, match=said):
        transport(Backend(twin("A")), **wanted).open()


@pytest.mark.parametrize(
    ("wanted", "path"),
    [({"serial": "B"}, "99-2"), ({"bus_path": "99-3"}, "99-3"), ({"product": "thing"}, "99-3")],
)
def test_one_of_several(wanted: dict[str, Any], path: str) -> None:
    way = transport(Backend(twin("A"), twin("B"), twin("C", "thing")), **wanted)
    assert way.open().bus_path == path
    way.close()


@pytest.mark.parametrize(
    ("serials", "keys"), [(("A", "B"), "serial or bus_path"), (("A", "A"), "bus_path"), (("", ""), "bus_path")]
)
def test_two_that_fit(serials: tuple[str, str], keys: str) -> None:
    with pytest.raises(DeviceAmbiguous) as caught:
        transport(Backend(*map(twin, serials))).open()
    assert "one at 99-1" in str(caught.value)
    assert "one at 99-2" in str(caught.value)
    assert f"unplug all but one, or say which one by {keys} in" in str(caught.value)


def test_after_it_was_away_it_is_the_same_one() -> None:
    backend = Backend(twin("A"), twin("B"))
    backend.devices[1].unplug()
    way = transport(backend)
    assert way.open().serial == "A"
    backend.devices[0].unplug()
    backend.devices[1].plug()
    with pytest.raises(DeviceMissing) as caught:
        way.open()
    assert str(caught.value) == (
        "no USB device 1209:0001 with serial A is plugged in, only one at 99-2 with serial B; "
        "plug it in again, or another one in its place (99-1)"
    )
    backend.devices[0].plug()
    assert way.open().serial == "A"
    way.close()


@pytest.mark.parametrize("wanted", [{}, {"serial": "A"}, {"bus_path": "99-1"}, {"product": "another thing"}])
def test_another_one_in_the_very_place_takes_its_part_unless_the_profile_names_the_serial(
    wanted: dict[str, str],
) -> None:
    backend = Backend(twin("A", wanted.get("product", "simulated device")), twin("B"))
    a, b = backend.devices
    b.unplug()
    way = transport(backend, **wanted)
    assert way.open().serial == "A"
    a.unplug()
    backend.devices = (b, a)
    b.plug()
    if "serial" in wanted or "product" in wanted:
        with pytest.raises(DeviceMissing, match="only one at 99-1 with serial B"):
            way.open()
        a.plug()
        assert (way.open().serial, way.open().bus_path) == ("A", "99-2")
    else:
        assert (way.open().serial, way.open().bus_path) == ("B", "99-1")
    way.close()


def test_without_a_serial_number_it_is_the_one_at_the_same_place() -> None:
    backend = Backend(twin(""), twin(""))
    backend.devices[0].unplug()
    way = transport(backend)
    assert way.open().bus_path == "99-2"
    backend.devices[0].plug()
    assert way.open().bus_path == "99-2"
    backend.devices[1].unplug()
    assert way.open().bus_path == "99-1"
    way.close()


def test_a_serial_number_that_may_not_be_read_is_no_absence() -> None:
    backend = Backend(QUICK)
    backend.refuse("open_device", -3, 13)
    with pytest.raises(DeviceForbidden, match="udev"):
        transport(backend, serial="SIM0001").open()


def test_linux_knows_the_serial_number_too(tmp_path: Path) -> None:
    backend = Backend(twin("A"), twin("B"))
    for path, serial in (("99-1", "A"), ("99-2", "B")):
        directory = tmp_path / "sys/bus/usb/devices" / path
        directory.mkdir(parents=True)
        (directory / "serial").write_text(f"{serial}\n")
    backend.refuse("open_device", -3, 13)
    way = transport(backend, serial="B", system=System(tmp_path))
    with pytest.raises(DeviceForbidden, match="99-2"):
        way.open()
    with pytest.raises(DeviceMissing, match="only one at 99-1 with serial A, one at 99-2 with serial B"):
        transport(backend, serial="C", system=System(tmp_path)).open()


def test_a_device_that_tells_no_serial_number() -> None:
    backend = Backend(QUICK)
    backend.refuse("ctrl_transfer", -9, 32)
    with pytest.raises(DeviceMissing, match="does not report its serial number; remove serial"):
        transport(backend, serial="SIM0001").open()
    way = transport(backend)
    assert way.open().serial == ""
    way.close()


def test_gone_while_it_is_looked_at() -> None:
    backend = Backend(QUICK)
    backend.refuse("open_device", -4, 19)
    for serial in (None, "SIM0001"):
        with pytest.raises(DeviceDetached, match="went away"):
            transport(backend, serial=serial).open()


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (("A", "1-1"), ("A", "1-2"), ""),
        (("", "1-1"), ("", "1-1"), ""),
        (("", "1-1"), ("", "1-2"), "it is at 1-2, the one before was at 1-1, and neither reports a serial number"),
        (("A", "1-1"), ("B", "1-1"), "it reports serial number B, and the one before reported A"),
        (("A", "1-1"), ("", "1-1"), "it reports no serial number, and the one before reported A"),
        (("", "1-1"), ("B", "1-1"), "it reports serial number B, and the one before reported none"),
    ],
)
def test_what_proves_that_it_is_the_same_device(before: tuple[str, str], now: tuple[str, str], why: str) -> None:
    one, other = (DeviceIdentity(1, 2, serial=serial, bus_path=path) for serial, path in (before, now))
    assert doubt(one, other) == why


@pytest.mark.parametrize(
    ("serials", "said"), [(("", ""), "neither reports a serial"), (("A", "B"), "reports serial number B")]
)
def test_a_strict_profile_takes_no_other_device(serials: tuple[str, str], said: str) -> None:
    backend = Backend(*map(twin, serials))
    first, second = backend.devices
    second.unplug()
    way = transport(backend, strict=True)
    assert way.open().bus_path == "99-1"
    first.unplug()
    if serials[0]:  # another one in its very place
        backend.devices = (second, first)
    second.plug()
    with pytest.raises(DeviceMissing, match=said) as caught:
        way.open()
    assert "strict is set in the profile" in str(caught.value)
    first.plug()
    assert way.open().serial == serials[0]
    way.close()

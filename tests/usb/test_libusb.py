"""Loading libusb."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import usb.backend.libusb1
import usb.core
from usb_rig import transport

from usbcast_broker.sources.usb import libusb
from usbcast_broker.sources.usb.discovery import list_devices
from usbcast_schemas.errors import DeviceMissing, LibusbMissing


def test_each_has_a_context_of_its_own() -> None:
    one, other = libusb.load_backend(), libusb.load_backend()
    assert one.ctx.value != other.ctx.value
    one.finalize()
    assert list(other.enumerate_devices()) is not None
    other.finalize()


def test_the_wheel_serves_when_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = usb.backend.libusb1.get_backend

    def get_backend(find_library: object = None) -> object:
        asked.append(find_library)
        return real(find_library) if find_library else None

    monkeypatch.setattr(usb.backend.libusb1, "get_backend", get_backend)
    libusb.load_backend().finalize()
    libusb_package = pytest.importorskip("libusb_package")
    assert asked == [None, libusb_package.find_library]


@pytest.mark.parametrize("wheel", [None, SimpleNamespace(find_library=lambda _: None)])
def test_without_any_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, wheel: object) -> None:
    monkeypatch.setattr(usb.backend.libusb1, "get_backend", lambda **_: None)
    monkeypatch.setitem(sys.modules, "libusb_package", wheel)
    for call in (libusb.load_backend, list_devices, transport(None).open):
        with pytest.raises(LibusbMissing, match=r"or run .* -m pip install .*node"):
            call()


def test_a_libusb_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        lib = None

        def __init__(self, _: object) -> None:
            raise usb.core.USBError("Other error", -99, None)

    shared = object.__new__(Broken)
    monkeypatch.setattr(usb.backend.libusb1, "get_backend", lambda **_: shared)
    with pytest.raises(LibusbMissing, match="cannot reach the USB of this machine: Other error"):
        libusb.load_backend()


def test_on_this_machine() -> None:
    assert all(device.bus for device in list_devices())
    missing = transport(None, vendor_id=0x1209, product_id=0xFFFE)
    for _ in range(2):
        with pytest.raises(DeviceMissing, match="no USB device 1209:fffe is plugged in"):
            missing.open()

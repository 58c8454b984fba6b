"""What pyusb raises, and what becomes of it."""

from __future__ import annotations

import errno

import pytest
import usb.core

from usbcast_broker.sources.usb.errors import busy, device_error, forbidden
from usbcast_schemas.errors import (
    DeviceBusy,
    DeviceDetached,
    DeviceError,
    DeviceFailed,
    DeviceForbidden,
    DeviceOverflowed,
    DeviceStalled,
)

# docs/usb.md has the same table: what libusb says, and the error of usbcast.
TABLE = [
    (-1, errno.EIO, DeviceFailed),
    (-2, errno.EINVAL, DeviceFailed),
    (-3, errno.EACCES, DeviceForbidden),
    (-4, errno.ENODEV, DeviceDetached),
    (-5, errno.ENOENT, DeviceDetached),
    (-6, errno.EBUSY, DeviceBusy),
    (-7, errno.ETIMEDOUT, DeviceFailed),
    (-8, errno.EOVERFLOW, DeviceOverflowed),
    (-9, errno.EPIPE, DeviceStalled),
    (-10, errno.EINTR, DeviceFailed),
    (-99, None, DeviceFailed),
    (None, None, DeviceFailed),
]


@pytest.mark.parametrize(("code", "number", "kind"), TABLE)
def test_by_libusbs_code(code: int | None, number: int | None, kind: type[DeviceError]) -> None:
    error = device_error(usb.core.USBError("Words", code, number), "device 1209:0001", "a read")
    assert type(error) is kind
    assert "device 1209:0001" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("code", "number", "kind"), [row for row in TABLE if row[0] not in (-2, -10, -99, None)])
def test_by_errno_where_the_backend_has_codes_of_its_own(code: int, number: int, kind: type[DeviceError]) -> None:
    assert type(device_error(usb.core.USBError("Words", None, number), "d", "a read")) is kind
    assert type(device_error(usb.core.USBError("Words", -12345, number), "d", "a read")) is kind


def test_libusbs_code_comes_first() -> None:
    assert type(device_error(usb.core.USBError("Words", -9, errno.ENODEV), "d", "a read")) is DeviceStalled


def test_what_the_system_cannot_carry() -> None:
    said = str(device_error(usb.core.USBError("Invalid parameter", -2, 22), "d", "the control transfer 0xc0"))
    assert "cannot carry it" in said
    assert "4096" in said


def test_words_of_an_unknown_failure_are_passed_on() -> None:
    assert "Configuration not set" in str(device_error(usb.core.USBError("Configuration not set"), "d", "a read"))


def test_forbidden_says_what_to_write_where() -> None:
    sentence = str(forbidden("device 0403:6001", 0x0403, "/dev/bus/usb/001/004"))
    assert 'SUBSYSTEM=="usb", ATTR{idVendor}=="0403", MODE="0666"' in sentence
    assert "/etc/udev/rules.d/70-usbcast.rules" in sentence
    assert "/dev/bus/usb/001/004" in sentence


def test_busy_says_who() -> None:
    assert "held by the kernel driver ftdi_sio" in str(busy("d", "the kernel driver ftdi_sio"))
    assert "held by another program" in str(busy("d", ""))

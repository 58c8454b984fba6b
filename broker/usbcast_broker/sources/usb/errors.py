"""The one place where what pyusb raises becomes an error of usbcast."""

from __future__ import annotations

import errno
from enum import Enum, auto
from typing import Final

import usb.core

from usbcast_schemas.errors import (
    DeviceBusy,
    DeviceDetached,
    DeviceError,
    DeviceFailed,
    DeviceForbidden,
    DeviceOverflowed,
    DeviceStalled,
)


class Cause(Enum):
    """What went wrong, whatever the operating system calls it."""

    IO = auto()
    FORBIDDEN = auto()
    GONE = auto()
    NOT_FOUND = auto()
    BUSY = auto()
    TIMEOUT = auto()
    OVERFLOW = auto()
    STALL = auto()
    IMPOSSIBLE = auto()
    OTHER = auto()


# libusb's own codes are equal everywhere; errno numbers differ by system and stand in for other backends only.
_BY_CODE: Final = {
    -2: Cause.IMPOSSIBLE,
    -1: Cause.IO,
    -3: Cause.FORBIDDEN,
    -4: Cause.GONE,
    -5: Cause.NOT_FOUND,
    -6: Cause.BUSY,
    -7: Cause.TIMEOUT,
    -8: Cause.OVERFLOW,
    -9: Cause.STALL,
}
_BY_ERRNO: Final = {
    errno.EIO: Cause.IO,
    errno.EACCES: Cause.FORBIDDEN,
    errno.EPERM: Cause.FORBIDDEN,
    errno.ENODEV: Cause.GONE,
    errno.ENXIO: Cause.GONE,
    errno.ENOENT: Cause.NOT_FOUND,
    errno.EBUSY: Cause.BUSY,
    errno.ETIMEDOUT: Cause.TIMEOUT,
    errno.EOVERFLOW: Cause.OVERFLOW,
    errno.EPIPE: Cause.STALL,
}


def cause_of(error: usb.core.USBError) -> Cause:
    if isinstance(error, usb.core.USBTimeoutError):
        return Cause.TIMEOUT
    return _BY_CODE.get(error.backend_error_code) or _BY_ERRNO.get(error.errno, Cause.OTHER)


def device_error(error: usb.core.USBError, device: str, doing: str) -> DeviceError:
    """The error of usbcast for one of pyusb's; `device` and `doing` name them: "device 1209:0001" and "a read"."""
    match cause_of(error):
        case Cause.GONE | Cause.NOT_FOUND:
            return DeviceDetached(f"{device} went away during {doing}; plug it in again")
        case Cause.STALL:
            return DeviceStalled(f"{device} refused {doing}: it answered with a stall")
        case Cause.OVERFLOW:
            return DeviceOverflowed(
                f"{device} sent more than {doing} had room for, and that data is gone; raise transfer.size in the profile"
            )
        case Cause.FORBIDDEN:
            return DeviceForbidden(f"this user may not use {device}")
        case Cause.BUSY:
            return DeviceBusy(f"{device} is in use by another program; end that one and try again")
        case Cause.IMPOSSIBLE:
            return DeviceFailed(
                f"{device} was not asked for {doing}: this system cannot carry it; on Linux a control transfer has at most "
                "4096 bytes, so divide it"
            )
        case Cause.TIMEOUT:
            return DeviceFailed(f"{device} did not answer {doing} in time; check the device, or plug it in again")
        case _:
            words = error.strerror or str(error)
            return DeviceFailed(f"{device} failed during {doing}: {words}; check cable, hub and power")


def forbidden(device: str, vendor_id: int, node: str) -> DeviceForbidden:
    """The sentence for a device that may not be opened, with the rule that allows it. `node` is its device file."""
    rule = f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor_id:04x}", MODE="0666"'
    where = f" (you may not write to its device file {node})" if node else ""
    return DeviceForbidden(
        f"this user may not open {device}{where}: put the line {rule} into /etc/udev/rules.d/70-usbcast.rules, "
        "run udevadm control --reload and plug the device in again"
    )


def busy(device: str, holders: str) -> DeviceBusy:
    """The sentence for a device that somebody holds: "the kernel driver ftdi_sio", "process 12 (python3)", or unknown."""
    if holders:
        return DeviceBusy(f"{device} is held by {holders}; end it or unbind it, and try again")
    return DeviceBusy(f"{device} is held by another program; end that one, and try again")

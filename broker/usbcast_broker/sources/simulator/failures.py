"""The exceptions that pyusb's libusb backend raises, with the same type, numbers and words."""

from __future__ import annotations

import errno
from typing import Final

import usb.core

IO, ACCESS, GONE, NOT_FOUND, BUSY, TIMEOUT, OVERFLOW, STALL = -1, -3, -4, -5, -6, -7, -8, -9

_KNOWN: Final = {
    IO: (errno.EIO, "Input/Output Error"),
    ACCESS: (errno.EACCES, "Access denied (insufficient permissions)"),
    GONE: (errno.ENODEV, "No such device (it may have been disconnected)"),
    NOT_FOUND: (errno.ENOENT, "Entity not found"),
    BUSY: (errno.EBUSY, "Resource busy"),
    TIMEOUT: (errno.ETIMEDOUT, "Operation timed out"),
    OVERFLOW: (errno.EOVERFLOW, "Overflow"),
    STALL: (errno.EPIPE, "Pipe error"),
}


def usb_error(code: int) -> usb.core.USBError:
    """The exception for a libusb error code."""
    number, words = _KNOWN[code]
    kind = usb.core.USBTimeoutError if code == TIMEOUT else usb.core.USBError
    return kind(words, code, number)

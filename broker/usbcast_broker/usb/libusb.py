"""Loads libusb: the system's, else the one that comes as the package libusb-package."""

from __future__ import annotations

from typing import Any

import usb.backend.libusb1
import usb.core

from usbcast_schemas.errors import LibusbMissing

_MISSING = (
    "libusb is not on this machine: install it (Debian and Ubuntu: apt install libusb-1.0-0, macOS: brew install "
    "libusb), or run pip install libusb-package"
)


def load_backend() -> usb.backend.IBackend:
    """A pyusb backend with a libusb context of its own, or LibusbMissing.

    Of its own, because without udevd a context never sees a device that was plugged in after it was made. Its devices
    must be gone before it is: call `finalize()` on it last.
    """
    shared = _shared()
    if shared is None:
        raise LibusbMissing(_MISSING)
    try:
        return type(shared)(shared.lib)
    except usb.core.USBError as error:
        words = error.strerror
    raise LibusbMissing(f"libusb cannot reach the USB of this machine: {words}; in a container, pass /dev/bus/usb in")


def _shared() -> Any:
    """The backend that pyusb itself would use, loaded once in a process."""
    backend = usb.backend.libusb1.get_backend()
    if backend is not None:
        return backend
    try:
        import libusb_package
    except ImportError:
        return None
    return usb.backend.libusb1.get_backend(find_library=libusb_package.find_library)

"""Loads libusb: the system's, else the one that comes as the package libusb-package."""

from __future__ import annotations

import logging
from typing import Any

import usb.backend.libusb1
import usb.core

from usbcast_broker.sources.usb.readahead import Figures
from usbcast_schemas.errors import LibusbMissing
from usbcast_schemas.extras import install

log = logging.getLogger(__name__)

_warned: list[str] = []


def load_backend(queue: int = 1, figures: Figures | None = None) -> usb.backend.IBackend:
    """A pyusb backend with a libusb context of its own, or LibusbMissing.

    With `queue` above 1 it keeps so many reads queued, and counts in `figures`. Where that cannot be had, it is plain
    pyusb: one warning a process says so.

    Of its own, because without udevd a context never sees a device that was plugged in after it was made. Its devices
    must be gone before it is: call `finalize()` on it last.
    """
    shared = _shared()
    if shared is None:
        raise LibusbMissing(
            "libusb is not installed: install it (Debian and Ubuntu: apt install libusb-1.0-0, macOS: brew install "
            f"libusb), or run {install('node')}"
        )
    try:
        if queue > 1:
            try:
                from usbcast_broker.sources.usb.queued_backend import QueuedBackend

                return QueuedBackend(shared.lib, queue, figures or Figures())
            except AttributeError as error:
                _warn_unqueued(str(error))
        return type(shared)(shared.lib)
    except usb.core.USBError as error:
        words = error.strerror
    raise LibusbMissing(f"libusb cannot reach the USB of this machine: {words}; in a container, pass /dev/bus/usb in")


def _warn_unqueued(why: str) -> None:
    """Say once that reads are not queued."""
    if not _warned:
        _warned.append(why)
        log.warning(
            "reads are not queued, because this version of pyusb or libusb is unknown (%s): devices with small buffers may "
            "lose packets; install pyusb 1.2.1 to 1.3.1",
            why,
        )


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

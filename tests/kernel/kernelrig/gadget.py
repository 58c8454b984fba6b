"""Devices that the guest's kernel makes itself (USB gadgets on dummy_hcd): a source and sink, and a serial port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from kernelrig.guest import Guest

SOURCE, SINK = 0x81, 0x02
"""The endpoints of source and sink."""

PATTERN: NDArray[np.uint8] = (np.arange(512) % 63).astype(np.uint8)
"""Byte i of each USB packet is i modulo 63 (the function's pattern 1): so the source sends, and so the sink wants it."""

_PLUG = """
modprobe -a dummy_hcd libcomposite usb_f_{module}
mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
mkdir /sys/kernel/config/usb_gadget/made && cd /sys/kernel/config/usb_gadget/made
echo 0x{vendor:04x} > idVendor; echo 0x{product:04x} > idProduct
mkdir strings/0x409 configs/c.1 functions/{function}.0
echo {function} > strings/0x409/product
{settings}
ln -s functions/{function}.0 configs/c.1
ls /sys/class/udc > UDC
until grep -qsx {vendor:04x} /sys/bus/usb/devices/*/idVendor; do sleep 0.1; done; udevadm settle
"""
_UNPLUG = """
cd /sys/kernel/config/usb_gadget/made
echo > UDC
rm configs/c.1/{function}.0; rmdir configs/c.1 strings/0x409 functions/{function}.0
cd ..; rmdir made
"""


def source_and_sink(guest: Guest) -> AbstractContextManager[None]:
    """0525:a4a0, plugged in for as long."""
    return _gadget(
        guest, 0x0525, 0xA4A0, module="ss_lb", function="SourceSink", settings="echo 1 > functions/SourceSink.0/pattern"
    )


@contextlib.contextmanager
def serial_port(guest: Guest) -> Iterator[str]:
    """2e8a:000a, a serial port of the class CDC-ACM, plugged in for as long; the device's own end of it, in the guest."""
    with _gadget(guest, 0x2E8A, 0x000A, module="acm", function="acm"):
        yield "/dev/ttyGS0"


@contextlib.contextmanager
def _gadget(
    guest: Guest, vendor: int, product: int, *, module: str, function: str, settings: str = ""
) -> Iterator[None]:
    names = {"vendor": vendor, "product": product, "module": module, "function": function, "settings": settings}
    guest.shell(_PLUG.format(**names))
    try:
        yield
    finally:
        guest.shell(_UNPLUG.format(**names))

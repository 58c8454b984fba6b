"""The kernel's own source and sink (usb_f_ss_lb on dummy_hcd), in the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kernelrig.guest import Guest

SOURCE, SINK = 0x81, 0x02
"""Its endpoints."""

PATTERN: NDArray[np.uint8] = (np.arange(512) % 63).astype(np.uint8)
"""Byte i of each USB packet is i modulo 63 (the function's pattern 1): so the source sends, and so the sink wants it."""

_PLUG = """
modprobe -a dummy_hcd libcomposite usb_f_ss_lb
mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
mkdir /sys/kernel/config/usb_gadget/source && cd /sys/kernel/config/usb_gadget/source
echo 0x0525 > idVendor; echo 0xa4a0 > idProduct
mkdir strings/0x409 configs/c.1 functions/SourceSink.0
echo source > strings/0x409/product
echo 1 > functions/SourceSink.0/pattern
ln -s functions/SourceSink.0 configs/c.1
ls /sys/class/udc > UDC
until grep -qsx 0525 /sys/bus/usb/devices/*/idVendor; do sleep 0.1; done; udevadm settle
"""
_UNPLUG = """
cd /sys/kernel/config/usb_gadget/source
echo > UDC
rm configs/c.1/SourceSink.0; rmdir configs/c.1 strings/0x409 functions/SourceSink.0
cd ..; rmdir source
"""


@contextlib.contextmanager
def source_and_sink(guest: Guest) -> Iterator[None]:
    """0525:a4a0, plugged in for as long."""
    guest.shell(_PLUG)
    try:
        yield
    finally:
        guest.shell(_UNPLUG)

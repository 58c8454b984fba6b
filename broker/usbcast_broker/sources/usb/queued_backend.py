"""Pyusb's libusb backend, with endpoints that are read ahead: everything is pyusb's own but what meets queued reads.

`open_reader` gives a reader of an endpoint. While there is one, commands are transfers of the same context, so that reads stay
queued until the device has answered; and a call that would end or invalidate queued reads ends their reader first.
Rule: one thread uses it, from the opening of a device to its closing.
"""

from __future__ import annotations

import struct
from array import array
from typing import Any, Final

from usb.backend import libusb1

from usbcast_broker.sources.usb.clock import Clock, system_clock
from usbcast_broker.sources.usb.endpoint_reader import Deliver
from usbcast_broker.sources.usb.libusb_transfers import BULK, CONTROL, INTERRUPT, AsyncTransfer, Library
from usbcast_broker.sources.usb.queued_reader import QueueContext, QueuedReader, dispose
from usbcast_broker.sources.usb.read_sizes import ReadSizes
from usbcast_broker.sources.usb.readahead import Figures

_IN: Final = 0x80
_SETUP: Final = struct.Struct("<BBHHH")
_TIMEOUT: Final = -7


class QueuedBackend(libusb1._LibUSB):  # type: ignore[misc]
    """A backend with a libusb context of its own, for one device at a time.

    Of pyusb's own it relies on `lib`, `ctx`, the handle's `handle`, and `_check`, which raises; AttributeError if one
    is missing.
    """

    def __init__(self, lib: Any, queue: int, figures: Figures, clock: Clock = system_clock) -> None:
        self._context = QueueContext(Library(lib), libusb1._check, figures, clock)
        self._queue = queue
        self._claimed: dict[int, Any] = {}
        """The handle by which pyusb has claimed each interface."""
        super().__init__(lib)
        self._context.open(self.ctx)

    def open_reader(
        self, interface: int, address: int, kind: int, sizes: ReadSizes, deliver: Deliver | None = None
    ) -> QueuedReader:
        """Return a reader of an endpoint whose interface pyusb has claimed; `kind` is BULK or INTERRUPT.

        `deliver` takes what is read while a command is under way; without it the next read returns that.
        """
        return QueuedReader(self._context, self._claimed[interface], address, kind, sizes, self._queue, deliver)

    def _finalize_object(self) -> None:
        if hasattr(self, "ctx"):  # an object that was not made whole is finalized as well
            self._context.close()
        super()._finalize_object()

    def bulk_write(self, dev_handle: Any, ep: int, intf: int, data: array[int], timeout: int) -> int:
        if not self._context.readers:
            return int(super().bulk_write(dev_handle, ep, intf, data, timeout))
        return self._write(BULK, dev_handle, ep, data, timeout)

    def intr_write(self, dev_handle: Any, ep: int, intf: int, data: array[int], timeout: int) -> int:
        if not self._context.readers:
            return int(super().intr_write(dev_handle, ep, intf, data, timeout))
        return self._write(INTERRUPT, dev_handle, ep, data, timeout)

    def ctrl_transfer(
        self,
        dev_handle: Any,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[int],
        timeout: int,
    ) -> int:
        if not self._context.readers:
            return int(super().ctrl_transfer(dev_handle, bmRequestType, bRequest, wValue, wIndex, data, timeout))
        view = memoryview(data).cast("B")
        setup = _SETUP.pack(bmRequestType, bRequest, wValue, wIndex, len(view))
        content = bytes(len(view)) if bmRequestType & _IN else view.tobytes()
        transfer = AsyncTransfer(self._context.library, dev_handle.handle, CONTROL, 0, setup + content, timeout)
        try:
            self._context.check(self._context.carry_out(transfer))
            size = transfer.actual_length
            if bmRequestType & _IN:
                view[:size] = transfer.content(_SETUP.size, size)
        finally:
            dispose(transfer)
        return size

    def claim_interface(self, dev_handle: Any, intf: int) -> None:
        super().claim_interface(dev_handle, intf)
        self._claimed[intf] = dev_handle

    def release_interface(self, dev_handle: Any, intf: int) -> None:
        self._claimed.pop(intf, None)
        self._context.end_readers(dev_handle)
        super().release_interface(dev_handle, intf)

    def set_configuration(self, dev_handle: Any, config_value: int) -> None:
        self._context.end_readers(dev_handle)
        super().set_configuration(dev_handle, config_value)

    def set_interface_altsetting(self, dev_handle: Any, intf: int, altsetting: int) -> None:
        self._context.end_readers(dev_handle)
        super().set_interface_altsetting(dev_handle, intf, altsetting)

    def clear_halt(self, dev_handle: Any, ep: int) -> None:
        # Host controllers refuse this for an endpoint with transfers queued.
        for reader in self._context.readers:
            if (reader.handle, reader.address) == (dev_handle, ep):
                reader.halt(0.0)
        super().clear_halt(dev_handle, ep)

    def reset_device(self, dev_handle: Any) -> None:
        self._context.end_readers(dev_handle)
        super().reset_device(dev_handle)

    def close_device(self, dev_handle: Any) -> None:
        self._context.end_readers(dev_handle)
        super().close_device(dev_handle)

    def _write(self, kind: int, handle: Any, address: int, data: array[int], timeout_ms: int) -> int:
        transfer = AsyncTransfer(self._context.library, handle.handle, kind, address, data.tobytes(), timeout_ms)
        try:
            code = self._context.carry_out(transfer)
            size = transfer.actual_length
            if not (size and code == _TIMEOUT):  # as pyusb: a part may have been taken before the time was up
                self._context.check(code)
        finally:
            dispose(transfer)
        return size

"""A backend of pyusb that reads ahead: it answers reads from transfers that are always queued at the operating system.

Everything else is pyusb's own libusb backend. Rule: one thread uses it, from the opening of a device to its closing.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from usb.backend import libusb1

from usbcast_broker.sources.usb.clock import Clock, system_clock
from usbcast_broker.sources.usb.libusb_transfers import BULK, CONTROL, INTERRUPT, AsyncTransfer, Library
from usbcast_broker.sources.usb.read_sizes import ReadSizes
from usbcast_broker.sources.usb.readahead import CANCELLED, IO_ERROR, Failure, Figures, ReadAhead, Reading

log = logging.getLogger(__name__)

CANCEL_S: Final = 1.0
"""The operating system ends a cancelled transfer at once; one that it does not end in so long is given up."""
LONGEST_WAIT_S: Final = 1.0

_IN: Final = 0x80
_SETUP: Final = struct.Struct("<BBHHH")
_TIMEOUT: Final = -7
_INTERRUPTED: Final = -10

_given_up: list[AsyncTransfer] = []
"""Transfers that never ended: libusb may still write to them."""


@dataclass
class _Endpoint:
    """An endpoint that is read ahead."""

    handle: Any
    address: int
    size: int
    slots: list[AsyncTransfer]
    ahead: ReadAhead
    halted: bool = False


class QueuedBackend(libusb1._LibUSB):  # type: ignore[misc]
    """Begins to read an endpoint ahead at its first read, with transfers of that read's size, or smaller by `read_sizes`.

    Of pyusb's own it relies on `lib`, `ctx`, the handle's `handle`, and `_check`, which raises; AttributeError if one
    is not there.
    """

    def __init__(self, lib: Any, queue: int, figures: Figures, clock: Clock = system_clock) -> None:
        # First, because an object that was not made whole is finalized as well.
        self._lock = threading.Lock()
        self._context: Any = None
        self._library = Library(lib)
        self._check = libusb1._check
        self._queue = queue
        self._figures = figures
        self._clock = clock
        self._endpoints: list[_Endpoint] = []
        self._looked_ns = 0
        self._woken = False
        self.read_sizes: ReadSizes | None = None
        """How large transfers are for reads of its largest size; None: as large as the first read."""
        self.last_reading: Reading | None = None
        """What the last read returned, with its time."""
        self.meanwhile: Callable[[list[Reading]], None] | None = None
        """Takes what is read while a command is under way, so that nobody waits for its answer but who asked."""
        super().__init__(lib)
        self._context = self.ctx

    def wake(self) -> None:
        """End a read that waits with the error of a timeout; from any thread."""
        self._woken = True
        with self._lock:
            if self._context is not None:
                self._library.interrupt(self._context)

    def take_ready(self) -> list[Reading]:
        """What has been read beyond the last read's answer, in order, up to a failure; never waits."""
        return [reading for endpoint in self._endpoints for reading in endpoint.ahead.take_readings()]

    def finish(self, timeout_s: float) -> list[Reading]:
        """End the reading ahead: submit no more, give what is queued so long to end, cancel the rest.

        Returns what was read and nobody has taken, in order.
        """
        return [reading for endpoint in list(self._endpoints) for reading in self._end(endpoint, timeout_s)]

    def _finalize_object(self) -> None:
        with self._lock:
            self._context = None
        super()._finalize_object()

    def bulk_read(self, dev_handle: Any, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        if not ep & _IN:
            return int(super().bulk_read(dev_handle, ep, intf, buff, timeout))
        return self._read(BULK, dev_handle, ep, buff, timeout)

    def intr_read(self, dev_handle: Any, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        if not ep & _IN:
            return int(super().intr_read(dev_handle, ep, intf, buff, timeout))
        return self._read(INTERRUPT, dev_handle, ep, buff, timeout)

    def bulk_write(self, dev_handle: Any, ep: int, intf: int, data: array[int], timeout: int) -> int:
        if not self._endpoints:
            return int(super().bulk_write(dev_handle, ep, intf, data, timeout))
        return self._write(BULK, dev_handle, ep, data, timeout)

    def intr_write(self, dev_handle: Any, ep: int, intf: int, data: array[int], timeout: int) -> int:
        if not self._endpoints:
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
        if not self._endpoints:
            return int(super().ctrl_transfer(dev_handle, bmRequestType, bRequest, wValue, wIndex, data, timeout))
        view = memoryview(data).cast("B")
        setup = _SETUP.pack(bmRequestType, bRequest, wValue, wIndex, len(view))
        content = bytes(len(view)) if bmRequestType & _IN else view.tobytes()
        transfer = AsyncTransfer(self._library, dev_handle.handle, CONTROL, 0, setup + content, timeout)
        try:
            self._check(self._carry_out(transfer))
            size = transfer.actual_length
            if bmRequestType & _IN:
                view[:size] = transfer.content(_SETUP.size, size)
        finally:
            self._dispose(transfer)
        return size

    def set_configuration(self, dev_handle: Any, config_value: int) -> None:
        self._end_all(dev_handle)
        super().set_configuration(dev_handle, config_value)

    def set_interface_altsetting(self, dev_handle: Any, intf: int, altsetting: int) -> None:
        self._end_all(dev_handle)
        super().set_interface_altsetting(dev_handle, intf, altsetting)

    def release_interface(self, dev_handle: Any, intf: int) -> None:
        self._end_all(dev_handle)
        super().release_interface(dev_handle, intf)

    def clear_halt(self, dev_handle: Any, ep: int) -> None:
        # Host controllers refuse this for an endpoint with transfers queued.
        for endpoint in self._endpoints:
            if (endpoint.handle, endpoint.address) == (dev_handle, ep):
                self._halt(endpoint, 0.0)
        super().clear_halt(dev_handle, ep)

    def reset_device(self, dev_handle: Any) -> None:
        self._end_all(dev_handle)
        super().reset_device(dev_handle)

    def close_device(self, dev_handle: Any) -> None:
        self._end_all(dev_handle)
        super().close_device(dev_handle)

    def _read(self, kind: int, handle: Any, address: int, buffer: array[int], timeout_ms: int) -> int:
        room = memoryview(buffer).cast("B")
        endpoint = self._endpoint(kind, handle, address, len(room))
        ahead = endpoint.ahead
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + timeout_ms * 1_000_000 if timeout_ms else None
        if ahead.waiting > self._queue:
            self._handle_events(0.0)
        outcome = ahead.take(now_ns)
        while outcome is None:
            wait_s = LONGEST_WAIT_S
            if deadline_ns is not None:
                wait_s = min(wait_s, (deadline_ns - now_ns) / 1e9)
                if wait_s <= 0:
                    self._check(_TIMEOUT)
            if self._woken:
                self._woken = False
                self._check(_TIMEOUT)
            self._handle_events(wait_s)
            now_ns = time.monotonic_ns()
            outcome = ahead.take(now_ns)
        if isinstance(outcome, Failure):
            self._check(outcome.code)
            raise AssertionError(f"{outcome.code} is not a failure")
        if len(outcome.data) > len(room):
            ahead.put_back(replace(outcome, data=outcome.data[len(room) :]))
            outcome = replace(outcome, data=outcome.data[: len(room)])
        self.last_reading = outcome
        size = len(outcome.data)
        room[:size] = outcome.data
        return size

    def _endpoint(self, kind: int, handle: Any, address: int, size: int) -> _Endpoint:
        """The endpoint, being read ahead with transfers of this size."""
        for endpoint in self._endpoints:
            if endpoint.handle is handle and endpoint.address == address:
                if endpoint.size != size:
                    kept = self._end(endpoint, 0.0)
                    break
                if endpoint.halted:
                    endpoint.halted = False
                    endpoint.ahead.resume()
                return endpoint
        else:
            kept = []
        sizes = self.read_sizes
        if sizes is None or sizes.most_bytes != size:
            sizes = ReadSizes(size)
        count, first_size = sizes.reads(self._queue), sizes.next_bytes
        slots = [AsyncTransfer(self._library, handle.handle, kind, address, first_size) for _ in range(count)]
        endpoint = _Endpoint(handle, address, size, slots, ReadAhead(slots, self._figures, sizes, self._queue))
        for reading in reversed(kept):
            endpoint.ahead.put_back(reading)
        self._endpoints.append(endpoint)
        self._looked_ns = time.monotonic_ns()
        return endpoint

    def _write(self, kind: int, handle: Any, address: int, data: array[int], timeout_ms: int) -> int:
        transfer = AsyncTransfer(self._library, handle.handle, kind, address, data.tobytes(), timeout_ms)
        try:
            code = self._carry_out(transfer)
            size = transfer.actual_length
            if not (size and code == _TIMEOUT):  # as pyusb: a part may have been taken before the time was up
                self._check(code)
        finally:
            self._dispose(transfer)
        return size

    def _carry_out(self, transfer: AsyncTransfer) -> int:
        """Submit it and wait for its end, while the reading goes on; return its code."""
        code = transfer.submit()
        if code:
            return code
        while (completion := transfer.completion()) is None:
            self._handle_events(LONGEST_WAIT_S)
            if self.meanwhile is not None and (readings := self.take_ready()):
                self.meanwhile(readings)
        return IO_ERROR if completion.code == CANCELLED else completion.code

    def _handle_events(self, timeout_s: float) -> None:
        """Wait for events, no longer than until a read has to be ended, and take over what they bring.

        A read is ended only after a look at what has ended by itself: nobody may have looked for long.
        """
        begin_ns = time.monotonic_ns()
        for endpoint in self._endpoints:
            if (deadline_ns := endpoint.ahead.deadline_ns) is not None:
                timeout_s = min(timeout_s, max(0.0, (deadline_ns - begin_ns) / 1e9))
        code = self._library.handle_events(self._context, timeout_s)
        realtime_ns, monotonic_ns = self._clock()
        away_ns = begin_ns - self._looked_ns
        for endpoint in self._endpoints:
            endpoint.ahead.collect(realtime_ns, monotonic_ns, away_ns)
            endpoint.ahead.end_overdue(monotonic_ns)
        self._looked_ns = monotonic_ns
        if code != _INTERRUPTED:
            self._check(code)

    def _end_all(self, handle: Any) -> None:
        """Before a call that ends or invalidates what is queued."""
        for endpoint in list(self._endpoints):
            if endpoint.handle is handle:
                self._figures.discarded_bytes += sum(len(reading.data) for reading in self._end(endpoint, 0.0))

    def _end(self, endpoint: _Endpoint, timeout_s: float) -> list[Reading]:
        self._halt(endpoint, timeout_s)
        self._endpoints.remove(endpoint)
        given_up = endpoint.ahead.abandon()
        for slot in endpoint.slots:
            if slot in given_up:
                log.warning(
                    "a cancelled transfer did not end; its buffer of up to %d bytes is never freed", endpoint.size
                )
                _given_up.append(slot)
            else:
                slot.free()
        return endpoint.ahead.rest()

    def _halt(self, endpoint: _Endpoint, timeout_s: float) -> None:
        """Let what is queued end, and cancel what has not in so long."""
        endpoint.halted = True
        endpoint.ahead.halt()
        self._wait_until_idle(endpoint.ahead, timeout_s)
        endpoint.ahead.cancel()
        self._wait_until_idle(endpoint.ahead, CANCEL_S)

    def _wait_until_idle(self, ahead: ReadAhead, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while ahead.in_flight and (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(libusb1.USBError):
                self._handle_events(left_s)

    def _dispose(self, transfer: AsyncTransfer) -> None:
        """Free a transfer of which it is sure that it is not under way."""
        if transfer.completion() is None:
            _given_up.append(transfer)
        else:
            transfer.free()

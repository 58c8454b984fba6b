"""Reads of an endpoint that are always queued at the operating system, and the libusb context that carries them.

A context has one queue of events for all of its transfers, whatever they are for, and `QueueContext.handle_events` is the only
place that looks at it. So whoever waits, for a read or for a command's answer, also takes over the reads that have ended in the
meantime and queues new ones. The three who wait:

- `QueuedReader.read`, for data;
- `QueueContext.carry_out`, for a command: what is read meanwhile goes to the readers' `deliver`, so that no subscriber waits for
  the device's answer;
- `QueuedReader.finish` and `halt`, for the end of the reads that they cancel.

One thread does all of this, from the opening of the device to its closing. Only `wake` comes from other threads: it sets a flag,
then interrupts the wait for events, under the lock that `close` takes before libusb frees the context.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import usb.core

from usbcast_broker.flow import Transfer
from usbcast_broker.sources.usb.clock import Clock
from usbcast_broker.sources.usb.endpoint_reader import Deliver
from usbcast_broker.sources.usb.libusb_transfers import AsyncTransfer, Library
from usbcast_broker.sources.usb.read_sizes import ReadSizes
from usbcast_broker.sources.usb.readahead import CANCELLED, IO_ERROR, NO_DEVICE, Failure, Figures, ReadAhead

log = logging.getLogger(__name__)

CANCEL_S: Final = 1.0
"""The operating system ends a cancelled transfer at once; one that it has not ended by then is given up."""
LONGEST_WAIT_S: Final = 1.0

_INTERRUPTED: Final = -10

_given_up: list[AsyncTransfer] = []
"""Transfers that never ended: libusb may still write to them."""


class QueueContext:
    """A libusb context: its events, its readers, and the commands that are carried out while they read."""

    def __init__(self, library: Library, check: Callable[[int], object], figures: Figures, clock: Clock) -> None:
        """`check` raises pyusb's error for a code of libusb."""
        self.library = library
        self.check = check
        self.figures = figures
        self.readers: list[QueuedReader] = []
        self._clock = clock
        self._lock = threading.Lock()
        self._context: Any = None
        self._looked_ns = 0

    def open(self, context: Any) -> None:
        """Use this context of libusb."""
        self._context = context

    def close(self) -> None:
        """Forget the context: libusb is about to free it."""
        with self._lock:
            self._context = None

    def interrupt(self) -> None:
        """End a wait for events; from any thread."""
        with self._lock:
            if self._context is not None:
                self.library.interrupt(self._context)

    def add(self, reader: QueuedReader) -> None:
        """Take over what this reader's transfers bring, from now on."""
        self.readers.append(reader)
        self._looked_ns = time.monotonic_ns()

    def end_readers(self, handle: Any) -> None:
        """End the readers of this device, before a call that would end or invalidate their transfers."""
        for reader in list(self.readers):
            if reader.handle is handle:
                self.figures.discarded_bytes += sum(len(transfer.data) for transfer in reader.finish(0.0))

    def handle_events(self, timeout_s: float) -> None:
        """Wait for events, no longer than until a read has to be ended, and take over what they bring.

        A read is ended only after a look at what has ended by itself: nobody may have looked for long.
        """
        begin_ns = time.monotonic_ns()
        for reader in self.readers:
            if (deadline_ns := reader.ahead.deadline_ns) is not None:
                timeout_s = min(timeout_s, max(0.0, (deadline_ns - begin_ns) / 1e9))
        code = self.library.handle_events(self._context, timeout_s)
        realtime_ns, monotonic_ns = self._clock()
        away_ns = begin_ns - self._looked_ns
        for reader in self.readers:
            reader.ahead.collect(realtime_ns, monotonic_ns, away_ns)
            reader.ahead.end_overdue(monotonic_ns)
        self._looked_ns = monotonic_ns
        if code not in (0, _INTERRUPTED):
            self.check(code)

    def carry_out(self, transfer: AsyncTransfer) -> int:
        """Submit a command's transfer and wait for its end, while the reading continues; return its code."""
        code = transfer.submit()
        if code:
            return code
        while (completion := transfer.completion()) is None:
            self.handle_events(LONGEST_WAIT_S)
            for reader in self.readers:
                reader.deliver_ready()
        return IO_ERROR if completion.code == CANCELLED else completion.code


class QueuedReader:
    """An `EndpointReader` that queues its first reads at the first `read`, and each again as soon as it has ended."""

    queued: Final = True

    def __init__(
        self,
        context: QueueContext,
        handle: Any,
        address: int,
        kind: int,
        sizes: ReadSizes,
        queue: int,
        deliver: Deliver | None = None,
    ) -> None:
        """`handle` is pyusb's of the open device, `queue` how many reads of the largest size are queued."""
        self.handle = handle
        self.address = address
        self._context = context
        self._deliver = deliver
        self._most_bytes = sizes.most_bytes
        self._slots = [
            AsyncTransfer(context.library, handle.handle, kind, address, sizes.next_bytes)
            for _ in range(sizes.reads(queue))
        ]
        self.ahead = ReadAhead(self._slots, context.figures, sizes, queue)
        self._woken = self._halted = self._ended = False
        context.add(self)

    def read(self, timeout_ms: int) -> list[Transfer]:
        """Return everything that was read up to a failure, or raise the failure; see `EndpointReader.read`."""
        if self._ended:
            self._context.check(NO_DEVICE)
        if self._halted:
            self._halted = False
            self.ahead.resume()
        now_ns = time.monotonic_ns()
        end_ns = now_ns + timeout_ms * 1_000_000
        while not (outcome := self.ahead.take(now_ns)):
            if now_ns >= end_ns:
                return []
            if self._woken:
                self._woken = False
                return []
            self._context.handle_events(min(LONGEST_WAIT_S, (end_ns - now_ns) / 1e9))
            now_ns = time.monotonic_ns()
        if isinstance(outcome, Failure):
            self._context.check(outcome.code)
            raise AssertionError(f"{outcome.code} is not a failure")
        return outcome

    def wake(self) -> None:
        """End the wait of a read as if its time were up; from any thread."""
        self._woken = True
        self._context.interrupt()

    def deliver_ready(self) -> None:
        """Hand on what has been read, up to a failure, if `deliver` takes it; otherwise the next read returns it."""
        if self._deliver is not None and (transfers := self.ahead.take_readings()):
            self._deliver(transfers)

    def halt(self, timeout_s: float) -> None:
        """Let queued reads end for `timeout_s`, and cancel the rest. What they hold is kept, and `read` resumes."""
        self._halted = True
        self.ahead.halt()
        self._wait_until_idle(timeout_s)
        self.ahead.cancel()
        self._wait_until_idle(CANCEL_S)

    def finish(self, timeout_s: float) -> list[Transfer]:
        """End the reading for good; see `EndpointReader.finish`."""
        if self._ended:
            return []
        self.halt(timeout_s)
        self._ended = True
        self._context.readers.remove(self)
        given_up = self.ahead.abandon()
        for slot in self._slots:
            if slot in given_up:
                log.warning(
                    "a cancelled transfer did not end; its buffer of up to %d bytes is never freed", self._most_bytes
                )
                _given_up.append(slot)
            else:
                slot.free()
        return self.ahead.rest()

    def _wait_until_idle(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.ahead.in_flight and (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(usb.core.USBError):
                self._context.handle_events(left_s)


def dispose(transfer: AsyncTransfer) -> None:
    """Free a command's transfer, or give it up if it may still be under way."""
    if transfer.completion() is None:
        _given_up.append(transfer)
    else:
        transfer.free()

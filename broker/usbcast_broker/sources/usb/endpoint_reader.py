"""How an endpoint is read once pyusb has opened and claimed its device: the interface, and reads through pyusb itself.

Pyusb finds, opens, claims and controls a device. Reading is separate, because pyusb has room for one read at a time: a backend
that can queue reads opens a reader of its own (`queued_reader`), and any other backend is read by `PlainReader`. A reader
belongs to one opening of the device. One thread uses it; only `wake` is for any thread.

Errors are pyusb's `USBError`: the transport, which knows the device's name, turns them into errors of usbcast.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

import usb.core

from usbcast_broker.flow import Transfer
from usbcast_broker.sources.usb.clock import Clock
from usbcast_broker.sources.usb.read_sizes import ReadSizes
from usbcast_broker.sources.usb.readahead import Figures

Deliver = Callable[[list[Transfer]], object]
"""Takes transfers in order, in the thread that reads."""


class EndpointReader(Protocol):
    """Reads one IN endpoint of an open device."""

    @property
    def queued(self) -> bool:
        """Reads are queued at the operating system, so the bus continues while nobody reads."""

    def read(self, timeout_ms: int) -> list[Transfer]:
        """Wait for data, and return all transfers that have ended, in order; empty after `timeout_ms`, or if woken.

        Raises USBError where a read failed, after everything before it has been returned.
        """

    def finish(self, timeout_s: float) -> list[Transfer]:
        """End the reading. Queued reads get `timeout_s` to end and are then cancelled; return what they hold, in order."""

    def wake(self) -> None:
        """End a queued read's waiting, from any thread."""


@runtime_checkable
class QueuesReads(Protocol):
    """A backend of pyusb that can keep reads queued."""

    def open_reader(
        self, interface: int, address: int, kind: int, sizes: ReadSizes, deliver: Deliver | None
    ) -> EndpointReader:
        """Return a reader of an endpoint whose interface pyusb has claimed; `kind` is the descriptor's transfer type.

        `deliver` takes what is read while a command is under way; without it the next read returns that.
        """


class PlainReader:
    """One read through pyusb after the other, with none queued behind it: an `EndpointReader` for any backend."""

    queued: Final = False

    def __init__(self, device: usb.core.Device, address: int, sizes: ReadSizes, figures: Figures, clock: Clock) -> None:
        self._device: Any = device
        self._address = address
        self._sizes = sizes
        self._figures = figures
        self._clock = clock
        self._buffer = array("B")

    def read(self, timeout_ms: int) -> list[Transfer]:
        """Read once. As in pyusb, a read that has taken something when its time is up returns it."""
        sizes, now_ns = self._sizes, self._clock()[1]
        end_ns = now_ns + timeout_ms * 1_000_000
        while True:
            size_bytes = sizes.next_bytes
            if len(self._buffer) != size_bytes:
                self._buffer = array("B", bytes(size_bytes))
            deadline_ns = sizes.deadline_ns(size_bytes, now_ns)
            until_ns = end_ns if deadline_ns is None else min(deadline_ns, end_ns)
            self._figures.held_since_ns = now_ns if sizes.holds_back(size_bytes) else None
            try:
                left_ms = max(1, -((now_ns - until_ns) // 1_000_000))
                size = self._device.read(self._address, self._buffer, left_ms)
            except usb.core.USBTimeoutError:
                now_ns = self._clock()[1]
                sizes.count(0, now_ns)
                if now_ns >= end_ns:
                    return []
                self._figures.ended_early += 1
            else:
                realtime_ns, monotonic_ns = self._clock()
                sizes.count(size, monotonic_ns)
                return [Transfer(memoryview(self._buffer)[:size].tobytes(), realtime_ns, monotonic_ns)]
            finally:
                self._figures.held_since_ns = None

    def finish(self, timeout_s: float) -> list[Transfer]:  # noqa: ARG002 - no read is queued that could hold anything
        """Return nothing: between two reads nothing is held."""
        return []

    def wake(self) -> None:
        """Do nothing: a read that is not queued ends by its own timeout."""

"""A simulated device as a thing of its own: plugged in and out, opened, claimed, read and written from any thread."""

from __future__ import annotations

import threading
import time

from usbcast_broker.sources.simulator.config import IDLE_STATUS_S, SimulatorConfig
from usbcast_broker.sources.simulator.control import ControlPipe
from usbcast_broker.sources.simulator.controller import Read
from usbcast_broker.sources.simulator.failures import BUSY, GONE, NOT_FOUND, OVERFLOW, STALL, TIMEOUT, usb_error
from usbcast_broker.sources.simulator.source import Signal, Source


class Handle:
    """One opening of a device; invalid after the device was closed or unplugged."""

    def __init__(self, life: int) -> None:
        self.life = life
        self.open = True
        self.cuts = 0
        """Number of times that a release or a reset ended the reads under way."""


class SimulatedDevice:
    """A device that sends packets in real time while its interface is claimed, from the first read on.

    Its methods raise what pyusb raises for a real device.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.exhausted = threading.Event()
        """Set when all `config.packets` were made and the host has read all that was not lost."""
        self._source = Source(self.config)
        self._control = ControlPipe(self.config)
        self._claimed_by: Handle | None = None
        self._changed = threading.Condition(threading.Lock())

    @property
    def produced(self) -> int:
        """Packets that it made, lost ones included."""
        with self._changed:
            self._source.catch_up(time.monotonic_ns())
            return self._source.produced

    @property
    def dropped(self) -> int:
        """Packets that it made and lost itself: its FIFO was full, or it was unplugged or reset."""
        with self._changed:
            self._source.catch_up(time.monotonic_ns())
            return self._source.dropped

    @property
    def withheld(self) -> int:
        """Packets that it made and a scripted fault kept from the host."""
        with self._changed:
            return self._source.withheld

    @property
    def last_packet_monotonic_ns(self) -> int:
        """Time at which the newest packet was ready."""
        with self._changed:
            self._source.catch_up(time.monotonic_ns())
            return self._source.last_packet_ns

    @property
    def out_bytes(self) -> int:
        """Bytes that it got on its OUT endpoint."""
        return self._control.out_bytes

    def unplug(self) -> None:
        """Take it off the bus, until `plug`."""
        with self._changed:
            self._source.unplug(time.monotonic_ns())
            self._after_change()

    def plug(self) -> None:
        """Put it back on the bus, at a new address."""
        with self._changed:
            self._source.plug()
            self._after_change()

    def life(self) -> int | None:
        """Which of its lives it is in; None while unplugged."""
        with self._changed:
            self._source.catch_up(time.monotonic_ns())
            return self._source.life if self._source.plugged else None

    def open(self, life: int) -> Handle:
        handle = Handle(life)
        with self._changed:
            self._check(handle)
        return handle

    def close(self, handle: Handle) -> None:
        with self._changed:
            handle.open = False
            self._let_go(handle)
            self._changed.notify_all()

    def check(self, handle: Handle) -> None:
        """Raise if it is gone."""
        with self._changed:
            self._check(handle)

    def claim(self, handle: Handle) -> None:
        with self._changed:
            self._check(handle)
            owner = self._claimed_by
            if owner is not None and owner is not handle and owner.open and owner.life == handle.life:
                raise usb_error(BUSY)
            self._claimed_by = handle

    def release(self, handle: Handle) -> None:
        with self._changed:
            self._check(handle)
            if self._claimed_by is not handle:
                raise usb_error(NOT_FOUND)
            self._let_go(handle)
            handle.cuts += 1
            self._changed.notify_all()

    def clear_halt(self, handle: Handle) -> None:
        with self._changed:
            self._check(handle)
            self._source.clear_halt()
            self._changed.notify_all()

    def reset(self, handle: Handle) -> None:
        with self._changed:
            self._check(handle)
            self._source.reset(time.monotonic_ns())
            handle.cuts += 1
            self._after_change()

    def read(self, handle: Handle, size_bytes: int, timeout_ms: int) -> bytes:
        """Return the result of one read of the IN endpoint; wait for it without the GIL. 0 ms: no timeout.

        As in pyusb, a read that times out returns the bytes taken, and raises a timeout only if there are none.
        """
        status_bytes = len(self.config.status_prefix)
        read = Read(self._source, self._payload_room(size_bytes), self.config.max_packet_size - status_bytes)
        with self._changed:
            now_ns = begin_ns = time.monotonic_ns()
            deadline_ns = begin_ns + timeout_ms * 1_000_000 if timeout_ms else None
            self._check(handle)
            cuts = handle.cuts
            if self._claimed_by is handle:
                self._source.start(now_ns)
            while True:
                if handle.cuts != cuts or not self._is_of(handle):
                    return self._cut_off(read)
                outcome = read.poll(now_ns)
                if not read.held_bytes:
                    self._note_exhausted()
                if isinstance(outcome, bytes):
                    return self._with_status(outcome)
                if outcome is not None:
                    raise usb_error({Signal.GONE: GONE, Signal.STALL: STALL, Signal.OVERFLOW: OVERFLOW}[outcome])
                idle_ns = self._idle_status_ns(begin_ns)
                if idle_ns is not None and now_ns >= idle_ns:
                    return self._all_of(read) + self.config.status_prefix
                if deadline_ns is not None and now_ns >= deadline_ns:
                    if read.held_bytes:
                        return self._all_of(read)
                    raise usb_error(TIMEOUT)
                wakes = (read.wake_ns(), idle_ns, deadline_ns)
                wake_ns = min((at for at in wakes if at is not None), default=None)
                self._changed.wait(None if wake_ns is None else max(0, wake_ns - now_ns) / 1e9)
                now_ns = time.monotonic_ns()

    def write(self, handle: Handle, data: bytes) -> int:
        with self._changed:
            self._check(handle)
            self._control.take(data)
        return len(data)

    def control_read(
        self, handle: Handle, request_type: int, request: int, value: int, index: int, length: int
    ) -> bytes:
        with self._changed:
            self._check(handle)
            halted = self._source.halted
            answer = self._control.read(request_type, request, value, index, length, halted=halted)
        if answer is None:
            raise usb_error(STALL)
        return answer

    def control_write(self, handle: Handle, request_type: int, request: int, index: int, data: bytes) -> int:
        with self._changed:
            self._check(handle)
            taken = self._control.write(request_type, request, index, data)
        if not taken:
            raise usb_error(STALL)
        return len(data)

    def _check(self, handle: Handle) -> None:
        if not self._is_of(handle):
            raise usb_error(GONE)

    def _is_of(self, handle: Handle) -> bool:
        """Return True if the device is plugged in and open by this handle."""
        source = self._source
        source.catch_up(time.monotonic_ns())
        return handle.open and source.plugged and handle.life == source.life

    def _all_of(self, read: Read) -> bytes:
        """End the read; return the bytes taken so far."""
        data = self._with_status(read.take()) if read.held_bytes else b""
        self._note_exhausted()
        return data

    def _cut_off(self, read: Read) -> bytes:
        """End the read because the device is released or gone; return the bytes taken."""
        if not read.held_bytes:
            raise usb_error(GONE)
        return self._all_of(read)

    def _let_go(self, handle: Handle) -> None:
        if self._claimed_by is handle:
            self._claimed_by = None
            self._source.pause(time.monotonic_ns())

    def _after_change(self) -> None:
        self._note_exhausted()
        self._changed.notify_all()

    def _note_exhausted(self) -> None:
        if self._source.exhausted:
            self.exhausted.set()

    def _payload_room(self, size_bytes: int) -> int:
        """Return the room for packets in a read of `size_bytes`, without the status bytes that begin each USB packet."""
        prefix, most = len(self.config.status_prefix), self.config.max_packet_size
        whole, part = divmod(size_bytes, most)
        return whole * (most - prefix) + max(0, part - prefix)

    def _with_status(self, data: bytes) -> bytes:
        prefix = self.config.status_prefix
        if not prefix or not data:
            return prefix or data
        step = self.config.max_packet_size - len(prefix)
        return b"".join(prefix + data[at : at + step] for at in range(0, len(data), step))

    def _idle_status_ns(self, begin_ns: int) -> int | None:
        if not self.config.status_prefix:
            return None
        return begin_ns + (self.config.latency_ns or round(IDLE_STATUS_S * 1e9))

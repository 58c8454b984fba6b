"""The data of a simulated device over time, faults included. The caller supplies monotonic times in nanoseconds.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

import numpy as np

from usbcast_broker.sources.simulator.config import SimulatorConfig
from usbcast_broker.sources.simulator.faults import Fault
from usbcast_broker.sources.simulator.store import Mark, Store
from usbcast_broker.sources.simulator.timetable import Timetable

_DEFAULT_GARBAGE_BYTES: Final = 16
_FAILURES: Final = ("unplug", "stall", "overflow")


class Signal(Enum):
    """The outcome of a read that does not end with data."""

    GONE = auto()
    STALL = auto()
    OVERFLOW = auto()


class Source:
    """A simulated device's data. Nothing happens by itself: each call first catches up with everything due until its time."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._store = Store(config)
        self._timetable = Timetable(config.rate_hz, config.jitter_s, config.seed) if config.rate_hz else None
        self._random = np.random.default_rng([config.seed, 0x46415554])
        self._by_packet = deque(
            sorted((fault for fault in config.faults if fault.at_packet is not None), key=lambda f: f.at_packet or 0)
        )
        self._by_time = deque(
            sorted((fault for fault in config.faults if fault.at_packet is None), key=lambda f: f.at_s or 0.0)
        )
        self._started_ns: int | None = None
        self._running = False
        self._halted = False
        self._leaving = False
        self._withhold = 0
        self._not_before_ns = 0
        self._collecting_since_ns = 0
        self._counter_base = 0
        self._replug_ns: int | None = None
        self.plugged = True
        self.life = 0
        """Rises each time that it is plugged in again."""
        self.produced = 0
        self.dropped = 0
        """Lost in the device: its FIFO was full, or it was unplugged or reset."""
        self.withheld = 0
        """Never sent, or sent in vain, because a scripted fault said so."""
        self.last_packet_ns = 0

    @property
    def exhausted(self) -> bool:
        """All packets were made, and none of them waits."""
        return self._finished and self._store.empty

    @property
    def halted(self) -> bool:
        return self._halted

    def start(self, now_ns: int) -> None:
        """The host has begun to read; the next packet is due now."""
        if self._running or not self.plugged:
            return
        self._running = True
        if self._started_ns is None:
            self._started_ns = now_ns
        if self._timetable:
            self._timetable.restart(max(now_ns, self._not_before_ns), self.produced)

    def pause(self, now_ns: int) -> None:
        """The host has let go of the device."""
        self.catch_up(now_ns)
        self._running = False

    def reset(self, now_ns: int) -> None:
        self.pause(now_ns)
        self._halted = self._leaving = False
        self.dropped += self._store.clear()

    def clear_halt(self) -> None:
        self._halted = False

    def unplug(self, now_ns: int, replug_ns: int | None = None, *, restarts: bool = False) -> None:
        """Take it off the bus; with `replug_ns` it comes back by itself."""
        if not self.plugged:
            self._replug_ns = replug_ns
            return
        self.reset(now_ns)
        if self.plugged:
            self.plugged = self._leaving = False
            self._replug_ns = replug_ns
            if restarts:
                self._counter_base = self.produced

    def plug(self) -> None:
        """Put it back on the bus, at a new address."""
        if not self.plugged:
            self.plugged = True
            self.life += 1
            self._replug_ns = None

    def poll(self, now_ns: int, room_bytes: int) -> bytes | Signal | None:
        """Return the data for a read with room for `room_bytes`, or its failure; None if there is nothing to send yet."""
        self.catch_up(now_ns, room_bytes)
        if not self.plugged:
            return Signal.GONE
        if self._halted:
            return Signal.STALL
        mark = self._next_mark()
        if mark is not None:
            return self._reach(mark, now_ns)
        if not self._complete(now_ns, room_bytes):
            return None
        data = self._store.fill(self._target(room_bytes), single=self._config.one_packet_per_transfer)
        self._collecting_since_ns = now_ns
        return data

    def fails(self, now_ns: int, room_bytes: int) -> bool:
        """Return True if the next poll ends in a failure."""
        self.catch_up(now_ns, room_bytes)
        if not self.plugged or self._halted:
            return True
        mark = self._next_mark()
        return mark is not None and mark.fault.kind in _FAILURES and not self._lacks_packet(mark)

    def wake_ns(self, room_bytes: int) -> int | None:
        """Return the time at which to poll a waiting read again; None if only a change of the device can complete it."""
        times = []
        if not self.plugged:
            return self._replug_ns
        if self._by_time:
            times.append(self._time_of(self._by_time[0]))
        waiting = not self._store.empty and self._store.mark() is None
        if waiting and self._latency_ns is not None:
            times.append(self._collecting_since_ns + self._latency_ns)
        if not self._finished:
            missing = 1
            if waiting:
                missing = -(-(self._target(room_bytes) - self._store.size_bytes) // self._config.packet_size)
            k = self.produced + max(1, missing) - 1
            if self._config.packets is not None:
                k = min(k, self._config.packets - 1)
            if self._by_packet:
                k = min(k, max(self.produced, self._by_packet[0].at_packet or 0))
            times.append(max(self._not_before_ns, self._timetable.due_ns(k) if self._timetable else 0))
        return min(times, default=None)

    def catch_up(self, now_ns: int, room_bytes: int = 0) -> None:
        """Let everything happen that was due until now."""
        if not self.plugged and self._replug_ns is not None and now_ns >= self._replug_ns:
            self.plug()
        while self._running and self.plugged:
            fault_ns = self._time_of(self._by_time[0]) if self._by_time else None
            until_ns = now_ns if fault_ns is None else min(now_ns, fault_ns)
            due_ns = self._make_ready(until_ns, room_bytes)
            if due_ns is not None:
                self._strike(self._by_packet.popleft(), due_ns)
            elif fault_ns is not None and fault_ns <= now_ns:
                self._strike(self._by_time.popleft(), fault_ns)
            else:
                break

    @property
    def _finished(self) -> bool:
        return self._config.packets is not None and self.produced >= self._config.packets

    @property
    def _latency_ns(self) -> int | None:
        """After so long an incomplete transfer ends; None: never."""
        latency_ns = self._config.latency_ns
        return None if self._config.transfer_size is not None and latency_ns == 0 else latency_ns

    def _time_of(self, fault: Fault) -> int:
        return (self._started_ns or 0) + round((fault.at_s or 0.0) * 1e9)

    def _target(self, room_bytes: int) -> int:
        return min(room_bytes, self._config.transfer_size or room_bytes)

    def _make_ready(self, until_ns: int, room_bytes: int) -> int | None:
        """Make the packets due until then, but not beyond the next fault; return its time if its packet is due."""
        if until_ns < self._not_before_ns or self._finished or self._leaving:
            return None
        if self._timetable:
            ready = self._timetable.ready(self.produced, until_ns)
        else:
            wanted_bytes = max(0, self._target(room_bytes) - self._store.size_bytes)
            ready = -(-wanted_bytes // self._config.packet_size) + (self._withhold if wanted_bytes else 0)
        if self._config.packets is not None:
            ready = min(ready, self._config.packets - self.produced)
        fault_at = self._by_packet[0].at_packet if self._by_packet else None
        if fault_at is None or fault_at >= self.produced + ready:
            self._make(ready, until_ns)
            return None
        self._make(max(0, fault_at - self.produced), until_ns)
        return max(self._not_before_ns, self._timetable.due_ns(self.produced) if self._timetable else until_ns)

    def _make(self, count: int, until_ns: int) -> None:
        if count == 0:
            return
        due_ns = self._timetable.due_ns(self.produced) if self._timetable else until_ns
        if self._store.empty:
            self._collecting_since_ns = max(due_ns, self._not_before_ns)
        withheld = min(count, self._withhold)
        self._withhold -= withheld
        self.withheld += withheld
        if count > withheld:
            first = self.produced - self._counter_base + withheld
            self.dropped += self._store.add(first, count - withheld)
        self.produced += count
        last_ns = self._timetable.due_ns(self.produced - 1) if self._timetable else until_ns
        self.last_packet_ns = max(last_ns, self._not_before_ns)

    def _strike(self, fault: Fault, at_ns: int) -> None:
        """Let a fault happen."""
        match fault.kind:
            case "unplug":
                # It happens once the host has what was sent before, so that what is lost does not hang on timing.
                self._leaving = True
                self._store.add_mark(Mark(fault))
            case "silence":
                duration_ns = round(fault.duration_s * 1e9)
                self._not_before_ns = max(self._not_before_ns, at_ns) + duration_ns
                if self._timetable:
                    self._timetable.delay(duration_ns)
            case "burst":
                if self._timetable:
                    last_ns = self._timetable.due_ns(self.produced + fault.count - 1)
                    self._not_before_ns = max(self._not_before_ns, last_ns)
            case "drop":
                self._withhold += fault.count
            case "garbage":
                if self._store.empty:
                    self._collecting_since_ns = at_ns
                self._store.add_garbage(self._random.bytes(fault.bytes or _DEFAULT_GARBAGE_BYTES))
            case "stall" | "overflow" | "zero_length" | "short_read":
                self._store.add_mark(Mark(fault, fault.count))

    def _next_mark(self) -> Mark | None:
        """The mark that the next transfer begins at, but for those whose packet comes no more before the device is unplugged."""
        store = self._store
        mark = store.mark()
        while mark is not None and self._leaving and self._lacks_packet(mark):
            store.drop_mark()
            mark = store.mark()
        return mark

    def _lacks_packet(self, mark: Mark) -> bool:
        """Return True if the mark needs a packet and none waits."""
        return mark.fault.kind in ("overflow", "short_read") and not self._store.packets

    def _reach(self, mark: Mark, now_ns: int) -> bytes | Signal | None:
        """The transfer begins at a mark."""
        store = self._store
        fault = mark.fault
        if self._lacks_packet(mark):
            return None
        store.use_mark(mark)
        self._collecting_since_ns = now_ns
        match fault.kind:
            case "unplug":
                replug_ns = now_ns + round(fault.duration_s * 1e9)
                self.unplug(now_ns, replug_ns, restarts=fault.counter == "restarts")
                return Signal.GONE
            case "stall":
                self._halted = True
                return Signal.STALL
            case "overflow":
                store.lose_packet()
                self.withheld += 1
                return Signal.OVERFLOW
            case "zero_length":
                return b""
            case _:
                return store.split(fault.bytes)

    def _complete(self, now_ns: int, room_bytes: int) -> bool:
        """The transfer that is being filled ends now."""
        store = self._store
        if store.empty:
            return False
        if (
            self._config.one_packet_per_transfer
            or store.marks
            or self._finished
            or store.size_bytes >= self._target(room_bytes)
        ):
            return True
        return self._latency_ns is not None and now_ns >= self._collecting_since_ns + self._latency_ns

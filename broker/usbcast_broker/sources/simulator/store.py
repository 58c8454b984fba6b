"""The data that a simulated device holds for the host: packets, garbage, and marks at which a transfer fails.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from usbcast_broker.sources.simulator.config import SimulatorConfig
from usbcast_broker.sources.simulator.faults import Fault
from usbcast_broker.sources.simulator.packets import make_packets

_BLOCK_BYTES: Final = 1 << 18
_MAX_BLOCK_PACKETS: Final = 2048


@dataclass(slots=True)
class Mark:
    """A place at which transfers fail, as the fault says, for a number of times."""

    fault: Fault
    times: int = 1


@dataclass(slots=True)
class _Run:
    first: int
    count: int


class Store:
    """A FIFO of bytes, bounded in packets, that generates packets only when they leave it."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._queue: deque[_Run | bytes | Mark] = deque()
        self._rest = b""
        self._block = b""
        self._block_first = -1
        per_block = int(config.rate_hz / 10) if config.rate_hz else _MAX_BLOCK_PACKETS
        self._block_packets = max(1, min(max(16, per_block), _MAX_BLOCK_PACKETS, _BLOCK_BYTES // config.packet_size))
        self.packets = 0
        """Number of whole packets that wait."""
        self.garbage_bytes = 0
        self.marks = 0

    @property
    def size_bytes(self) -> int:
        """About how much waits; exact unless packets are encoded."""
        return len(self._rest) + self.garbage_bytes + self.packets * self._config.packet_size

    @property
    def empty(self) -> bool:
        return not (self._rest or self.packets or self.garbage_bytes)

    def add(self, first: int, count: int) -> int:
        """Append the packets from counter `first` on; return how many of the oldest had to go."""
        tail = self._queue[-1] if self._queue else None
        if isinstance(tail, _Run) and tail.first + tail.count == first:
            tail.count += count
        else:
            self._queue.append(_Run(first, count))
        self.packets += count
        return self._drop_oldest(self.packets - self._config.fifo_packets)

    def add_garbage(self, data: bytes) -> None:
        self._queue.append(data)
        self.garbage_bytes += len(data)

    def add_mark(self, mark: Mark) -> None:
        self._queue.append(mark)
        self.marks += 1

    def mark(self) -> Mark | None:
        """The mark that the next transfer begins at."""
        head = self._queue[0] if self._queue and not self._rest else None
        return head if isinstance(head, Mark) else None

    def use_mark(self, mark: Mark) -> None:
        """Count one of the times of the mark at the head."""
        mark.times -= 1
        if mark.times == 0:
            self.drop_mark()

    def drop_mark(self) -> None:
        """Take away the mark at the head."""
        self._queue.popleft()
        self.marks -= 1
        self._tidy()

    def lose_packet(self) -> None:
        """Take out the oldest packet."""
        self._drop_oldest(1)

    def clear(self) -> int:
        """Forget everything; return how many packets that was, a part of one counting as one."""
        lost = self.packets + bool(self._rest)
        self._queue.clear()
        self._rest = b""
        self.packets = self.garbage_bytes = self.marks = 0
        return lost

    def split(self, size_bytes: int) -> bytes:
        """The first part of the oldest packet, as a transfer of its own; the rest comes next. 0: half of it."""
        run = next(item for item in self._queue if isinstance(item, _Run) and item.count)
        packet = self._packets(run.first, 1)
        self._drop_oldest(1)
        at = size_bytes or len(packet) // 2
        part, self._rest = packet[:at], packet[at:]
        return part

    def fill(self, room_bytes: int, *, single: bool) -> bytes:
        """The next transfer: up to `room_bytes`, up to a mark, and of one packet if `single`."""
        parts = []
        while room_bytes > 0:
            data = self._next(room_bytes, single=single)
            if not data:
                break
            if len(data) > room_bytes:
                data, self._rest = data[:room_bytes], data[room_bytes:]
            parts.append(data)
            room_bytes -= len(data)
            if single:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next(self, room_bytes: int, *, single: bool) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        head = self._queue[0] if self._queue else None
        if isinstance(head, bytes):
            self.garbage_bytes -= len(head)
            self._queue.popleft()
            self._tidy()
            return head
        if not isinstance(head, _Run):
            return b""
        wanted = 1 if single else -(-room_bytes // self._config.packet_size)
        in_block = self._block_packets - head.first % self._block_packets
        count = min(head.count, wanted, in_block)
        data = self._packets(head.first, count)
        self._drop_oldest(count)
        return data

    def _drop_oldest(self, count: int) -> int:
        if count <= 0:
            return 0
        left = count
        for item in list(self._queue):
            if not isinstance(item, _Run):
                continue
            gone = min(left, item.count)
            item.first += gone
            item.count -= gone
            left -= gone
            if left == 0:
                break
        self._tidy()
        self.packets -= count - left
        return count - left

    def _tidy(self) -> None:
        """A run without packets must not stand at the head."""
        while self._queue and isinstance(head := self._queue[0], _Run) and not head.count:
            self._queue.popleft()

    def _packets(self, first: int, count: int) -> bytes:
        """Sent form of packets that lie in one block."""
        size = self._config.packet_size
        block_first = first - first % self._block_packets
        if block_first != self._block_first:
            self._block = make_packets(self._config, block_first, self._block_packets)
            self._block_first = block_first
        at = (first - block_first) * size
        data = self._block[at : at + count * size]
        encode = self._config.encode
        if encode is None:
            return data
        return b"".join(encode(data[at : at + size]) for at in range(0, len(data), size))

"""The writer of a ring in Python: transfers become batches, and batches go into the shared memory.

The writer never waits for a reader and does not know of any. Readers find out by themselves whether what they read was
overwritten, so the order of the stores is the protocol (docs/wire.md; docs/model/ring.pml checks it):

1. TAIL moves past every slot whose bytes or table entry are about to be reused. A reader that copies one of them looks at TAIL
   afterwards and sees that its copy is worthless.
2. The bytes of the batch are written, then the words of its slot.
3. HEAD moves, and only now does the slot exist for readers.
4. The waiting flag is read, behind a barrier (`wake`).

Where a CPU may show stores in another order, Python has no stores that would prevent it: such a ring has checksums, and a
reader accepts a slot only when its bytes fit.

`_lock` makes each call happen as a whole: one thread puts while another closes and settles. `put` looks at `_plan` before it
takes the lock, so that a closed writer costs a feed's thread nothing, and again behind it.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from usbcast_schemas.batch import Arrivals, Buffer, Encoded, encode_parts, join_if_small
from usbcast_schemas.engine.protocols import (
    ALWAYS_NS,
    NEVER_NS,
    Plan,
    Put,
    RingMemory,
    Send,
    Settled,
    Transfer,
    too_large,
)
from usbcast_schemas.ring.layout import (
    BATCH_NUMBER,
    CHECKSUM,
    COUNT_AND_LENGTH,
    FIRST_SEQUENCE,
    HEAD,
    HEADER_BYTES,
    NUMBER_PLUS_ONE,
    POSITION,
    SLOT_BYTES,
    SLOT_WORDS,
    TAIL,
    wake,
)

NEEDS_FRAMING, DONE, DONE_RING_BELL = Put  # as plain names: those of an enumeration take long to find

FIRST_SLOT = HEADER_BYTES // 8


class _Run(NamedTuple):
    """Pieces of payload that make one batch, and when each arrived."""

    payload: list[Buffer]
    packets: list[int]
    realtime_ns: list[int]
    monotonic_ns: list[int]
    size_bytes: int


class PureStreamWriter:
    """The `StreamWriter` of a ring without the native core."""

    def __init__(self, memory: RingMemory) -> None:
        self.next_sequence, self.next_number = memory.next_sequence, memory.next_number
        self.bell_at_ns = NEVER_NS
        self._ring = memory
        self._bytes = memory.map
        self._words = memory.words
        self._data_at = HEADER_BYTES + memory.slots * SLOT_BYTES
        self._head = self._tail = self._position = 0
        self._plan: Plan | None = None
        self._not_before_ns = ALWAYS_NS
        self._unsent = 0
        """Batches, the newest ones."""
        self._settled: Settled | None = None
        self._lock = threading.Lock()

    def open(self, plan: Plan, /) -> None:
        with self._lock:
            self._not_before_ns = plan.not_before_ns
            self.bell_at_ns = plan.bell_at_ns
            self._plan = plan

    def close(self) -> None:
        with self._lock:
            self._plan = None

    def put(self, transfers: list[Transfer], plan: Plan | None = None, /) -> Put:
        if plan is None and self._plan is None:
            return NEEDS_FRAMING
        with self._lock:
            if plan is not None:
                return DONE if self._write(transfers, plan, plan.not_before_ns) else NEEDS_FRAMING
            plan = self._plan
            if plan is None or not self._write(transfers, plan, self._not_before_ns):
                return NEEDS_FRAMING
            last_ns = transfers[-1].monotonic_ns
            self._not_before_ns = last_ns + plan.spacing_ns
            # Whoever sends holds the publisher's lock; there is none here.
            return DONE if plan.send is None and last_ns < self.bell_at_ns else DONE_RING_BELL

    def append(self, batch: Encoded, /) -> None:
        with self._lock:
            self._store(batch.parts, batch.size_bytes, batch.number, batch.first_sequence, batch.packet_count)

    def send_unsent(self, send: Send | None, /) -> None:
        with self._lock:
            count, self._unsent = self._unsent, 0
            if send is None:
                return
            for slot in range(max(self._tail, self._head - count), self._head):
                base = FIRST_SLOT + slot % self._ring.slots * SLOT_WORDS
                length = self._words[base + COUNT_AND_LENGTH] & 0xFFFFFFFF
                begin = self._data_at + self._words[base + POSITION] % self._ring.data_bytes
                send(memoryview(self._bytes).toreadonly()[begin : begin + length])

    def settle(self) -> Settled | None:
        with self._lock:
            settled, self._settled = self._settled, None
            return settled

    def release(self) -> None:
        with self._lock:
            self._plan = None
            self._words.release()

    def _write(self, transfers: list[Transfer], plan: Plan, not_before_ns: int) -> bool:
        """Write the batches of `transfers`, with the lock held; False, with nothing done, if the plan does not allow it."""
        run = _whole(transfers, plan.packet_size)
        if run is None or (run.monotonic_ns[-1] < not_before_ns and 2 * run.size_bytes <= plan.max_payload_bytes):
            return False
        number, sequence, needed = self.next_number, self.next_sequence, 0
        batches: list[tuple[tuple[Buffer, ...], int, int]] = []
        for part in (run,) if run.size_bytes <= plan.max_payload_bytes else _cut(run, plan):
            count = part.size_bytes // plan.packet_size
            parts = encode_parts(
                epoch=self._ring.epoch,
                number=number + len(batches),
                first_sequence=sequence,
                packet_count=count,
                packet_size=plan.packet_size,
                payload=part.payload,
                arrivals=Arrivals(part.packets, part.realtime_ns, part.monotonic_ns),
            )
            length = sum(map(len, parts))
            needed += length
            batches.append((join_if_small(parts, len(part.payload), part.size_bytes), length, count))
            if needed > self._ring.data_bytes // 2 or len(batches) > self._ring.slots // 2:
                return False
            sequence += count
        for pieces, length, count in batches:
            self._store(pieces, length, self.next_number, self.next_sequence, count)
        self._unsent += len(batches)
        before = self._settled or Settled(0, 0, 0, 0, 0)
        self._settled = Settled(
            before.batches + len(batches),
            before.packets + run.size_bytes // plan.packet_size,
            before.size_bytes + run.size_bytes,
            run.realtime_ns[-1],
            run.monotonic_ns[-1],
        )
        return True

    def _store(
        self, parts: tuple[Buffer, ...], length: int, number: int, first_sequence: int, packet_count: int
    ) -> None:
        """Write one batch, given in one piece or in several, into the ring."""
        ring, words, head = self._ring, self._words, self._head
        size, slots = ring.data_bytes, ring.slots
        if length > size:
            raise too_large(length, size)
        position = self._position
        if position % size + length > size:
            position += size - position % size
        end = position + length
        tail = self._tail
        while tail < head and (
            head - tail >= slots or words[FIRST_SLOT + tail % slots * SLOT_WORDS + POSITION] + size < end
        ):
            tail += 1
        if tail != self._tail:
            words[TAIL] = self._tail = tail
        offset = self._data_at + position % size
        checksum = 0
        for part in parts:
            self._bytes[offset : offset + len(part)] = part
            offset += len(part)
            if ring.checksums:
                checksum = zlib.crc32(part, checksum)
        base = FIRST_SLOT + head % slots * SLOT_WORDS
        words[base + NUMBER_PLUS_ONE] = head + 1
        words[base + BATCH_NUMBER] = number
        words[base + FIRST_SEQUENCE] = first_sequence
        words[base + COUNT_AND_LENGTH] = packet_count << 32 | length
        words[base + POSITION] = position
        words[base + CHECKSUM] = checksum
        self._position = (end + 7) & ~7
        words[HEAD] = self._head = head + 1
        self.next_sequence, self.next_number = first_sequence + packet_count, number + 1
        wake(words, ring.wake_fd)


def _whole(transfers: list[Transfer], packet_size: int) -> _Run | None:
    """Return `transfers` as one run; None unless each is whole packets of bytes, and there is one."""
    if {*map(type, transfers)} != {Transfer}:
        return None
    payload: list[Buffer] = [transfer.data for transfer in transfers]
    if {*map(type, payload)} != {bytes}:
        return None
    sizes = [*map(len, payload)]
    packets = [size // packet_size for size in sizes]
    size_bytes = sum(sizes)
    if not all(packets) or sum(packets) * packet_size != size_bytes:
        return None
    return _Run(
        payload,
        packets,
        [transfer.realtime_ns for transfer in transfers],
        [transfer.monotonic_ns for transfer in transfers],
        size_bytes,
    )


def _cut(run: _Run, plan: Plan) -> Iterator[_Run]:
    """Cut `run` into batches of as many pieces as fit; a piece that is larger than a batch is cut, a packet never."""
    size, most = plan.packet_size, max(plan.packet_size, plan.max_payload_bytes)
    most -= most % size
    part = _Run([], [], [], [], 0)
    for data, realtime_ns, monotonic_ns in zip(run.payload, run.realtime_ns, run.monotonic_ns, strict=True):
        for at in range(0, len(data), most):
            piece = data if len(data) <= most else memoryview(data)[at : at + most]
            if part.payload and part.size_bytes + len(piece) > most:
                yield part
                part = _Run([], [], [], [], 0)
            part.payload.append(piece)
            part.packets.append(len(piece) // size)
            part.realtime_ns.append(realtime_ns)
            part.monotonic_ns.append(monotonic_ns)
            part = part._replace(size_bytes=part.size_bytes + len(piece))
    yield part

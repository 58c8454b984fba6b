"""The readers of a ring.

A reader shares no lock with the writer, which may overwrite any slot at any time. So each read is optimistic: read the slot's
words, copy the bytes, then look at TAIL. If TAIL has not passed the slot, the writer had not begun to reuse its memory, and the
copy is good; otherwise it is thrown away, and the packets come by fetch or are declared lost. A batch that is read in place
(`BatchInPlace`) moves that last look to the application: `intact` after use.

To sleep, a reader sets the waiting flag, then looks at HEAD once more, with a barrier in between; the writer moves HEAD and then
looks at the flag. Whatever the timing, one of them sees the other: either the reader sees the new HEAD and does not sleep, or
the writer sees the flag and wakes it. Before it sleeps at all, a reader that has just caught up with a busy writer spins for
some microseconds (`spin_wait`), because sleeping and waking cost both sides more than that.
"""

from __future__ import annotations

import contextlib
import mmap
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from usbcast_schemas.batch import Buffer, EncodedBatch, bears_remarks, decode_batch
from usbcast_schemas.errors import RingTorn, RingUnavailable
from usbcast_schemas.recycling import WORTH_BYTES, RecycledBuffers
from usbcast_schemas.ring.layout import (
    DATA_BYTES,
    EPOCH,
    FLAG_CHECKSUMS,
    FLAGS,
    HEAD,
    HEADER_BYTES,
    HEARTBEAT,
    IS_A_RING,
    MAGIC,
    NONCE,
    SLOT_BYTES,
    SLOT_WORDS,
    SLOTS,
    SOURCE_SILENT,
    STATE,
    STATE_CLOSED,
    STORES_ARE_ORDERED,
    TAIL,
    Slot,
    fence,
    read_slot,
)
from usbcast_schemas.ring.memory import PureMemory, ReaderMemory, memory_in_order

SKIPPED_LOOKED_AT = 2048
"""Of the batches that are skipped for the newest, so many are looked at for what they say of the device: some 10 ms."""

SETTLING_READS = 1000
"""On weakly ordered CPUs a slot can be visible before its words and bytes; what is wrong after so many looks is damaged."""


@dataclass(slots=True, eq=False)
class BatchInPlace(EncodedBatch):
    """A batch whose bytes are the ring's own. The writer does not know of it, and overwrites it when its turn has come."""

    ring: RingReader | None = None
    slot: int = 0

    @property
    def intact(self) -> bool:
        """Whether it has not been overwritten so far: what was read of it before this was asked is what was written."""
        return self.ring is not None and self.ring.holds(self.slot)


class RingReader:
    """A reader of one ring file. It is registered nowhere: no reader can be evicted, or hold up anybody.

    Raises RingUnavailable if the file is not there or not the one meant by `nonce`.
    """

    def __init__(self, path: Path, nonce: int) -> None:
        self.path = path
        try:
            # Written to in one word only: the waiting flag.
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:
            raise RingUnavailable(f"cannot open the ring {path}: {error}; use via='push'") from None
        if not _is_ring(self._map, nonce):
            self._map.close()
            raise RingUnavailable(f"{path} is not the ring that the node described: describe the stream again")
        header = memoryview(self._map)[:HEADER_BYTES].cast("Q")
        slots, data_bytes = header[SLOTS], header[DATA_BYTES]
        self.epoch = header[EPOCH]
        self.data_bytes = data_bytes
        self._slots = slots
        self.has_checksums = bool(header[FLAGS] & FLAG_CHECKSUMS)
        self._data_at = HEADER_BYTES + slots * SLOT_BYTES
        header.release()
        self._words = memoryview(self._map)[: self._data_at].cast("Q")
        self._large = RecycledBuffers()
        self.is_open = True
        self._taken = (-1, -1)
        """Slot and batch number of the newest batch that was taken."""
        self._kept_from: int | None = None
        """The oldest slot of a ring to which nobody writes any more."""
        make = memory_in_order if STORES_ARE_ORDERED and not self.has_checksums else PureMemory
        self.memory: ReaderMemory = make(self._map, self._words, slots, data_bytes)

    @property
    def head(self) -> int:
        """The slot number that comes next."""
        return self._words[HEAD]

    @property
    def tail(self) -> int:
        """The oldest slot number still held."""
        return self._words[TAIL]

    @property
    def closed_by_writer(self) -> bool:
        return self._words[STATE] == STATE_CLOSED

    @property
    def heartbeat_monotonic_ns(self) -> int:
        return self._words[HEARTBEAT]

    @property
    def source_silent_ns(self) -> int:
        return self._words[SOURCE_SILENT]

    def slot(self, slot: int) -> Slot | None:
        """What the table says of `slot`, or None if it is not held (any more, or yet)."""
        words = self._words
        if not words[TAIL] <= slot < words[HEAD]:
            return None
        found = read_slot(words, slot, self._slots)
        if found is None or words[TAIL] > slot:
            return None
        return found

    def take(self, slot: int) -> EncodedBatch | None:
        """The batch in `slot`, decoded, or None if it is not held (any more, or yet). Raises WireError, VersionMismatch."""
        taken = self.memory.take(slot)
        if taken is not None:
            return taken if isinstance(taken, EncodedBatch) else decode_batch(taken)
        if self.has_checksums:
            return self._settled(slot)
        found = self.slot(slot)
        if found is None:
            return None
        try:
            return decode_batch(self.read(found))
        except RingTorn:
            return None

    def _settled(self, slot: int) -> EncodedBatch | None:
        """The batch in `slot` of a ring whose words may be visible late, once all of it is; None if it is not held."""
        for _ in range(SETTLING_READS):
            found = self.slot(slot)
            if found is not None:
                with contextlib.suppress(RingTorn):
                    batch = decode_batch(self.read(found, looks=1))
                    if self._is_new(slot, batch.number):
                        return batch
            elif not self._words[TAIL] <= slot < self._words[HEAD]:
                return None
            if not STORES_ARE_ORDERED:
                fence()
        return None

    def _is_new(self, slot: int, number: int) -> bool:
        """Whether batch `number` can be what `slot` holds, and not what it held before: numbers grow with the slots.

        All words and bytes of a slot may still be those of the batch that was there before, whole and with its checksum
        (docs/model/ring.pml finds that). Only the batch's own number tells.
        """
        taken_slot, taken_number = self._taken
        if slot > taken_slot:
            if number <= taken_number:
                return False
            self._taken = slot, number
        return True

    def holds(self, slot: int) -> bool:
        """Whether `slot` has not been overwritten, nor begun to be.

        Once this reader is closed nobody knows, unless the writer had closed the ring before: then it stays as it is.
        """
        if not self.is_open:
            return self._kept_from is not None and self._kept_from <= slot
        if not STORES_ARE_ORDERED:
            fence()
        return self._words[TAIL] <= slot

    def view(self, slot: Slot) -> memoryview:
        """Return the bytes of a batch where they are, read-only. They may change at any time: ask `holds` after use."""
        offset = self._data_at + slot.position % self.data_bytes
        return memoryview(self._map).toreadonly()[offset : offset + slot.size_bytes]

    def read(self, slot: Slot, *, looks: int = SETTLING_READS) -> Buffer:
        """Copy a batch out; raise RingTorn if the writer has overtaken it meanwhile, or its checksum stays wrong."""
        offset = self._data_at + slot.position % self.data_bytes
        words = self._words
        for _ in range(looks):
            if slot.size_bytes < WORTH_BYTES:
                raw: Buffer = self._map[offset : offset + slot.size_bytes]
            else:
                with memoryview(self._map) as whole, whole[offset : offset + slot.size_bytes] as held:
                    raw = self._large.copy(held)
            if not STORES_ARE_ORDERED:
                fence()
            if (
                words[TAIL] > slot.slot
                or words[HEADER_BYTES // 8 + slot.slot % self._slots * SLOT_WORDS] != slot.slot + 1
            ):
                break
            if not self.has_checksums or zlib.crc32(raw) == slot.checksum:
                return raw
        raise RingTorn(f"slot {slot.slot} of {self.path.name} was overwritten while it was read")

    def find(self, sequence: int) -> int:
        """The number of the oldest held slot that ends after `sequence`, or that holds no packet and stands at or after it."""
        return self.first(
            lambda slot: slot.end_sequence > sequence or (slot.packet_count == 0 and slot.first_sequence >= sequence)
        )

    def first(self, holds: Callable[[Slot], bool]) -> int:
        """The number of the oldest held slot for which `holds` is true; it must then be true for all newer slots too."""
        low, high = self.tail, self.head
        while low < high:
            middle = (low + high) // 2
            found = self.slot(middle)
            if found is None:  # overwritten meanwhile, so it is older than what is wanted or gone anyway
                low = max(middle + 1, self.tail)
            elif holds(found):
                high = middle
            else:
                low = middle + 1
        return low

    def newest(self, first: int) -> int:
        """The number of the newest slot from `first` on that holds a packet; `first` if there is none."""
        at = self.head
        while at > max(first, self.tail):
            at -= 1
            found = self.slot(at)
            if found is None or found.packet_count:
                return at
        return max(first, at)

    def remarks(self, first: int, until: int) -> list[Slot]:
        """The held slots of [first, until) that may say something beside their packets, among the last that are looked at."""
        told = []
        with memoryview(self._map) as bytes_:
            for at in range(max(first, until - SKIPPED_LOOKED_AT, self.tail), until):
                found = self.slot(at)
                if found is None:
                    continue
                offset = self._data_at + found.position % self.data_bytes
                # Overwritten meanwhile it says anything, which whoever reads it will find out.
                with bytes_[offset : offset + found.size_bytes] as raw:
                    if not found.packet_count or bears_remarks(raw):
                        told.append(found)
        return told

    def spin_wait(self, head: int, most_ns: int) -> bool:
        """Whether something comes beyond `head` within some microseconds, which are waited for without sleeping.

        False at once where there is no native core: Python would look too seldom.
        """
        return self.memory.spin_wait(head, most_ns)

    def will_sleep(self, head: int) -> bool:
        """Ask to be woken by the fifo; False if something has come beyond `head`, so that one must not sleep."""
        return self.memory.will_sleep(head)

    def close(self) -> None:
        """Let go of the ring; idempotent. The memory goes when no batch refers to it any more."""
        if not self.is_open:
            return
        self.is_open = False
        self._kept_from = self._words[TAIL] if self.closed_by_writer else None
        self._words.release()
        self.memory.close()
        with contextlib.suppress(BufferError):  # batches that stayed in place are still looked at
            self._map.close()


def _is_ring(whole: mmap.mmap, nonce: int) -> bool:
    """Whether this is the memory of a ring with that nonce, as large as its header says."""
    if len(whole) < HEADER_BYTES:
        return False
    with memoryview(whole) as all_bytes, all_bytes[:HEADER_BYTES] as first, first.cast("Q") as header:
        slots, data_bytes = header[SLOTS], header[DATA_BYTES]
        is_whole = slots > 0 and data_bytes > 0 and len(whole) == HEADER_BYTES + slots * SLOT_BYTES + data_bytes
        return header[MAGIC] == IS_A_RING and header[NONCE] == nonce and is_whole

"""Where what stands in a ring, and how it is looked at: words of the header, and of a slot (docs/wire.md)."""

from __future__ import annotations

import os
import platform
import threading
from typing import Final, NamedTuple

from usbcast_schemas import engine

IS_A_RING: Final = int.from_bytes(b"USBCRNG1", "little")
HEADER_BYTES: Final = 4096
SLOT_WORDS: Final = 6
SLOT_BYTES: Final = SLOT_WORDS * 8

# Words of the header. Each of the last four has a cache line of its own: other processes write or poll it.
MAGIC, NONCE, EPOCH, SLOTS, DATA_BYTES, FLAGS = range(6)
HEAD, TAIL, WAITING, HEARTBEAT, STATE, SOURCE_SILENT = 16, 17, 24, 32, 33, 34
FLAG_CHECKSUMS = 1
STATE_LIVE, STATE_CLOSED = 0, 1

# Words of a slot.
NUMBER_PLUS_ONE, BATCH_NUMBER, FIRST_SEQUENCE, COUNT_AND_LENGTH, POSITION, CHECKSUM = range(SLOT_WORDS)

SPIN_WAIT_NS = 30_000
"""For how long a reader that has just caught up polls the head: sleeping and waking cost both sides some 10 µs each."""

engine.agree(
    HEADER_BYTES=HEADER_BYTES, SLOT_WORDS=SLOT_WORDS, HEAD=HEAD, TAIL=TAIL, WAITING=WAITING, STATE=STATE,
    NUMBER_PLUS_ONE=NUMBER_PLUS_ONE, BATCH_NUMBER=BATCH_NUMBER, FIRST_SEQUENCE=FIRST_SEQUENCE,
    COUNT_AND_LENGTH=COUNT_AND_LENGTH, POSITION=POSITION, CHECKSUM=CHECKSUM, SPIN_WAIT_NS=SPIN_WAIT_NS,
)  # fmt: skip

STORES_ARE_ORDERED = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")

_fence_lock = threading.Lock()


def fence() -> None:
    """A full memory barrier: taking and giving back a lock is a locked instruction."""
    with _fence_lock:
        pass


def wake(words: memoryview, wake_fd: int) -> None:
    """Wake the readers that said they would sleep; costs nothing when none did.

    A reader raises the flag and then looks at the head; the writer moves the head and then looks at the flag, with a
    barrier between the two on both sides, so that one of them sees the other. The flag is cleared before the wake-up
    is sent, never after: the other order can clear the flag of a reader that has just gone back to sleep.
    """
    fence()
    if words[WAITING]:
        words[WAITING] = 0
        # Each write is a new edge for every reader's epoll. Nobody reads the fifo, so it is emptied when it is full.
        try:
            os.write(wake_fd, b"\0")
        except BlockingIOError:
            os.read(wake_fd, 1 << 20)
            os.write(wake_fd, b"\0")


class Slot(NamedTuple):
    """What the table says of one held batch."""

    slot: int
    number: int
    first_sequence: int
    packet_count: int
    size_bytes: int
    position: int
    checksum: int

    @property
    def end_sequence(self) -> int:
        return self.first_sequence + self.packet_count


def read_slot(words: memoryview, slot: int, slots: int) -> Slot | None:
    """What the words of a ring of so many `slots` say of one; None if they speak of another."""
    base = HEADER_BYTES // 8 + slot % slots * SLOT_WORDS
    named, number, first, sizes, position, checksum = words[base : base + SLOT_WORDS]
    if named != slot + 1:
        return None
    return Slot(slot, number, first, sizes >> 32, sizes & 0xFFFF_FFFF, position, checksum)

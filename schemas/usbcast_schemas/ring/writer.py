"""The writer of a ring.

The writer never waits for a reader and does not know of any. Readers find out by themselves whether what they read was
overwritten, so the order of the stores is the protocol (docs/wire.md; docs/model/ring.pml checks it):

1. TAIL moves past every slot whose bytes or table entry are about to be reused. A reader that copies one of them looks at TAIL
   afterwards and sees that its copy is worthless.
2. The bytes of the batch are written, then the words of its slot.
3. HEAD moves, and only now does the slot exist for readers.
4. The waiting flag is read, behind a barrier (`wake`).

Where a CPU may show stores in another order, Python has no stores that would prevent it: such a ring has checksums, and a
reader accepts a slot only when its bytes fit.
"""

from __future__ import annotations

import mmap
import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usbcast_schemas import native
from usbcast_schemas.batch import Buffer
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import ConfigError
from usbcast_schemas.ring.files import make_fifo, make_file
from usbcast_schemas.ring.layout import (
    BATCH_NUMBER,
    CHECKSUM,
    COUNT_AND_LENGTH,
    DATA_BYTES,
    EPOCH,
    FIRST_SEQUENCE,
    FLAG_CHECKSUMS,
    FLAGS,
    HEAD,
    HEADER_BYTES,
    HEARTBEAT,
    IS_A_RING,
    MAGIC,
    NONCE,
    NUMBER_PLUS_ONE,
    POSITION,
    SLOT_BYTES,
    SLOT_WORDS,
    SLOTS,
    SOURCE_SILENT,
    STATE,
    STATE_CLOSED,
    STORES_ARE_ORDERED,
    TAIL,
    WAITING,
    Slot,
    fence,
    read_slot,
)

if TYPE_CHECKING:
    from usbcast_schemas._native import ShortWay

DEFAULT_DATA_BYTES = 64 * 1024 * 1024
DEFAULT_SLOTS = 262_144


class RingWriter:
    """The only writer of one ring file; holds a lock on it, and removes it on close.

    Raises RingUnavailable if there is no room or no place, ConfigError if the sizes make no ring.
    """

    def __init__(
        self,
        directory: Path,
        stream: str,
        epoch: int,
        *,
        data_bytes: int = DEFAULT_DATA_BYTES,
        slots: int = DEFAULT_SLOTS,
        checksums: bool = not STORES_ARE_ORDERED,
        copy: bool = False,
        level: tuple[int, int] = (0, 0),
    ) -> None:
        if data_bytes < 4096 or data_bytes % 8 or slots < 2:
            raise ConfigError(
                f"a ring cannot have {data_bytes} bytes and {slots} slots: use at least 4096 bytes, a multiple of 8, and 2 slots"
            )
        self.nonce = secrets.randbits(64)
        # A bridge on the machine of its upstream has a ring of the same stream and epoch.
        name = f"{stream}-{epoch:016x}-{self.nonce:016x}" if copy else f"{stream}-{epoch:016x}"
        self.path = directory / f"{name}.ring"
        self.wake_path = directory / f"{name}.wake"
        self.data_bytes = data_bytes
        self.checksums = checksums
        self._slots = slots
        self._data_at = HEADER_BYTES + slots * SLOT_BYTES
        self._head = self._tail = self._position = 0
        self._level = level
        size = self._data_at + data_bytes
        unfinished = self.path.with_suffix(".new")
        self._fd = make_file(unfinished, size, stream)
        try:
            self._map = mmap.mmap(self._fd, size)
            self._words = memoryview(self._map)[: self._data_at].cast("Q")
            for word, value in (
                (NONCE, self.nonce),
                (EPOCH, epoch),
                (SLOTS, slots),
                (DATA_BYTES, data_bytes),
                (FLAGS, FLAG_CHECKSUMS if checksums else 0),
                (MAGIC, IS_A_RING),
            ):
                self._words[word] = value
            self._wake_fd = make_fifo(self.wake_path)
            plain = native.core is not None and not checksums
            self._native = native.core.Ring(self._map, slots, data_bytes, self._wake_fd) if plain else None
            if self._native is not None:
                self._native.next_sequence, self._native.next_number = level
            unfinished.rename(self.path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            os.close(self._fd)
            raise

    @property
    def oldest(self) -> Slot | None:
        """The oldest batch still held."""
        tail = self._words[TAIL]
        return read_slot(self._words, tail, self._slots) if tail < self._words[HEAD] else None

    @property
    def next_sequence(self) -> int:
        """Of the packet behind the newest batch; before there is one, as given at the beginning."""
        return self._level[0] if self._native is None else self._native.next_sequence

    @property
    def next_number(self) -> int:
        """Of the batch behind the newest; before there is one, as given at the beginning."""
        return self._level[1] if self._native is None else self._native.next_number

    def write(self, *parts: Buffer, number: int, first_sequence: int, packet_count: int) -> None:
        """Store one batch, given in one piece or in several; raise ConfigError if it is larger than the whole ring."""
        if self._native is not None:
            try:
                self._native.write(parts, number, first_sequence, packet_count)
            except BufferError:
                raise self._too_large(sum(map(len, parts))) from None
            return
        length = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        size, words, slots, head = self.data_bytes, self._words, self._slots, self._head
        if length > size:
            raise self._too_large(length)
        position = self._position
        if position % size + length > size:
            position += size - position % size
        end = position + length
        tail = self._tail
        at = HEADER_BYTES // 8
        while tail < head and (head - tail >= slots or words[at + tail % slots * SLOT_WORDS + POSITION] + size < end):
            tail += 1
        if tail != self._tail:
            words[TAIL] = self._tail = tail
        offset = self._data_at + position % size
        checksum = 0
        for part in parts:
            self._map[offset : offset + len(part)] = part
            offset += len(part)
            if self.checksums:
                checksum = zlib.crc32(part, checksum)
        base = at + head % slots * SLOT_WORDS
        words[base + NUMBER_PLUS_ONE] = head + 1
        words[base + BATCH_NUMBER] = number
        words[base + FIRST_SEQUENCE] = first_sequence
        words[base + COUNT_AND_LENGTH] = packet_count << 32 | length
        words[base + POSITION] = position
        words[base + CHECKSUM] = checksum
        self._position = (end + 7) & ~7
        words[HEAD] = self._head = head + 1
        self._level = first_sequence + packet_count, number + 1
        self.wake()

    def write_run(
        self,
        items: list[Any],
        kind: type,
        most_bytes: int,
        epoch: int,
        number: int,
        first_sequence: int,
        packet_size: int,
    ) -> tuple[int, int, int] | None:
        """Store the batches of a list of transfers, which are of `kind`, each of no more than `most_bytes` of payload.

        Return how many batches, packets and bytes; None, with nothing done, where that is not so simple: if there is anything
        else in the list, or a transfer that is not whole packets; if they would take more than half of the ring; or if there is
        no native core.
        """
        if self._native is None:
            return None
        return self._native.write_run(items, kind, most_bytes, CONTRACT, epoch, number, first_sequence, packet_size)

    def short_way(self, kind: type, epoch: int) -> ShortWay | None:
        """A way for transfers of `kind` to become batches here in one call; None where there is no native core."""
        if native.core is None or self._native is None:
            return None
        return native.core.ShortWay(self._native, kind, CONTRACT, epoch)

    def send(self, publish: Callable[[Buffer], object], count: int) -> None:
        """Call `publish` with each of the newest `count` batches that are still held, the oldest of them first, in place.

        To be used before something else is written. Only what `write_run` and the short way wrote is looked for here.
        """
        if self._native is not None:
            self._native.send(publish, count)

    def wake(self) -> None:
        """Wake the readers that said they would sleep; costs nothing when none did.

        A reader raises the flag and then looks at the head; the writer moves the head and then looks at the flag, with a
        barrier between the two on both sides, so that one of them sees the other. The flag is cleared before the wake-up
        is sent, never after: the other order can clear the flag of a reader that has just gone back to sleep.
        """
        fence()
        if self._words[WAITING]:
            self._words[WAITING] = 0
            self._send_wake_up()

    def _send_wake_up(self) -> None:
        # Each write is a new edge for every reader's epoll. Nobody reads the fifo, so it is emptied when it is full.
        try:
            os.write(self._wake_fd, b"\0")
        except BlockingIOError:
            os.read(self._wake_fd, 1 << 20)
            os.write(self._wake_fd, b"\0")

    def _too_large(self, length: int) -> ConfigError:
        return ConfigError(
            f"a batch of {length} bytes does not fit into a ring of {self.data_bytes}: make the ring larger"
        )

    def beat(self, monotonic_ns: int, source_silent_ns: int = 0) -> None:
        """Say that the writer lives; and, of a bridge, for how long it has heard nothing of where the stream comes from."""
        if self._map.closed:
            return
        self._words[HEARTBEAT] = monotonic_ns
        self._words[SOURCE_SILENT] = source_silent_ns

    def close(self) -> None:
        """Say that nothing more will come, wake everybody, remove the files. Readers keep what they have mapped."""
        if self._map.closed:
            return
        self._words[STATE] = STATE_CLOSED
        self._words[WAITING] = 1
        self.wake()
        self.path.unlink(missing_ok=True)
        self.wake_path.unlink(missing_ok=True)
        self._words.release()
        if self._native is not None:
            self._native.close()
        self._map.close()
        os.close(self._fd)
        os.close(self._wake_fd)

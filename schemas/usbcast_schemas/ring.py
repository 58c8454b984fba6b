"""The ring: a bounded store of encoded batches in shared memory; the newest overwrite the oldest and writers never wait.

One file per epoch of a stream. Layout (docs/wire.md): a header page, a slot table, a data area in which each batch is
contiguous. Every index is an 8-byte aligned native word, stored in one piece: `memoryview.cast("Q")` does that, unaligned
or byte-swapped struct packing was seen to tear.

Order of the writer: advance the tail past what will be overwritten, copy the bytes, fill the slot, advance the head, look at
the waiting flag. Order of a reader: see the slot below the head, copy, then see that the tail has not passed it. Where the
machine may show stores in another order than they were made (anything but x86), slots carry a CRC-32 as well. Where slots
carry none, the native core does the same work, if there is one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import platform
import secrets
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from usbcast_schemas import native
from usbcast_schemas.batch import MAX_BATCH_BYTES, Arrivals, Buffer, EncodedBatch, bears_remarks, decode_batch
from usbcast_schemas.contract import CONTRACT, MAJOR
from usbcast_schemas.errors import ConfigError, RingTorn, RingUnavailable
from usbcast_schemas.recycling import WORTH_BYTES, RecycledBuffers

if TYPE_CHECKING:
    from usbcast_schemas._native import Follower, ShortWay

MAGIC = int.from_bytes(b"USBCRNG1", "little")
HEADER_BYTES = 4096
SLOT_WORDS = 6
SLOT_BYTES = SLOT_WORDS * 8

DEFAULT_DATA_BYTES = 64 * 1024 * 1024
DEFAULT_SLOTS = 262_144

SKIPPED_LOOKED_AT = 2048
"""Of the batches that are skipped for the newest, so many are looked at for what they say of the device: some 10 ms."""

# Words of the header. Each of the last four has a cache line of its own: other processes write or poll it.
_MAGIC, _NONCE, _EPOCH, _SLOTS, _DATA_BYTES, _FLAGS = range(6)
_HEAD, _TAIL, _WAITING, _HEARTBEAT, _STATE, _SOURCE_SILENT = 16, 17, 24, 32, 33, 34
_FLAG_CHECKSUMS = 1
_STATE_LIVE, _STATE_CLOSED = 0, 1

# Words of a slot.
_NUMBER_PLUS_ONE, _BATCH_NUMBER, _FIRST_SEQUENCE, _COUNT_AND_LENGTH, _POSITION, _CHECKSUM = range(SLOT_WORDS)

STORES_ARE_ORDERED = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")

SETTLING_READS = 1000
"""Where stores may show late, the bytes of a slot may come after it; what is still wrong after so many looks stays so."""

_fence_lock = threading.Lock()


def _fence() -> None:
    """A full memory barrier: taking and giving back a lock is a locked instruction."""
    with _fence_lock:
        pass


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
                f"a ring of {data_bytes} bytes and {slots} slots cannot be: at least 4096 bytes, in multiples of 8, and 2 slots"
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
        self._fd = _make_file(unfinished, size, stream)
        try:
            self._map = mmap.mmap(self._fd, size)
            self._words = memoryview(self._map)[: self._data_at].cast("Q")
            for word, value in (
                (_NONCE, self.nonce),
                (_EPOCH, epoch),
                (_SLOTS, slots),
                (_DATA_BYTES, data_bytes),
                (_FLAGS, _FLAG_CHECKSUMS if checksums else 0),
                (_MAGIC, MAGIC),
            ):
                self._words[word] = value
            self._wake_fd = _make_fifo(self.wake_path)
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
        tail = self._words[_TAIL]
        return _read_slot(self._words, tail, self._slots) if tail < self._words[_HEAD] else None

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
        while tail < head and (head - tail >= slots or words[at + tail % slots * SLOT_WORDS + _POSITION] + size < end):
            tail += 1
        if tail != self._tail:
            words[_TAIL] = self._tail = tail
        offset = self._data_at + position % size
        checksum = 0
        for part in parts:
            self._map[offset : offset + len(part)] = part
            offset += len(part)
            if self.checksums:
                checksum = zlib.crc32(part, checksum)
        base = at + head % slots * SLOT_WORDS
        words[base + _NUMBER_PLUS_ONE] = head + 1
        words[base + _BATCH_NUMBER] = number
        words[base + _FIRST_SEQUENCE] = first_sequence
        words[base + _COUNT_AND_LENGTH] = packet_count << 32 | length
        words[base + _POSITION] = position
        words[base + _CHECKSUM] = checksum
        self._position = (end + 7) & ~7
        words[_HEAD] = self._head = head + 1
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
        else in the list, a transfer that is not whole packets or larger than a batch; if they would take more than half of
        the ring; or if there is no native core.
        """
        if self._native is None:
            return None
        return self._native.write_run(items, kind, most_bytes, CONTRACT, epoch, number, first_sequence, packet_size)

    def short_way(self, kind: type, epoch: int) -> ShortWay | None:
        """A way for transfers of `kind` to become batches here in one call; None where there is no native core."""
        if native.core is None or self._native is None:
            return None
        return native.core.ShortWay(self._native, kind, CONTRACT, epoch)

    def written(self, count: int) -> list[memoryview]:
        """The newest `count` batches that are still held, the oldest of them first, in place.

        To be used before something else is written. Only what `write_run` and the short way wrote is looked for here.
        """
        return self._native.written(count) if self._native is not None else []

    def wake(self) -> None:
        """Wake the readers that said they would sleep; costs nothing when none did.

        A reader raises the flag and then looks at the head; the writer moves the head and then looks at the flag, with a
        barrier between the two on both sides, so that one of them sees the other. The flag is cleared before the wake-up
        is sent, never after: the other order can clear the flag of a reader that has just gone back to sleep.
        """
        _fence()
        if self._words[_WAITING]:
            self._words[_WAITING] = 0
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
        self._words[_HEARTBEAT] = monotonic_ns
        self._words[_SOURCE_SILENT] = source_silent_ns

    def close(self) -> None:
        """Say that nothing more will come, wake everybody, remove the files. Readers keep what they have mapped."""
        if self._map.closed:
            return
        self._words[_STATE] = _STATE_CLOSED
        self._words[_WAITING] = 1
        self.wake()
        self.path.unlink(missing_ok=True)
        self.wake_path.unlink(missing_ok=True)
        self._words.release()
        if self._native is not None:
            self._native.close()
        self._map.close()
        os.close(self._fd)
        os.close(self._wake_fd)


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
        header = memoryview(self._map)[:HEADER_BYTES].cast("Q")
        slots, data_bytes = header[_SLOTS], header[_DATA_BYTES]
        sound = header[_MAGIC] == MAGIC and len(self._map) == HEADER_BYTES + slots * SLOT_BYTES + data_bytes
        if not sound or header[_NONCE] != nonce:
            header.release()
            self._map.close()
            raise RingUnavailable(f"{path} is not the ring that the node described: describe the stream again")
        self.epoch = header[_EPOCH]
        self.data_bytes = data_bytes
        self._slots = slots
        self._checksums = bool(header[_FLAGS] & _FLAG_CHECKSUMS)
        self._data_at = HEADER_BYTES + slots * SLOT_BYTES
        header.release()
        self._words = memoryview(self._map)[: self._data_at].cast("Q")
        self._large = RecycledBuffers()
        self._is_closed = False
        self._kept_from: int | None = None
        """The oldest slot of a ring to which nobody writes any more."""
        plain = STORES_ARE_ORDERED and not self._checksums
        self._native = native.core.Ring(self._map, slots, data_bytes) if native.core and plain else None

    @property
    def head(self) -> int:
        """The slot number that comes next."""
        return self._words[_HEAD]

    @property
    def tail(self) -> int:
        """The oldest slot number still held."""
        return self._words[_TAIL]

    @property
    def closed_by_writer(self) -> bool:
        return self._words[_STATE] == _STATE_CLOSED

    @property
    def heartbeat_monotonic_ns(self) -> int:
        return self._words[_HEARTBEAT]

    @property
    def source_silent_ns(self) -> int:
        return self._words[_SOURCE_SILENT]

    def slot(self, slot: int) -> Slot | None:
        """What the table says of `slot`, or None if it is not held (any more, or yet)."""
        words = self._words
        if not words[_TAIL] <= slot < words[_HEAD]:
            return None
        found = _read_slot(words, slot, self._slots)
        if found is None or words[_TAIL] > slot:
            return None
        return found

    def take(self, slot: int) -> EncodedBatch | None:
        """The batch in `slot`, decoded, or None if it is not held (any more, or yet). Raises WireError, VersionMismatch."""
        if self._native is not None:
            # The large ones are copied into buffers of our own, by `read`.
            taken = self._native.take(WORTH_BYTES, MAJOR, EncodedBatch, Arrivals, slot)
            if taken is not None:
                return taken if isinstance(taken, EncodedBatch) else decode_batch(taken)
        found = self.slot(slot)
        if found is None:
            return None
        try:
            return decode_batch(self.read(found))
        except RingTorn:
            return None

    def holds(self, slot: int) -> bool:
        """Whether `slot` has not been overwritten, nor begun to be.

        Once this reader is closed nobody knows, unless the writer had closed the ring before: then it stays as it is.
        """
        if self._is_closed:
            return self._kept_from is not None and self._kept_from <= slot
        if not STORES_ARE_ORDERED:
            _fence()
        return self._words[_TAIL] <= slot

    def follower(self, *, copy: bool = True) -> Follower | None:
        """Takes batches that simply follow one another, in one call each; None where there is no native core.

        Without `copy` they are of type BatchInPlace, and large ones are among them.
        """
        if native.core is None or self._native is None:
            return None
        kind, owner, most_bytes = (EncodedBatch, None, WORTH_BYTES) if copy else (BatchInPlace, self, MAX_BATCH_BYTES)
        return native.core.Follower(self._native, most_bytes, MAJOR, kind, Arrivals, owner)

    def read(self, slot: Slot) -> Buffer:
        """Copy a batch out; raise RingTorn if the writer has overtaken it meanwhile, or it is damaged for good."""
        offset = self._data_at + slot.position % self.data_bytes
        words = self._words
        for _ in range(SETTLING_READS):
            if slot.size_bytes < WORTH_BYTES:
                raw: Buffer = self._map[offset : offset + slot.size_bytes]
            else:
                with memoryview(self._map) as whole, whole[offset : offset + slot.size_bytes] as held:
                    raw = self._large.copy(held)
            if not STORES_ARE_ORDERED:
                _fence()
            if (
                words[_TAIL] > slot.slot
                or words[HEADER_BYTES // 8 + slot.slot % self._slots * SLOT_WORDS] != slot.slot + 1
            ):
                break
            if not self._checksums or zlib.crc32(raw) == slot.checksum:
                return raw
        raise RingTorn(f"slot {slot.slot} of {self.path.name} was overwritten while it was read")

    def find(self, sequence: int) -> int:
        """The number of the oldest held slot that ends after `sequence`, or that holds no packet and stands at or after it."""
        low, high = self.tail, self.head
        while low < high:
            middle = (low + high) // 2
            found = self.slot(middle)
            if found is None:  # overwritten meanwhile, so it is older than what is wanted or gone anyway
                low = max(middle + 1, self.tail)
            elif found.end_sequence > sequence or (found.packet_count == 0 and found.first_sequence >= sequence):
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

    def linger(self, head: int, most_ns: int) -> bool:
        """Whether something comes beyond `head` within some microseconds, which are waited for without sleeping.

        False at once where there is no native core: Python would look too seldom.
        """
        return self._native is not None and self._native.linger(head, most_ns)

    def will_sleep(self, head: int) -> bool:
        """Ask to be woken by the fifo; False if something has come beyond `head`, so that one must not sleep."""
        if self._native is not None:
            return self._native.will_sleep(head)
        self._words[_WAITING] = 1
        _fence()
        return self._words[_HEAD] == head and not self._words[_STATE]

    def close(self) -> None:
        """Let go of the ring; idempotent. The memory goes when no batch refers to it any more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._kept_from = self._words[_TAIL] if self.closed_by_writer else None
        self._words.release()
        if self._native is not None:
            self._native.close()
        with contextlib.suppress(BufferError):  # batches that stayed in place are still looked at
            self._map.close()


def _read_slot(words: memoryview, slot: int, slots: int) -> Slot | None:
    base = HEADER_BYTES // 8 + slot % slots * SLOT_WORDS
    named, number, first, sizes, position, checksum = words[base : base + SLOT_WORDS]
    if named != slot + 1:
        return None
    return Slot(slot, number, first, sizes >> 32, sizes & 0xFFFF_FFFF, position, checksum)


def sweep(directory: Path) -> list[Path]:
    """Remove the rings in `directory` whose owner is dead (nobody holds the lock); return what was removed."""
    removed = []
    for path in sorted([*directory.glob("*.ring"), *directory.glob("*.new")]):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            continue  # gone meanwhile, or not ours
        try:
            if path.suffix == ".new" and time.time() - os.fstat(fd).st_mtime < 60:
                continue  # another node is making it right now
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            path.unlink(missing_ok=True)
            path.with_suffix(".wake").unlink(missing_ok=True)
            removed.append(path)
        finally:
            os.close(fd)
    return removed


def _make_file(path: Path, size: int, stream: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise RingUnavailable(
            f"cannot make the ring of stream {stream!r} in {path.parent}: {error.strerror}; "
            "set USBCAST_RING_DIR to a directory that this user may write to"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Every page now: a page that cannot be had later would be a SIGBUS in the middle of a write.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.truncate(fd, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        os.close(fd)
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        free = os.statvfs(path.parent)
        raise RingUnavailable(
            f"the ring of stream {stream!r} needs {size / 2**20:.0f} MiB in {path.parent}, which has "
            f"{free.f_bavail * free.f_frsize / 2**20:.0f} MiB free: make it smaller with --ring-size, free some room, "
            "or set USBCAST_RING_DIR to another place"
        ) from None
    return fd


def _make_fifo(path: Path) -> int:
    os.mkfifo(path, 0o600)
    # For reading too, so that opening does not wait for a reader and a write never meets a closed pipe.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


__all__ = ["BatchInPlace", "RingReader", "RingWriter", "Slot", "sweep"]

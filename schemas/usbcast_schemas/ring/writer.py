"""The file of a ring, by the process that writes it: made, locked, kept alive, and removed. The engine writes into it."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from usbcast_schemas.engine import writers  # not its functions: they need this package
from usbcast_schemas.engine.protocols import RingMemory, StreamWriter
from usbcast_schemas.errors import ConfigError
from usbcast_schemas.ring.files import make_fifo, make_file
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
    SLOTS,
    SOURCE_SILENT,
    STATE,
    STATE_CLOSED,
    STORES_ARE_ORDERED,
    TAIL,
    WAITING,
    Slot,
    read_slot,
    wake,
)

DEFAULT_DATA_BYTES = 64 * 1024 * 1024
DEFAULT_SLOTS = 262_144


class RingWriter:
    """The owner of one ring file; holds a lock on it, and removes it on close. `stream_writer` fills it.

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
        make_writer: Callable[[RingMemory], StreamWriter] | None = None,
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
        data_at = HEADER_BYTES + slots * SLOT_BYTES
        unfinished = self.path.with_suffix(".new")
        self._fd = make_file(unfinished, data_at + data_bytes, stream)
        try:
            self._map = mmap.mmap(self._fd, data_at + data_bytes)
            self._words = memoryview(self._map)[:data_at].cast("Q")
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
            memory = RingMemory(self._map, self._words, slots, data_bytes, self._wake_fd, checksums, epoch, *level)
            self.stream_writer = (make_writer or writers.stream_writer)(memory)
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
        wake(self._words, self._wake_fd)
        self.path.unlink(missing_ok=True)
        self.wake_path.unlink(missing_ok=True)
        self.stream_writer.release()
        self._words.release()
        self._map.close()
        os.close(self._fd)
        os.close(self._wake_fd)

"""The memory of a ring as its readers use it: what both engines do with the words and the bytes that the writer shares.

Where stores may show late, and in rings with checksums, Python does it (`PureMemory`), whatever the engine.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from usbcast_schemas import engine
from usbcast_schemas.batch import MAKER, Arrivals, EncodedBatch
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring.layout import HEAD, STATE, WAITING, fence

if TYPE_CHECKING:
    from usbcast_schemas import _native


class ReaderMemory(Protocol):
    """What a `RingReader` leaves to the engine."""

    @property
    def native(self) -> _native.Ring | None:
        """The same memory as the native core reads it; None if Python does."""

    def take(self, slot: int, /) -> EncodedBatch | bytes | None:
        """Return the batch in `slot`, or its bytes if they are still to be decoded; None if the caller has to look itself."""

    def spin_wait(self, head: int, most_ns: int, /) -> bool:
        """Return True if something comes beyond `head` within some microseconds, which are waited for without sleeping."""

    def will_sleep(self, head: int, /) -> bool:
        """Ask to be woken by the fifo; return False if something has come beyond `head`, so that one must not sleep."""

    def close(self) -> None:
        """Let go of the memory; idempotent."""


class PureMemory:
    """As Python does it."""

    native = None

    def __init__(self, whole: mmap.mmap, words: memoryview, slots: int, data_bytes: int) -> None:
        del whole, slots, data_bytes
        self._words = words

    def take(self, slot: int, /) -> None:
        del slot

    def spin_wait(self, head: int, most_ns: int, /) -> bool:
        """Return False at once: Python would look too seldom."""
        del head, most_ns
        return False

    def will_sleep(self, head: int, /) -> bool:
        self._words[WAITING] = 1
        fence()
        return self._words[HEAD] == head and not self._words[STATE]

    def close(self) -> None:
        return


class NativeMemory:
    """As the native core does it."""

    def __init__(self, ring: _native.Ring) -> None:
        assert MAKER is not None
        self.native = ring
        self._maker = MAKER
        self.spin_wait = ring.spin_wait
        self.will_sleep = ring.will_sleep
        self.close = ring.close

    def take(self, slot: int, /) -> EncodedBatch | bytes | None:
        # The large ones are copied into buffers of their own, by `RingReader.read`.
        return self.native.take(WORTH_BYTES, MAJOR, self._maker, Arrivals, slot)


def _native_memory(core: ModuleType) -> Callable[[mmap.mmap, memoryview, int, int], ReaderMemory]:
    def made(whole: mmap.mmap, words: memoryview, slots: int, data_bytes: int) -> ReaderMemory:
        del words
        return NativeMemory(core.Ring(whole, slots, data_bytes))

    return made


memory_in_order: Callable[[mmap.mmap, memoryview, int, int], ReaderMemory] = engine.chosen(PureMemory, _native_memory)
"""Makes the memory of a ring without checksums, on a machine that shows stores in order: as the engine does it."""

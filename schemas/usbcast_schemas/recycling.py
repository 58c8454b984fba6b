"""Buffers that are used again once nobody looks at them: for copies so large that a new buffer costs more than the copy.

glibc maps each allocation of hundreds of kilobytes afresh, and the kernel fills every page of it with zeros on first touch:
for 448 KiB that took several times as long as copying them. Whether anybody still looks is told by the reference count,
since every view of a buffer, however it came about, refers to it.
"""

from __future__ import annotations

import sys

WORTH_BYTES = 128 * 1024
"""Below this malloc has it ready."""

KEPT = 4
"""Buffers of one owner; when all are looked at, the copy is an ordinary one."""

_ROUNDED_TO = 64 * 1024


class RecycledBuffers:
    """Copies memory into buffers of its own. Used by one thread; what it returns may go to any."""

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def copy(self, source: memoryview) -> bytes | memoryview:
        """The bytes of `source`, read-only, which stay as they are for as long as anything refers to them."""
        size = len(source)
        buffer = self._free(size) if size >= WORTH_BYTES else None
        if buffer is None:
            return bytes(source)
        view = memoryview(buffer)[:size]
        view[:] = source
        return view.toreadonly()

    def _free(self, size: int) -> bytearray | None:
        """Return an unused buffer of at least `size` bytes; None if there is none and the limit is reached."""
        for at in range(len(self._buffers)):
            if _references(self._buffers, at) == _UNUSED:
                if len(self._buffers[at]) < size:
                    self._buffers[at] = _new(size)
                return self._buffers[at]
        if len(self._buffers) == KEPT:
            return None
        self._buffers.append(_new(size))
        return self._buffers[-1]


def _new(size: int) -> bytearray:
    return bytearray(-(-size // _ROUNDED_TO) * _ROUNDED_TO)


def _references(buffers: list[bytearray], at: int) -> int:
    return sys.getrefcount(buffers[at])


_UNUSED = _references([bytearray(1)], 0)
"""Reference count of a buffer that only the list refers to; what the question itself adds depends on the Python version."""

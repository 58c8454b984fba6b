"""Timetable: when each packet of a simulated device is ready.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

_BLOCK: Final = 1024


class Timetable:
    """Packet `k` is due `k - base` periods after the origin, plus its jitter, and never before the one ahead of it."""

    def __init__(self, rate_hz: float, jitter_s: float, seed: int) -> None:
        self._period_ns = 1e9 / rate_hz
        self._jitter_ns = jitter_s * 1e9
        self._seed = seed
        self._origin_ns = 0
        self._base = 0
        self._block_first = -1
        self._block: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def restart(self, now_ns: int, base: int) -> None:
        """Packet `base` is due now, and the others follow."""
        self._origin_ns, self._base = now_ns, base
        self._block_first = -1

    def delay(self, duration_ns: int) -> None:
        """Delay everything from here on by `duration_ns`."""
        self._origin_ns += duration_ns

    def due_ns(self, k: int) -> int:
        """Return when packet `k` is ready; `k` is at least the base, and goes back by no more than a block."""
        if not self._jitter_ns:
            return self._origin_ns + self._nominal_ns(k - self._base)
        offset = k - self._base
        self._load(offset - offset % _BLOCK)
        return self._origin_ns + int(self._block[offset % _BLOCK])

    def ready(self, first: int, now_ns: int) -> int:
        """Return the number of packets from `first` on that are ready now."""
        if not self._jitter_ns:
            k = self._base + max(0, int((now_ns - self._origin_ns) / self._period_ns) - 1)
            k = max(first, k)
            while self.due_ns(k) <= now_ns:
                k += 1
            return k - first
        k = first
        while True:
            offset = k - self._base
            start = offset - offset % _BLOCK
            self._load(start)
            end = int(np.searchsorted(self._block, now_ns - self._origin_ns, side="right"))
            k = max(k, self._base + start + end)
            if end < _BLOCK:
                return k - first

    def _nominal_ns(self, offset: int) -> int:
        return math.ceil(offset * self._period_ns)

    def _load(self, start: int) -> None:
        """Compute the times of one block. They depend on all blocks before it, as far as their jitter reaches."""
        if start == self._block_first:
            return
        reach = int(self._jitter_ns / self._period_ns) // _BLOCK + 1
        carry = np.int64(0)
        if self._block_first == start - _BLOCK:
            carry, first = self._block[-1], start
        else:
            first = max(0, start - reach * _BLOCK)
        for at in range(first, start + 1, _BLOCK):
            random = np.random.default_rng([self._seed, 0x4A495454, self._base, at])
            nominal = np.arange(at, at + _BLOCK) * self._period_ns
            late = nominal + random.random(_BLOCK) * self._jitter_ns
            block = np.maximum.accumulate(np.ceil(late).astype(np.int64))
            self._block = np.maximum(block, carry)
            carry = self._block[-1]
        self._block_first = start

"""Moderation: whether what has just come is handled at once, or a moment later together with what follows it.

The idea is that of network drivers (interrupt moderation; NAPI, https://docs.kernel.org/networking/napi.html): single
packets are passed on at once, by the thread that read them; when they come faster than each of them can be handled, what
comes within a moment is handled together, which costs a fraction per packet and delays them by less than that moment.
"""

from __future__ import annotations

CLOSE_NS = 100_000
"""What comes so soon after the last turn is likely to be followed by more, just as soon."""

GATHER_S = 0.0001
"""How long a busy stream gathers before its next turn; the kernel adds its timer slack, 50 µs."""

GATHERED_BYTES = 48 * 1024
"""Enough for a good batch: then nothing is gained by waiting."""

INLINE_BYTES = 16 * 1024
"""A feed's thread handles up to so much itself; with more waiting, its next read is worth more than this packet's lag."""


class Moderation:
    """Of one stream. Pure: told when its turns were; monotonic nanoseconds.

    >>> moderation = Moderation()
    >>> moderation.at_once(10**9, 112)
    True
    >>> moderation.turned(10**9)
    >>> moderation.at_once(10**9 + 20_000, 112), moderation.at_once(10**9 + 200_000, 112)
    (False, True)
    """

    __slots__ = ("_turned_ns",)

    def __init__(self) -> None:
        self._turned_ns = -CLOSE_NS

    def turned(self, now_ns: int) -> None:
        """A turn of the stream that had something to do is over."""
        self._turned_ns = now_ns

    def at_once(self, now_ns: int, waiting_bytes: int) -> bool:
        """Whether the thread that brought it should handle what is waiting."""
        return waiting_bytes <= INLINE_BYTES and now_ns - self._turned_ns >= CLOSE_NS

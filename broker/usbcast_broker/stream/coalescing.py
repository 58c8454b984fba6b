"""Coalescing: decide whether what has just come is handled at once, or a moment later together with what follows it.

The idea is that of network drivers (interrupt moderation; NAPI, https://docs.kernel.org/networking/napi.html): single
packets are passed on at once, by the thread that read them; when they come faster than each of them can be handled, what
comes within a moment is handled together, which costs a fraction per packet and delays them by less than that moment. The
moment is as long as leaves most of the time for reading, within bounds.
"""

from __future__ import annotations

CLOSE_NS = 75_000
"""What comes so soon after the last turn is likely to be followed by more, just as soon: at more than 10,000 a second."""

READING_SHARE = 3
"""The next turn begins after so many times the time that the last one took."""

LEFT_NS = 500_000
"""What was left for the next turn waits for no longer than this."""

BUSY_NS = 2_000_000
"""A stream that had a turn within this time is busy."""

GATHERED_BYTES = 256 * 1024
"""With so much waiting nothing is gained by waiting for more."""

INLINE_BYTES = 16 * 1024
"""A thread that does not read meanwhile handles up to so much itself: with more waiting, its next read is worth more."""


class Coalescer:
    """The coalescing state of one stream. It is told when its turns were, in monotonic nanoseconds.

    >>> coalescing = Coalescer()
    >>> coalescing.turned(10**9 - 30_000, 10**9)
    >>> coalescing.next_ns - 10**9, coalescing.is_busy(10**9 + 200_000)
    (90000, True)
    """

    __slots__ = ("next_ns", "turned_ns")

    def __init__(self) -> None:
        self.next_ns = 0
        """From when on what comes is handled at once."""
        self.turned_ns = -BUSY_NS
        """When the last turn was over."""

    def turned(self, begun_ns: int, now_ns: int) -> None:
        """A turn of the stream that had something to do is over."""
        self.turned_ns = now_ns
        rest_ns = READING_SHARE * (now_ns - begun_ns)
        self.next_ns = now_ns + (CLOSE_NS if rest_ns < CLOSE_NS else LEFT_NS if rest_ns > LEFT_NS else rest_ns)

    def is_busy(self, now_ns: int) -> bool:
        """Whether more is to be expected soon."""
        return now_ns - self.turned_ns < BUSY_NS

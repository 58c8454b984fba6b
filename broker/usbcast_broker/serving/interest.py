"""The audience of a publishing socket: which topics anybody has subscribed to, and which ones may be subscribed to at all."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

MAX_PREFIXES = 1_000
"""Number of different subscriptions beyond which every topic counts as wanted; honest clients stay far below."""

SUBSCRIBED, CANCELLED = b"\x01", b"\x00"


class TopicInterest:
    """Pure: told what comes up from subscribers (an XPUB socket gives it), asked which topics are wanted.

    One thread tells; any may ask, as what it looks at is replaced as a whole.

    >>> audience = Audience()
    >>> interest.wants(b"data/imu/"), interest.on_subscription(b"\\x01data/"), interest.wants(b"data/imu/")
    (False, True, True)
    >>> interest.on_subscription(b"\\x01data/"), interest.on_subscription(b"\\x00data/"), interest.wants(b"data/imu/")
    (False, True, False)
    """

    def __init__(self) -> None:
        self._prefixes: frozenset[bytes] = frozenset()
        self._uncounted = False

    def on_subscription(self, message: bytes) -> bool:
        """A subscription (1 and a prefix of topics) or the end of the last one of its kind (0 and the prefix) came up.

        True if that changed anything.
        """
        kind, prefix = message[:1], message[1:]
        before = self._prefixes, self._uncounted
        if kind == SUBSCRIBED:
            if len(self._prefixes) < MAX_PREFIXES:
                self._prefixes |= {prefix}
            else:
                self._uncounted = True
        elif kind == CANCELLED:
            self._prefixes -= {prefix}
        return (self._prefixes, self._uncounted) != before

    def wants(self, topic: bytes) -> bool:
        """Return True if anybody subscribed to `topic`."""
        return self._uncounted or any(topic.startswith(prefix) for prefix in self._prefixes)


class Topics:
    """The topics that exist. A subscription is a prefix of topics; one that fits none of these can never be of use."""

    def __init__(self, topics: Iterable[bytes]) -> None:
        self._sorted = sorted(topics)

    def have(self, prefix: bytes) -> bool:
        """Return True if any of the topics begins with `prefix`.

        >>> topics = Topics([b"data/imu/", b"tail/imu/"])
        >>> [topics.have(prefix) for prefix in (b"", b"data", b"tail/imu/", b"data/imu/x", b"data/gps/")]
        [True, True, True, False, False]
        """
        at = bisect_left(self._sorted, prefix)
        return at < len(self._sorted) and self._sorted[at].startswith(prefix)


__all__ = ["CANCELLED", "SUBSCRIBED", "TopicInterest", "Topics"]

"""The audience of a publishing socket: which topics anybody has subscribed to, so that nothing is made for nobody."""

from __future__ import annotations

MAX_PREFIXES = 1_000
"""Beyond so many different subscriptions, which no honest set of clients has, everything counts as wanted."""


class Audience:
    """Pure: told what comes up from subscribers (an XPUB socket gives it), asked which topics are wanted.

    >>> audience = Audience()
    >>> audience.wants(b"data/imu/"), audience.tell(b"\\x01data/"), audience.wants(b"data/imu/")
    (False, True, True)
    >>> audience.tell(b"\\x00data/"), audience.wants(b"data/imu/"), audience.tell(b"what is this?")
    (True, False, False)
    """

    def __init__(self) -> None:
        self._prefixes: set[bytes] = set()
        self._wanted: dict[bytes, bool] = {}
        self._uncounted = False
        self.anybody = False
        """Whether anybody subscribed to anything."""

    def tell(self, message: bytes) -> bool:
        """A subscription (1 and a prefix of topics) or the end of the last one of its kind (0 and the prefix) came up.

        False for anything else: no subscriber sends that.
        """
        kind, prefix = message[:1], message[1:]
        if kind == b"\x01":
            if len(self._prefixes) < MAX_PREFIXES:
                self._prefixes.add(prefix)
            else:
                self._uncounted = True
        elif kind == b"\x00":
            self._prefixes.discard(prefix)
        else:
            return False
        self.anybody = self._uncounted or bool(self._prefixes)
        self._wanted.clear()
        return True

    def wants(self, topic: bytes) -> bool:
        """Whether anybody subscribed to `topic`, one of the few that are asked about."""
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = self._uncounted or any(topic.startswith(prefix) for prefix in self._prefixes)
            self._wanted[topic] = wanted
        return wanted


__all__ = ["Audience"]

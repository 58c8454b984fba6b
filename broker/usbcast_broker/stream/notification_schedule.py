"""When notifications go: the first at once, then at most one per interval, the last one always, and a heartbeat.

And when those go that are for subscribers who get the data anyway: once it has come to rest, and a heartbeat.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast_schemas.contract import HEARTBEAT_S, NOTIFICATION_INTERVAL_NS, TAIL_NS

HEARTBEAT_NS = int(HEARTBEAT_S * 1e9)


class NotificationPacer:
    """Pure: told of news, asked what is due; time is handed in, monotonic nanoseconds.

    >>> pacer = NotificationPacer(interval_ns=10, heartbeat_ns=100)
    >>> pacer.mark_new(); pacer.take(0), pacer.take(1)
    (True, False)
    >>> pacer.mark_new(); pacer.take(5), pacer.take(10), pacer.take(50), pacer.take(110)
    (False, True, False, True)
    """

    def __init__(self, interval_ns: int = NOTIFICATION_INTERVAL_NS, heartbeat_ns: int = HEARTBEAT_NS) -> None:
        self._interval_ns = interval_ns
        self._heartbeat_ns = heartbeat_ns
        self._news = True
        self.heartbeat_at_ns = 0
        """When something is to be sent even if there is no news."""
        self.due_at_ns = 0
        """When something is to be sent."""

    def mark_new(self) -> None:
        if not self._news:
            self._news = True
            self.due_at_ns -= self._heartbeat_ns - self._interval_ns

    def take(self, now_ns: int) -> bool:
        """Whether a notification is to be sent now; if so it counts as sent."""
        if now_ns < self.due_at_ns:
            return False
        self._news = False
        self.heartbeat_at_ns = self.due_at_ns = now_ns + self._heartbeat_ns
        return True


class TailPacer:
    """Pure: told of news and when they were, asked what is due; monotonic nanoseconds.

    >>> pacer = TailPacer(rest_ns=10, heartbeat_ns=100)
    >>> pacer.take(0), pacer.take(5)
    (True, False)
    >>> pacer.mark_new(6); pacer.mark_new(12); pacer.take(16), pacer.take(22), pacer.take(23)
    (False, True, False)
    >>> pacer.rests, pacer.mark_new(24), pacer.rests
    (True, None, False)
    """

    def __init__(self, rest_ns: int = TAIL_NS, heartbeat_ns: int = HEARTBEAT_NS) -> None:
        self._rest_ns = rest_ns
        self._heartbeat_ns = heartbeat_ns
        self._heartbeat_at_ns = 0
        self.due_at_ns = 0
        """When something is to be sent."""

    def mark_new(self, now_ns: int) -> None:
        """Something was published."""
        rests_at_ns = now_ns + self._rest_ns
        self.due_at_ns = rests_at_ns if rests_at_ns < self._heartbeat_at_ns else self._heartbeat_at_ns

    @property
    def rests(self) -> bool:
        """Whether nothing is to be sent but the heartbeat."""
        return self.due_at_ns >= self._heartbeat_at_ns

    def at_once(self) -> None:
        """It is over, or somebody has come who waits for it."""
        self.due_at_ns = 0

    def take(self, now_ns: int) -> bool:
        """Whether something is to be sent now; if so it counts as sent."""
        if now_ns < self.due_at_ns:
            return False
        self._heartbeat_at_ns = self.due_at_ns = now_ns + self._heartbeat_ns
        return True

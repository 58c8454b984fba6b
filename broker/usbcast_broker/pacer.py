"""When notifications go: the first at once, then at most one per interval, the last one always, and a heartbeat."""

from __future__ import annotations

from usbcast_schemas.contract import HEARTBEAT_S, NOTIFICATION_INTERVAL_NS

HEARTBEAT_NS = int(HEARTBEAT_S * 1e9)


class NotificationPacer:
    """Pure: told of news, asked what is due; time is handed in, monotonic nanoseconds.

    >>> pacer = NotificationPacer(interval_ns=10, heartbeat_ns=100)
    >>> pacer.news(); pacer.take(0), pacer.take(1)
    (True, False)
    >>> pacer.news(); pacer.take(5), pacer.take(10), pacer.take(50), pacer.take(110)
    (False, True, False, True)
    """

    def __init__(self, interval_ns: int = NOTIFICATION_INTERVAL_NS, heartbeat_ns: int = HEARTBEAT_NS) -> None:
        self._interval_ns = interval_ns
        self._heartbeat_ns = heartbeat_ns
        self._news = True
        self._sent_ns: int | None = None

    def news(self) -> None:
        self._news = True

    def take(self, now_ns: int) -> bool:
        """Whether a notification is to be sent now; if so it counts as sent."""
        if now_ns < self.due_at_ns:
            return False
        self._sent_ns = now_ns
        self._news = False
        return True

    @property
    def heartbeat_at_ns(self) -> int:
        """When something is to be sent even if there is no news."""
        return 0 if self._sent_ns is None else self._sent_ns + self._heartbeat_ns

    @property
    def due_at_ns(self) -> int:
        if self._sent_ns is None:
            return 0
        return self._sent_ns + (self._interval_ns if self._news else self._heartbeat_ns)

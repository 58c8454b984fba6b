"""Expectation: when a subscriber that hears nothing on the data socket asks the node what there is.

A batch is followed by another batch, or by the notification that says that the stream rests; while it rests, a heartbeat comes.
If neither comes in its time, it is late or cannot come: the node's data socket may be busy with what a crowd of peers has caused,
or the way to it may be stuck. A subscriber cannot tell which. But it has another socket, on which a fetch brings what there is.

When to ask is a trade between two costs. Asking late makes packets late; asking early asks for what is under way. Three numbers
settle it:

- The *interval* at which something comes, as measured. A stream that sends a batch every millisecond is late after some of them;
  one that sends a batch now and then is not late before the end-of-burst notification or the heartbeat is.
- The *margin* beyond that, which is learnt. Each alarm that was of no use, because something came before the second answer,
  doubles it; some seconds without one halve it; one that was of use resets it. So a network with much jitter, or a device with
  pauses, costs a fetch every few seconds, not one at each hiccup.
- The *distance* between two questions of one alarm. It stays as short as the first while the answers bring something, and doubles
  while they bring nothing. Whatever comes on the data socket ends the alarm.

All are spread by some random milliseconds, so that many subscribers of one socket do not ask at once.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import random

from usbcast_schemas.contract import HEARTBEAT_S, SILENCE_S, TAIL_NS

FIRST_NS, MOST_NS = 15_000_000, 240_000_000
"""Margin, and distance between two questions: at first and at most."""

JITTER_NS = FIRST_NS // 4
"""Each question comes at a random moment up to this much later."""

HALVED_AFTER_NS = 5_000_000_000
"""Time without an alarm after which the margin is halved."""

REST_NS = int(HEARTBEAT_S * 1e9) + 100_000_000
"""Time within which a heartbeat comes; the thread that sends it has other things to do as well."""

LEARN_FROM = 8
"""Pieces of news over which the interval is measured."""

REPLACE_NS = int(SILENCE_S * 1e9), 60_000_000_000
"""Time without a message after which the connection is replaced, at first and at most: a dead one would never speak again."""


class Expectation:
    """The expectation of one receiver. Times are monotonic, in ns; `heard_ns` is that of the last message on the data socket.

    >>> expectation, second = Expectation(), 10**9
    >>> expectation.learn(second, 0); expectation.learn(2 * second, 1000)  # a batch each millisecond
    >>> 16_000_000 <= expectation.due_ns(2 * second, rests=False) - 2 * second < 20_000_000
    True
    >>> expectation.due_ns(2 * second, rests=True) == expectation.due_ns(2 * second, rests=False)
    True
    """

    def __init__(self) -> None:
        self._interval_ns = REST_NS
        """Mean time from one piece of news to the next."""
        self._news = self._since_ns = -1
        """News at the beginning of this measurement of the interval, and when that was; -1: it has not begun."""
        self._margin_ns = FIRST_NS
        self._margin_from_ns = 0
        self._alarm_ns = -1
        """Time of the last message before the alarm; -1: there is no alarm."""
        self._rested = False
        self._answers = 0
        self._distance_ns = FIRST_NS
        self._again_ns = 0
        self._replace_ns, self._replace_at_ns = 0, 0
        self._jitter_ns = random.randrange(JITTER_NS)

    def learn(self, now_ns: int, news: int) -> None:
        """Take notice that `news` batches, or notifications of some, have come so far."""
        if self._since_ns < 0:
            self._news, self._since_ns = news, now_ns
        elif news - self._news >= LEARN_FROM:
            self._interval_ns = (now_ns - self._since_ns) // (news - self._news)
            self._news, self._since_ns = news, now_ns
        if self._margin_ns > FIRST_NS and now_ns - self._margin_from_ns >= HALVED_AFTER_NS:
            self._set_margin(max(FIRST_NS, self._margin_ns // 2), now_ns)

    def due_ns(self, heard_ns: int, *, rests: bool) -> int:
        """Return when to ask if nothing comes; `rests`: the last message said that the stream rests."""
        if self._alarm_ns >= 0:
            if heard_ns == self._alarm_ns:
                return self._again_ns
            self._end(heard_ns)
        quiet_ns = REST_NS if rests else TAIL_NS
        return heard_ns + min(quiet_ns, self._interval_ns) + self._margin_ns + self._jitter_ns

    def asked(self, now_ns: int, heard_ns: int, *, rests: bool) -> None:
        """Note that the node was asked, or could not be."""
        if self._alarm_ns < 0:
            self._alarm_ns = heard_ns
            self._rested = rests
            self._answers = 0
            self._distance_ns = FIRST_NS
            self._replace_ns = REPLACE_NS[0]
            self._replace_at_ns = heard_ns + self._replace_ns
        self.failed(now_ns)

    def answered(self, now_ns: int, *, brought: bool) -> None:
        """Take notice of an answer, and whether it `brought` anything."""
        if self._alarm_ns < 0:
            return
        self._answers += 1
        self._distance_ns = FIRST_NS if brought else min(2 * self._distance_ns, MOST_NS)
        self.failed(now_ns)
        if not brought and not self._rested:  # the end of a burst; then a notification is to come
            self._again_ns = max(self._again_ns, self._alarm_ns + TAIL_NS + self._margin_ns + FIRST_NS)

    def failed(self, now_ns: int) -> None:
        """Put the next question of an alarm off: the last one was sent just now, or came to nothing."""
        self._jitter_ns = random.randrange(JITTER_NS)
        self._again_ns = now_ns + self._distance_ns + self._jitter_ns

    def is_mute(self, now_ns: int, heard_ns: int) -> bool:
        """Return True if nothing has come for so long that the connection should be replaced."""
        return heard_ns == self._alarm_ns and now_ns >= self._replace_at_ns

    def replaced(self, now_ns: int) -> None:
        """Note that the connection was replaced; the next one gets more time, as it burdens the node, too."""
        self._replace_ns = min(2 * self._replace_ns, REPLACE_NS[1])
        self._replace_at_ns = now_ns + self._replace_ns

    def _end(self, now_ns: int) -> None:
        """End the alarm: something has come."""
        useful = self._answers >= 2
        self._set_margin(FIRST_NS if useful else min(2 * self._margin_ns, MOST_NS), now_ns)
        self._alarm_ns = -1
        self._since_ns = -1  # the time of the alarm says nothing of the interval
        self._jitter_ns = random.randrange(JITTER_NS)

    def _set_margin(self, margin_ns: int, now_ns: int) -> None:
        self._margin_ns = margin_ns
        self._margin_from_ns = now_ns


__all__ = ["FIRST_NS", "JITTER_NS", "LEARN_FROM", "MOST_NS", "REPLACE_NS", "REST_NS", "Expectation"]

"""Life cycle of a subscription: the states between `subscribe` and the end, and when each has something to do.

A subscription talks to the node on two sockets, and neither waits for the other. So its state is not one word but three, each
with a machine of its own.

*The connection* says how far the subscription has got. It begins SEEKING: there is no channel, as nobody has said yet where the
data are. A description says so; then a channel is CONNECTED, and the subscription is JOINING. ZeroMQ does not tell when a
subscription has reached the publisher. So a joining one reports itself to the node, which answers with a notification to all:
at once, and again after 2, 4, 8 ms and so on, until something comes by the channel. With the first message it has JOINED, and
is LIVE: from here on whatever is published is delivered or declared lost. A node that restarts, another epoch, another channel:
continuity carries the account over, so none of them makes it join again. Only if a channel is given up and the next one cannot
be had, the connection is LOST; the subscription is SEEKING again, and goes on where it stood once there is a channel. It
reports itself once a second, which is how the node knows for whom it is there.

*The description* is what is known of the node. It is DUE at some moment, at first at once. Then it is ASKED for: the node's
address is looked up anew, as it may have moved, and if it is NOT_FOUND, the description is due again soon. An answer that
describes the stream makes it KNOWN (DESCRIBED), and nothing is asked any more. Four things make it due again. Two of them are a
reason to wait first, for a pause that doubles from 50 ms to 2 s, so that a crowd of subscribers does not bring down a node that
is just coming up: the answer was of no use (REFUSED), or it did not come in time (UNANSWERED; the next one is waited for twice
as long, since the link may be slow). The other two are not: the link was DROPPED for another reason while a description was
asked for, or a known description is DOUBTED, because the stream is silent, its data are of another epoch, its ring was closed,
or its data socket stays mute.

*The sign of life* is whether the node is HEARD. Every message on the channel and every answer is one, with one exception:
`STREAM_UNKNOWN`, by which a node that came back without its stream answers, and which must not pass for the node that had it.
After three seconds without one (MISSED) the stream is SILENT. The application is told once, and the description comes into
doubt; so a silent subscription always has a description due or asked for, which is what brings it back. The next sign of life
ends the silence (LISTENED).

Beside these, the *upstream* of a bridge may be silent while the bridge is heard. It says so itself; the application is told
once as well.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import random
from enum import Enum, auto
from typing import cast

from usbcast.receiving.pace import Patience
from usbcast_schemas.contract import SILENCE_S

SILENCE_NS = int(SILENCE_S * 1e9)

DESCRIBE_NS = 1_500_000_000, 4_000_000_000
"""How long to wait for a description, at first and at most."""

RETRY_NS = 50_000_000, 2_000_000_000
"""Pause before something is asked for again, at first and at most."""

LOOK_AGAIN_NS = 50_000_000
"""Pause before an address that was not found is looked up again."""

REPORT_NS = 1_000_000_000
"""Time from one report to the next."""

JOINING_NS = 2_000_000
"""Time from the first report of a joining subscription to the second; doubled for each one after that."""


class Connection(Enum):
    """How far the subscription has got."""

    SEEKING = auto()
    JOINING = auto()
    LIVE = auto()


class Description(Enum):
    """What is known of the node."""

    DUE = auto()
    ASKED = auto()
    KNOWN = auto()


class Sign(Enum):
    """Whether the node gives a sign of life."""

    HEARD = auto()
    SILENT = auto()


class Change(Enum):
    """What changes the state of a subscription."""

    CONNECTED = auto()
    LOST = auto()
    JOINED = auto()
    NOT_FOUND = auto()
    ASKED = auto()
    DESCRIBED = auto()
    REFUSED = auto()
    UNANSWERED = auto()
    DROPPED = auto()
    DOUBTED = auto()
    LISTENED = auto()
    MISSED = auto()


State = Connection | Description | Sign

_C, _D, _S, _H = Connection, Description, Sign, Change

TRANSITIONS: dict[State, dict[Change, State]] = {
    _C.SEEKING: {_H.CONNECTED: _C.JOINING},
    _C.JOINING: {_H.JOINED: _C.LIVE, _H.LOST: _C.SEEKING},
    _C.LIVE: {_H.LOST: _C.SEEKING},
    _D.DUE: {_H.ASKED: _D.ASKED, _H.NOT_FOUND: _D.DUE},
    _D.ASKED: {_H.DESCRIBED: _D.KNOWN, _H.REFUSED: _D.DUE, _H.UNANSWERED: _D.DUE, _H.DROPPED: _D.DUE},
    _D.KNOWN: {_H.DOUBTED: _D.DUE},
    _S.HEARD: {_H.MISSED: _S.SILENT},
    _S.SILENT: {_H.LISTENED: _S.HEARD},
}
"""Where each state goes. What is not in its row does not concern it."""


class Describing:
    """The description's part of a life cycle: when to ask for it, and what became of that. Times are monotonic, in ns."""

    def __init__(self) -> None:
        self.state = Description.DUE
        self._asked_id = -1
        self._at_ns = 0
        """End of the state: when to ask, or until when to wait for the answer."""
        self._retry_ns = RETRY_NS[0]
        self._patience = Patience(*DESCRIBE_NS)

    def may_ask(self, now_ns: int) -> bool:
        """Return True if the description is due."""
        return self.state is Description.DUE and now_ns >= self._at_ns

    def not_found(self, now_ns: int) -> None:
        """Note that the node's address is not known."""
        self._apply(Change.NOT_FOUND)
        self._at_ns = now_ns + LOOK_AGAIN_NS

    def asked(self, request_id: int, now_ns: int) -> None:
        """Note that the description was asked for, with this request."""
        self._apply(Change.ASKED)
        self._asked_id = request_id
        self._at_ns = now_ns + self._patience.wait_ns

    def is_answer(self, request_id: int) -> bool:
        """Return True if the answer to this request is waited for as the description."""
        return self.state is Description.ASKED and request_id == self._asked_id

    def is_overdue(self, now_ns: int) -> bool:
        """Return True if the description did not come in time; the caller then drops the link. It is due again after a pause."""
        if self.state is not Description.ASKED or now_ns < self._at_ns:
            return False
        self._apply(Change.UNANSWERED)
        self._patience.unanswered()
        self._at_ns = now_ns + self.back_off_ns()
        return True

    def refused(self, now_ns: int) -> None:
        """Note that the answer does not describe the stream."""
        self._apply(Change.REFUSED)
        self._at_ns = now_ns + self.back_off_ns()

    def described(self) -> None:
        """Note that the answer describes the stream."""
        self._apply(Change.DESCRIBED)
        self._patience.answered()
        self.went_well()

    def dropped(self, now_ns: int) -> None:
        """Note that the link was dropped, and what was asked for by it with it."""
        if self.state is Description.ASKED:
            self._at_ns = now_ns
        self._apply(Change.DROPPED)

    def doubt(self, from_ns: int) -> None:
        """Have the description asked for again from `from_ns` on, unless it is due or asked for anyway."""
        if self.state is Description.KNOWN:
            self._at_ns = from_ns
            self.went_well()
        self._apply(Change.DOUBTED)

    def back_off_ns(self) -> int:
        """Return the pause before something is asked for again; the next one is twice as long."""
        retry_ns = self._retry_ns
        self._retry_ns = min(2 * retry_ns, RETRY_NS[1])
        return retry_ns + random.randrange(retry_ns // 2)

    def went_well(self) -> None:
        """Begin with the shortest pause again."""
        self._retry_ns = RETRY_NS[0]

    def due_ns(self) -> int | None:
        """Return when there is something to do if nothing comes; None while the description is known."""
        return None if self.state is Description.KNOWN else self._at_ns

    def _apply(self, change: Change) -> None:
        self.state = cast(Description, TRANSITIONS[self.state].get(change, self.state))


class LifeCycle:
    """The life cycle of one subscription. Times are monotonic, in ns.

    >>> life = LifeCycle(0)
    >>> life.describing.may_ask(0), life.describing.asked(7, 0), life.describing.state.name
    (True, None, 'ASKED')
    >>> life.connected(), life.connection.name, life.describing.described(), life.describing.state.name
    (None, 'JOINING', None, 'KNOWN')
    """

    def __init__(self, now_ns: int) -> None:
        self.connection = Connection.SEEKING
        self.describing = Describing()
        self.sign = Sign.HEARD
        self.upstream_silent = False
        self.answered_ns = now_ns
        """Time of the last answer by a node that has the stream, or of the beginning."""
        self._report_at_ns = 0
        self._joining_every_ns = JOINING_NS

    def connected(self) -> None:
        """Note that there is a channel."""
        self._apply(Change.CONNECTED)

    def lost(self) -> None:
        """Note that there is no channel any more."""
        self._apply(Change.LOST)

    def joined(self) -> None:
        """Note that the first message has come, or that the position is known without one."""
        self._apply(Change.JOINED)

    def may_report(self, now_ns: int) -> bool:
        """Return True if a report is due; it then counts as sent."""
        if self.connection is Connection.SEEKING or now_ns < self._report_at_ns:
            return False
        every_ns = REPORT_NS
        if self.connection is Connection.JOINING:
            every_ns = self._joining_every_ns
            self._joining_every_ns = min(2 * every_ns, REPORT_NS)
        self._report_at_ns = now_ns + every_ns
        return True

    @property
    def is_silent(self) -> bool:
        return self.sign is Sign.SILENT

    def listen(self, heard_ns: int, now_ns: int) -> bool:
        """Take notice of the last sign of life; return True if silence begins now, which puts the description in doubt."""
        if now_ns - heard_ns < SILENCE_NS:
            self._apply(Change.LISTENED)
            return False
        begins = self.sign is Sign.HEARD
        if begins:
            self._apply(Change.MISSED)
            self.describing.doubt(now_ns)
        return begins

    def listen_upstream(self, silent_ns: int) -> bool:
        """Take notice of what a bridge says of its upstream; return True if its silence begins now."""
        before, self.upstream_silent = self.upstream_silent, bool(silent_ns)
        return self.upstream_silent and not before

    @property
    def is_calm(self) -> bool:
        """True while nothing is waited for but data, reports and silence."""
        return self.describing.state is Description.KNOWN and self.sign is Sign.HEARD

    def calm_until_ns(self, heard_ns: int) -> int:
        """Return until when a calm subscription has nothing to do if nothing comes."""
        return min(self._report_at_ns, heard_ns + SILENCE_NS)

    def due_ns(self, heard_ns: int) -> int:
        """Return when there is something to do if nothing comes."""
        due_ns = [self._report_at_ns] if self.connection is not Connection.SEEKING else []
        if (describe_at_ns := self.describing.due_ns()) is not None:
            due_ns.append(describe_at_ns)
        if self.sign is Sign.HEARD:
            due_ns.append(heard_ns + SILENCE_NS)
        return min(due_ns)

    def _apply(self, change: Change) -> None:
        self.connection = cast(Connection, TRANSITIONS[self.connection].get(change, self.connection))
        self.sign = cast(Sign, TRANSITIONS[self.sign].get(change, self.sign))


__all__ = [
    "DESCRIBE_NS",
    "JOINING_NS",
    "LOOK_AGAIN_NS",
    "REPORT_NS",
    "RETRY_NS",
    "SILENCE_NS",
    "TRANSITIONS",
    "Change",
    "Connection",
    "Describing",
    "Description",
    "LifeCycle",
    "Sign",
    "State",
]

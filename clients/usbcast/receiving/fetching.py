"""Fetching: what of a stream is asked for, when, and how much of it at once. One request at a time.

Continuity says what is missing. It may be under way already, many clients may miss the same at one moment, somebody may not want
it yet, and the link may be slow: so it is put off, spread, let through a gate, and paced.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from usbcast.receiving.continuity import Continuity, Wanted
from usbcast.receiving.expectation import Expectation
from usbcast.receiving.pace import FetchPace, Patience
from usbcast_schemas.batch import MAX_COUNT, EncodedBatch
from usbcast_schemas.v1 import usbcast_pb2 as pb

_PATIENCE_NS = 3_000_000_000, 24_000_000_000
"""How long to wait for an answer, at first and at most."""

_EMPTY_NS = 20_000_000
"""After an answer with nothing in it."""

_UNREADABLE_NS = 1_000_000_000
"""After an answer without anything behind what could not be read."""

_COMING_NS = 20_000_000
"""What is pushed and has come nearer within this time is not fetched."""

_JITTER_NS = 2_000_000
"""Repair begins at a random moment up to so much later, so that many subscribers with one gap do not ask at once."""


class Gate(Protocol):
    """Says when more may be fetched, where that is not whenever there is something. Times are monotonic, in ns."""

    always: bool
    """Whether the receiver counts as a subscriber even while nothing may be fetched."""

    def budget(self, now_ns: int) -> int:
        """How many bytes may be asked for now."""

    def due_ns(self, now_ns: int) -> int:
        """When to ask again, if none."""

    def took(self, size_bytes: int, now_ns: int) -> None:
        """So much has come."""


class Heard(Protocol):
    """What a channel says of what has come by it."""

    @property
    def can_fetch(self) -> bool: ...
    @property
    def heard_ns(self) -> int: ...
    @property
    def rests(self) -> bool: ...
    @property
    def has_more(self) -> bool: ...


class Fetching:
    """Fetches of one receiver, which sends what `request` returns and reports the outcome. Times are monotonic, in ns."""

    def __init__(self, core: Continuity, gate: Gate | None = None) -> None:
        self._core = core
        self._gate = gate
        self.expectation = Expectation()
        self._patience = Patience(*_PATIENCE_NS)
        self._pace = FetchPace()
        self._asked: tuple[int, int] | None = None
        """Request id and deadline of the pending fetch."""
        self._ahead: Wanted | None = None
        """Range of the pending fetch if it is a `question`."""
        self._asked_at_ns = 0
        self._at_ns = 0
        self._stood_at: int | None = None
        """The batch that was to come next when a fetch was put off; None where it was not."""
        self._unreadable = (0, 0)
        """Of how many batches from this number on came nothing but what could not be read: they are stepped over."""

    @property
    def under_way(self) -> bool:
        return self._asked is not None

    def due_ns(self) -> int | None:
        """When there is something to do; None if that depends on what comes."""
        if self._asked is not None:
            return self._asked[1]
        return self._at_ns if self._at_ns and self._core.wanted() else None

    def request(self, stream: str, now_ns: int, *, pushed: bool) -> pb.FetchRequest | None:
        """What is to be asked for now, if anything; `pushed` says whether what is missing may come by itself."""
        wanted = self._core.wanted()
        if wanted is None:
            self._at_ns = 0
        elif pushed and (not self._at_ns or self._is_coming(wanted)):
            if now_ns >= self._at_ns:
                patience_ns = _COMING_NS if self._at_ns else 0
                self._at_ns = now_ns + patience_ns + random.randrange(_JITTER_NS)
                self._stood_at = wanted.from_number
        elif now_ns >= self._at_ns:
            budget_bytes = self._budget(now_ns)
            if budget_bytes:
                self._core.fetching(wanted)
                return self._request(stream, wanted, budget_bytes)
        return None

    def question_due_ns(self, channel: Heard) -> int | None:
        """Return when to ask what there is if nothing comes by `channel`; None while there is another way to know."""
        if not channel.can_fetch or self._asked is not None or not self._core.can_look_ahead:
            return None
        return self.expectation.due_ns(channel.heard_ns, rests=channel.rests)

    def question(self, stream: str, now_ns: int, channel: Heard) -> pb.FetchRequest | None:
        """Return a request for whatever there is beyond the cursor, if `channel` has been quiet for too long."""
        due_ns = self.question_due_ns(channel)
        if due_ns is None or now_ns < due_ns or channel.has_more:
            return None
        self.expectation.asked(now_ns, channel.heard_ns, rests=channel.rests)
        budget_bytes = self._budget(now_ns)
        if not budget_bytes:
            return None
        self._ahead = self._core.ahead()
        return self._request(stream, self._ahead, budget_bytes)

    def _request(self, stream: str, wanted: Wanted, budget_bytes: int) -> pb.FetchRequest:
        return pb.FetchRequest(
            stream=stream,
            epoch=wanted.epoch,
            from_sequence=wanted.from_sequence,
            until_sequence=wanted.until_sequence,
            from_number=min(MAX_COUNT, wanted.from_number + self._stepped_over(wanted.from_number)),
            byte_budget=budget_bytes,
            newest_only=wanted.newest_only,
        )

    def sent(self, request_id: int, now_ns: int) -> None:
        """What was to be asked for has been, under that number."""
        self._asked = request_id, now_ns + self._patience.wait_ns
        self._asked_at_ns = now_ns

    def is_answer(self, request_id: int) -> bool:
        return self._asked is not None and self._asked[0] == request_id

    def is_overdue(self, now_ns: int) -> bool:
        """Return True if the answer is overdue; the caller then drops the link, and with it the request."""
        if self._asked is None or now_ns < self._asked[1]:
            return False
        self._patience.unanswered()
        self._pace.unanswered()
        return True

    def failed(self, again_ns: int) -> None:
        """Forget a request that got no answer, or an error; ask again from `again_ns` on if the range is still missing."""
        self._asked = self._ahead = None
        self._core.fetch_failed()
        self.expectation.failed(again_ns)
        self._at_ns = again_ns

    def given_up(self) -> None:
        """Forget the request: its range is no longer wanted."""
        self._asked = self._ahead = None

    def answered(
        self,
        fetched: pb.FetchReply,
        batches: Sequence[EncodedBatch],
        now_ns: int,
        *,
        pushed: bool,
        unreadable: int = 0,
    ) -> None:
        """Take the answer; `unreadable` of its batches could not be read."""
        wanted, ahead, before = self._ahead or self._core.under_way, self._ahead, self._core.position
        self._asked = self._ahead = None
        self._patience.answered()
        size_bytes = sum(len(batch.raw) for batch in batches)
        self._pace.answered(now_ns - self._asked_at_ns, size_bytes)
        if self._gate is not None:
            self._gate.took(size_bytes, now_ns)
        self._core.fetched(fetched.epoch, batches, complete=fetched.complete, unreadable=bool(unreadable), ahead=ahead)
        self._core.known(fetched.epoch, fetched.next_sequence, fetched.next_number)
        self.expectation.answered(now_ns, brought=self._core.position != before)
        # Of what is newer than a whole answer, most is under way already where it is pushed.
        self._at_ns = now_ns if batches else now_ns + _EMPTY_NS
        if wanted is not None and not batches:
            stepped = self._stepped_over(wanted.from_number)
            self._unreadable = wanted.from_number, stepped + unreadable
            if (stepped and not unreadable) or (unreadable and wanted.newest_only):
                self._at_ns = now_ns + _UNREADABLE_NS
        self._stood_at = -1 if fetched.complete and pushed else None

    def counts(self, now_ns: int) -> bool:
        """Return True if the receiver counts as a subscriber now."""
        return self._gate is None or self._gate.always or bool(self._gate.budget(now_ns))

    def _stepped_over(self, number: int) -> int:
        """Return how many batches from `number` on are unreadable and not asked for again."""
        return self._unreadable[1] if self._unreadable[0] == number else 0

    def _budget(self, now_ns: int) -> int:
        if self._gate is None:
            return self._pace.budget_bytes
        budget_bytes = min(self._pace.budget_bytes, self._gate.budget(now_ns))
        if not budget_bytes:
            self._at_ns = self._gate.due_ns(now_ns)
        return budget_bytes

    def _is_coming(self, wanted: Wanted) -> bool:
        """Return True if pushed batches have come nearer to the wanted range since the fetch was put off."""
        return wanted.until_sequence is None and self._stood_at not in (None, wanted.from_number)


__all__ = ["Fetching", "Gate"]

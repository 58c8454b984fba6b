"""The receiver of a consumer that must not end: recorder, bridge and forwarder take their records from it.

A receiver reconnects by itself to a node that has the stream. From a node that answers without it, as one does that waits for
its device, or a bridge that waits for its upstream, it raises StreamUnknown. That it is not there now does not mean never: the
resuming receiver closes it, and a second later begins another one behind the last record (`resume_point.py`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from usbcast.receiving.continuity import Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.open import Receiver
from usbcast.receiving.polling import rest_s
from usbcast.receiving.resume_point import ResumePoint
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.errors import StreamUnknown, UsbcastError
from usbcast_schemas.ledger import Ledger

R = TypeVar("R", bound=Receiver)

RETRIED: tuple[type[UsbcastError], ...] = (StreamUnknown,)


class ResumingReceiver(Generic[R]):
    """Records of one stream, in order, from `start` on. It never waits; used by one thread.

    `open_at` makes a receiver. An error of a kind in `retried` is not raised: it stands in `trouble`, and is tried again.
    """

    def __init__(
        self,
        open_at: Callable[[str | Position], R],
        start: str | Position,
        retried: tuple[type[UsbcastError], ...] = RETRIED,
    ) -> None:
        self.retried = retried
        self.point = ResumePoint(start)
        self.trouble = ""
        """Why the last receiver failed; empty again once the node has described the stream."""
        self.receiver = open_at(start)
        """The receiver in use. While the stream is away it is the last one, closed: it still tells what it knew."""
        self._open_at = open_at
        self._former = Ledger("subscription", "packets")
        """Sum of the ledgers of the receivers that were closed."""
        self._away_waiter = Waiter()
        self._watched: list[int] = []
        self._is_closed = False

    @property
    def is_away(self) -> bool:
        """True while the node does not have the stream, and `pump` waits for the time to ask again."""
        return self.point.is_away

    def pump(self) -> bool:
        """Take what has come and do what is due; return True if `take_record` has something. Raises as receivers do."""
        now_ns = time.monotonic_ns()
        if self.point.rest_ns(now_ns):
            return False
        try:
            if self.is_away:
                self._resume()
            found = self.receiver.pump()
        except self.retried as error:
            self._give_up(str(error), now_ns)
            return False
        if self.trouble and self.receiver.info is not None:
            self.trouble = ""
        return found

    def take_record(self) -> Record | None:
        """Return the next record, if there is one."""
        if self.is_away:
            return None
        record = self.receiver.take_record()
        if record is not None:
            self.point.took(record)
        return record

    def park_s(self) -> float:
        """Return the seconds that one may wait on `waiter`; 0 if `pump` has something to do."""
        if self.is_away:
            return self.point.rest_ns(time.monotonic_ns()) / 1e9
        return rest_s(self.receiver, math.inf)

    @property
    def waiter(self) -> Waiter:
        """The descriptors to wait for now."""
        return self._away_waiter if self.is_away else self.receiver.waiter

    def watch(self, fd: int) -> None:
        """End waits while `fd` is readable, too."""
        self._watched.append(fd)
        self._away_waiter.add(fd)
        if not self.is_away:
            self.receiver.waiter.add(fd)

    def ledger(self) -> Ledger:
        """Return the ledger of all receivers together, as of now."""
        total = Ledger.from_proto(self._former.to_proto())
        if not self.is_away:
            total.add(self.receiver.ledger())
        return total

    def close(self) -> None:
        """Close everything; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            if not self.is_away:
                self._give_up(self.trouble, time.monotonic_ns())
            self._away_waiter.close()

    def _resume(self) -> None:
        self.receiver = self._open_at(self.point.start)
        self.point.resumed()
        for fd in self._watched:
            self.receiver.waiter.add(fd)

    def _give_up(self, trouble: str, now_ns: int) -> None:
        """Close the receiver; keep its ledger. What waited in it will come again."""
        self.trouble = trouble
        if not self.is_away:
            last = self.receiver.ledger()
            last.entered -= last.held
            last.held = 0
            self._former.add(last)
            self.receiver.close()
        self.point.failed(now_ns)


def wait_for_any(resuming: Sequence[ResumingReceiver[R]], most_s: float) -> bool:
    """Wait until one of them has something to do, at most `most_s`; return False, without a wait, if one has already."""
    for one in resuming:
        most_s = min(most_s, one.park_s())
        if most_s <= 0:
            return False
    with contextlib.closing(Waiter()) as waiter:
        for one in resuming:
            waiter.add(one.waiter.fileno())
        waiter.wait(most_s)
    for one in resuming:
        one.waiter.wait(0)  # takes the edge of a fifo back, so that the descriptor is quiet again
    return True

"""Where a consumer of records goes on after its receiver has failed, and when it tries again.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast.events import Gap, Restart, Silence
from usbcast.receiving.continuity import Delivery, Position

AGAIN_NS = 1_000_000_000
"""How long to wait before asking again a node that answers but does not have the stream."""


class ResumePoint:
    """The start of the next receiver of one stream. Monotonic nanoseconds are handed in."""

    def __init__(self, start: str | Position) -> None:
        self.start = start
        """Where the next receiver begins: where the user wants, until a record has been taken; then behind that record."""
        self._again_ns: int | None = None

    @property
    def position(self) -> Position | None:
        """Position behind the last record; None before the first."""
        return self.start if isinstance(self.start, Position) else None

    @property
    def is_away(self) -> bool:
        """True after `failed`, until `resumed`."""
        return self._again_ns is not None

    def took(self, record: Delivery | Gap | Restart | Silence) -> None:
        """Note that the consumer has `record`, and need not be given it again."""
        self.start = position_behind(record, self.position) or self.start

    def failed(self, now_ns: int) -> None:
        """Note that the receiver has failed: the next one is due in AGAIN_NS."""
        self._again_ns = now_ns + AGAIN_NS

    def resumed(self) -> None:
        """Note that another receiver has begun at `start`."""
        self._again_ns = None

    def rest_ns(self, now_ns: int) -> int:
        """Return how long to wait before the next receiver is due; 0 if it is due, or if none has failed."""
        return max(0, self._again_ns - now_ns) if self._again_ns is not None else 0


def position_behind(record: Delivery | Gap | Restart | Silence, before: Position | None) -> Position | None:
    """Return the position behind `record` of a consumer that has dealt with everything up to `before`."""
    match record:
        case Delivery(batch):
            return Position(batch.epoch, batch.end_sequence, batch.number + 1)
        case Gap() if before is not None and record.last >= record.first:
            return Position(before.epoch, record.last + 1, before.next_number)
        case Restart():
            return Position(record.new_epoch, 0, 0)
    return before

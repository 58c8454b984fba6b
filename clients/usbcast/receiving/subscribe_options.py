"""Options of a subscription: what a caller of `subscribe` asks for, checked once, and where it therefore begins.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbcast.receiving.continuity import Continuity, Position
from usbcast_schemas.batch import MAX_COUNT
from usbcast_schemas.contract import check_stream_name
from usbcast_schemas.errors import UsageError

VIAS = ("auto", "push", "notify", "ring")
DELIVERS = ("all", "latest")


def check_options(stream: str, start: str | int | Position, deliver: str, via: str) -> None:
    """Raise UsageError unless these arguments of `subscribe` are valid."""
    check_stream_name(stream)
    if via not in VIAS:
        raise UsageError(f"via is {via!r}: one of {', '.join(VIAS)} is allowed")
    if deliver not in DELIVERS:
        raise UsageError(f"deliver is {deliver!r}: one of {', '.join(DELIVERS)} is allowed")
    if isinstance(start, Position) or start in ("now", "oldest"):
        return
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= MAX_COUNT:
        raise UsageError(f"start is {start!r}: 'now', 'oldest' or a sequence from 0 to {MAX_COUNT} is allowed")


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """Valid arguments of `subscribe`. `start` is "now", "oldest" or a sequence."""

    stream: str
    start: str | int
    via: str
    latest: bool
    copy: bool

    def begin(self, core: Continuity, epoch: int, next_sequence: int, next_number: int) -> None:
        """Begin where the options say: the first message came from the stream when it stood at this sequence and batch."""
        if self.start == "now" and not self.latest:
            core.start(epoch, next_sequence, next_number)
        elif isinstance(self.start, int):
            # From packet 0 on means from batch 0 on, which may hold device events from before that packet.
            core.start(epoch, self.start, None if self.start else 0)
        else:
            core.start(epoch, None, joined_at=None if self.latest else next_sequence)


__all__ = ["DELIVERS", "VIAS", "SubscribeOptions", "check_options"]

"""The order in which a receiver is asked before one waits for it. Threads, asyncio and the resuming receiver share it.

`poll` returns an event, or the seconds for which nothing is due. So long, or until something comes, the caller waits for the
receiver's `waiter` by its own means, and then polls again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Pollable(Protocol):
    """The part of a receiver that is asked."""

    def pump(self) -> bool:
        """Take what has come and do what is due; return True if there is something to take."""

    def park_s(self) -> float:
        """Return the seconds that one may wait at once; 0 if `pump` must be called."""

    def rest_s(self) -> float:
        """Return the seconds until something is due, after a `pump` that found nothing."""

    def may_sleep(self) -> bool:
        """Ask to be woken; return True if nothing has come meanwhile."""


def poll(receiver: Pollable, take: Callable[[], T | None], most_s: float) -> T | float:
    """Return what `take` gives now, though it has just given None; else as `rest_s`."""
    if most_s > 0 and (park_s := receiver.park_s()) > 0:
        return min(park_s, most_s)
    if not receiver.pump():
        return rest_s(receiver, most_s)
    taken = take()
    return 0.0 if taken is None else taken


def rest_s(receiver: Pollable, most_s: float) -> float:
    """Return the seconds that one may wait, at most `most_s`, after a pump that found nothing; 0 to pump again at once."""
    seconds = min(receiver.rest_s(), most_s)
    return seconds if seconds > 0 and receiver.may_sleep() else 0.0

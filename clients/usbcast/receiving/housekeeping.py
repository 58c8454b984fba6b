"""When a receiver looks after anything but the data that comes: its requests, its reports, silence.

That costs more than a batch does, so it is done some times a second, and when something else than data may have come.
"""

from __future__ import annotations

from usbcast.receiving.continuity import Continuity

BUSY_NS = 20_000_000
"""A subscription that waits for answers looks this often."""

CALM_NS = 200_000_000
"""One that has asked for nothing this often."""


class Housekeeping:
    """Of one receiver. Pure: monotonic nanoseconds are handed in.

    >>> house, core = Housekeeping(), Continuity()
    >>> house.can_wait(0, True, core)
    False
    >>> house.done(0, calm=True, until_ns=10**9)
    >>> house.can_wait(5, False, core), house.rest_ns
    (True, 999999995)
    >>> house.called = True
    >>> house.can_wait(6, False, core), house.can_wait(7, True, core), house.can_wait(CALM_NS, True, core)
    (False, True, False)
    """

    __slots__ = ("_calm", "_calm_until_ns", "called", "due_ns", "rest_ns")

    def __init__(self) -> None:
        self.called = True
        """Whether something other than data may have come."""
        self.rest_ns = 0
        """For how long nothing is due, if `can_wait` found that there is nothing at all to do; else 0."""
        self._calm = False
        self.due_ns = 0
        """When it is to be done whatever comes."""
        self._calm_until_ns = 0

    def can_wait(self, now_ns: int, came: bool, core: Continuity) -> bool:
        """Whether it can wait: data `came`, which goes first, or nobody has called and nothing is to be fetched."""
        if now_ns >= self.due_ns or not (came or (self._calm and not self.called and core.wanted() is None)):
            self.rest_ns = 0
            return False
        self.called = False
        self.rest_ns = 0 if came else self._calm_until_ns - now_ns
        return True

    @property
    def calm_until_ns(self) -> int:
        """Until when nothing is due if nothing comes; 0 while answers are waited for."""
        return self._calm_until_ns if self._calm else 0

    def done(self, now_ns: int, *, calm: bool, until_ns: int) -> None:
        """All was looked after. `calm`: no answer is waited for; until then nothing is due."""
        self.called = False
        self._calm = calm
        self._calm_until_ns = until_ns
        self.due_ns = now_ns + (CALM_NS if calm else BUSY_NS)


__all__ = ["BUSY_NS", "CALM_NS", "Housekeeping"]

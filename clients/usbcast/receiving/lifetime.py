"""The end of a subscription: any thread may close it, and the last one to use its receiver frees that.

A descriptor's number belongs to another file as soon as it is closed, so nothing may be freed under a thread that waits on
it. Two flags see to that, without a lock on the way of the data:

- A reader raises `inside` before it touches the receiver, then looks at `over`. When it is through it lowers `inside`, then
  looks at `over` again, and leaves if that is raised.
- A closer raises `over`, then looks at `inside`. If nobody is inside it frees the receiver; else it wakes the reader,
  which frees it on leaving.

Each writes its own flag before it reads the other's, so at least one of the two sees the other; freeing itself is done once,
under a lock, and the lock is also held while a reader is woken, so that there is still something to wake.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Final

from usbcast.receiving.waiting import Waiter
from usbcast_schemas.errors import SubscriptionClosed, UsageError

CLOSED: Final = "closed"
FORKED: Final = "forked"

_open: weakref.WeakSet[Lifetime] = weakref.WeakSet()


class Lifetime:
    """Of one receiver, which `waiter` waits for and `free` closes. It ends with its owner, closed or not."""

    def __init__(self, owner: object, stream: str, waiter: Waiter, free: Callable[[], None]) -> None:
        self.over = ""
        """Why the receiver is not to be used any more; empty while it is."""
        self.inside = False
        """Whether a thread is using the receiver."""
        self.freed = False
        self._stream = stream
        self._waiter = waiter
        self._free = free
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may close what its thread is just freeing
        _open.add(self)
        weakref.finalize(owner, self._drop, type(owner).__name__).atexit = False

    def close(self) -> None:
        """End it, from any thread; idempotent. Returns at once: a reader that is inside frees the receiver."""
        if self.over:
            return
        with self._lock:
            if self.over:
                return
            self.over = CLOSED
            if self.inside:
                self._waiter.wake()
            else:
                self._free_once()

    def leave(self) -> None:
        """The reader is out, and has seen that it is over."""
        if self.over != FORKED:
            with self._lock:
                self._free_once()

    def check(self) -> None:
        """Raise SubscriptionClosed if it was closed, UsageError in a process that was forked from its own."""
        if self.over == CLOSED:
            raise SubscriptionClosed(
                f"this subscription to {self._stream!r} is closed: subscribe again to go on receiving"
            )
        self.check_process()

    def check_process(self) -> None:
        """Raise UsageError in a process that was forked from its own."""
        if self.over == FORKED:
            raise UsageError(
                f"this subscription to {self._stream!r} belongs to process {self._pid}, and process {os.getpid()} was forked "
                "from it: subscribe again here, or start processes with the method 'spawn'"
            )

    def forked(self) -> None:
        """This is a copy of the process. Sockets, threads and the waiter's memory are the parent's: nothing is touched."""
        self.over = FORKED

    def _free_once(self) -> None:
        if not self.freed:
            self.freed = True
            self._free()

    def _drop(self, kind: str) -> None:
        if not self.over:
            self.close()
            warnings.warn(f"a {kind} to {self._stream!r} was never closed: use `with`", ResourceWarning, stacklevel=2)


def _after_fork() -> None:
    for lifetime in list(_open):
        lifetime.forked()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)

__all__ = ["CLOSED", "FORKED", "Lifetime"]

"""Lifetime of a subscription: any thread may close it, and the last thread out frees the receiver.

The kernel reuses the number of a closed descriptor at once. If a closer freed the receiver under a thread that waits in it,
that thread would wait on somebody else's file. Two flags prevent this, and the data path takes no lock:

- The reader sets `inside` before it touches the receiver, then reads `over`. When it has finished, it clears `inside`, then
  reads `over` again; if that is set, it calls `leave`, which frees the receiver.
- The closer sets `over`, then reads `inside`. If no reader is inside, the closer frees the receiver; otherwise it wakes the
  reader, which frees the receiver on its way out.

Each side writes its own flag before it reads the other's. So whatever the interleaving, at least one of them sees the other:
the receiver cannot be left unfreed. Both may see each other; therefore a lock and `freed` make the freeing happen once. The
closer also holds that lock while it wakes the reader, so the reader cannot free the waiter during the call that wakes it.
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
    """The open or closed state of one receiver. `waiter` wakes its reader, `free` closes it. Ends with `owner`, closed or not."""

    def __init__(self, owner: object, stream: str, waiter: Waiter, free: Callable[[], None]) -> None:
        self.over = ""
        """Why the receiver must no longer be used: CLOSED or FORKED; empty while it may."""
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
        """Close the receiver, from any thread; idempotent. Return at once: a reader that is inside frees the receiver later."""
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
        """Free the receiver. The reader calls this after it has cleared `inside` and seen `over` set."""
        if self.over != FORKED:
            with self._lock:
                self._free_once()

    def check(self) -> None:
        """Raise SubscriptionClosed after `close`, UsageError in a process forked from the one that subscribed."""
        if self.over == CLOSED:
            raise SubscriptionClosed(
                f"this subscription to {self._stream!r} is closed: subscribe again to go on receiving"
            )
        self.check_process()

    def check_process(self) -> None:
        """Raise UsageError in a process forked from the one that subscribed."""
        if self.over == FORKED:
            raise UsageError(
                f"this subscription to {self._stream!r} belongs to process {self._pid}, and process {os.getpid()} was forked "
                "from it: subscribe again here, or start processes with the method 'spawn'"
            )

    def forked(self) -> None:
        """Mark the receiver as the parent's: this process is a fork. Touch no socket, thread or waiter; they are the parent's."""
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

"""Waiting for several descriptors at once: sockets, an event that ends the wait, and a ring's fifo.

A ring has one fifo, which the writer writes to and any number of processes watch. If a reader read the byte, it would take it
from the others; if nobody read it, a level-triggered watch would report the fifo as readable for ever and never sleep again.
So the fifo is watched edge-triggered: each write wakes every watcher once, and nobody reads. A writer writes only when a reader
has announced that it is about to sleep. So a reader announces it first and then looks at the ring's head once more (the
channel's `may_sleep`): a batch that was written before the announcement is seen, one written after it wakes. Sockets are watched
level-triggered.

`wake` makes the wait of another thread end, and every later wait too: it only serves closing (`lifetime`), after which nobody
waits again. Linux has epoll, macOS and the BSDs have kqueue. On other systems rings are not used.
"""

from __future__ import annotations

import os
import select
import sys

if sys.platform == "linux":

    class Waiter:
        """A set of descriptors; itself a descriptor that an event loop can watch."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.add(self._wake_fd)

        def fileno(self) -> int:
            return self._epoll.fileno()

        def add(self, fd: int) -> None:
            """Wake while `fd` is readable."""
            self._epoll.register(fd, select.EPOLLIN)

        def add_edge(self, fd: int) -> None:
            """Wake whenever something is written to the fifo `fd`."""
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)

        def remove(self, fd: int) -> None:
            self._epoll.unregister(fd)

        def wait(self, timeout_s: float) -> bool:
            """Wait until there may be something; False if the time is up."""
            return bool(self._epoll.poll(timeout_s if timeout_s > 0 else 0.0))

        def wake(self) -> None:
            """End the wait that another thread is in, and every later one."""
            os.eventfd_write(self._wake_fd, 1)

        def close(self) -> None:
            self._epoll.close()
            os.close(self._wake_fd)

else:

    class Waiter:
        """A set of descriptors; itself a descriptor that an event loop can watch."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self._wake_fd, self._wake_write_fd = os.pipe()
            self.add(self._wake_fd)

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def add(self, fd: int) -> None:
            """Wake while `fd` is readable."""
            self._change(fd, select.KQ_EV_ADD)

        def add_edge(self, fd: int) -> None:
            """Wake whenever something is written to the fifo `fd`."""
            self._change(fd, select.KQ_EV_ADD | select.KQ_EV_CLEAR)

        def remove(self, fd: int) -> None:
            self._change(fd, select.KQ_EV_DELETE)

        def wait(self, timeout_s: float) -> bool:
            """Wait until there may be something; False if the time is up."""
            return bool(self._kqueue.control(None, 16, max(0.0, timeout_s)))

        def wake(self) -> None:
            """End the wait that another thread is in, and every later one."""
            os.write(self._wake_write_fd, b"\0")

        def close(self) -> None:
            self._kqueue.close()
            os.close(self._wake_fd)
            os.close(self._wake_write_fd)

        def _change(self, fd: int, flags: int) -> None:
            self._kqueue.control([select.kevent(fd, select.KQ_FILTER_READ, flags)], 0, 0)


__all__ = ["Waiter"]

"""A receiver's waiter in an event loop, for `aio` and for the forwarder to a NATS server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from usbcast.receiving.waiting import Waiter


@contextlib.contextmanager
def watching(waiter: Waiter, wake: Callable[[], object]) -> Iterator[None]:
    """Have the running loop call `wake` whenever something comes to `waiter`."""
    loop, fd = asyncio.get_running_loop(), waiter.fileno()
    loop.add_reader(fd, wake)
    try:
        yield
    finally:
        loop.remove_reader(fd)
    waiter.wait(0)  # takes the edge of a fifo back, so that the descriptor is quiet again

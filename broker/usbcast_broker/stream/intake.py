"""The intake of a stream: where a feed's thread hands in what it read.

Transfers go straight into the ring if that is possible (pipeline.py has the drawing), else into the host queue. They may overtake
nothing, so the ring is tried only while the queue is empty. The queue may be looked at without its lock, because only the feed's
thread adds to it: if it is empty, it stays empty. (What the consumer has just taken is not overtaken either: the consumer closed
the stream's writer before it took.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from usbcast_broker.flow import HostItem
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.engine.protocols import Put, StreamWriter

DONE, NEEDS_FRAMING = Put.DONE, Put.NEEDS_FRAMING


class Intake(Protocol):
    """What a feed knows of its stream."""

    def put(self, item: HostItem) -> None:
        """Hand in one item; never waits for another thread's work."""

    def extend(self, items: list[HostItem]) -> None:
        """As `put` for each, but whoever takes them is woken once."""


class StreamIntake:
    """The intake of a pipeline."""

    def __init__(self, queue: HostQueue, writer: StreamWriter, doorbell: Callable[[], None]) -> None:
        self._queue = queue
        self._writer = writer
        self._doorbell = doorbell

    def put(self, item: HostItem) -> None:
        # Not by way of `extend`, and that without a helper: this is done for every transfer, and a call is a part of the whole.
        if not self._queue.waiting:
            done = self._writer.put([item])
            if done is not NEEDS_FRAMING:
                if done is not DONE:
                    self._doorbell()
                return
        self._queue.put(item)

    def extend(self, items: list[HostItem]) -> None:
        if not self._queue.waiting:
            done = self._writer.put(items)
            if done is not NEEDS_FRAMING:
                if done is not DONE:
                    self._doorbell()
                return
        self._queue.extend(items)

"""The hot path as both engines implement it: what writes a stream into its ring.

`pure_writer.py` implements `StreamWriter` in Python; `writers.py` binds the implementation of the native core and chooses.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

from usbcast_schemas.batch import Buffer, Encoded
from usbcast_schemas.errors import ConfigError

ALWAYS_NS: Final = -(2**63)
NEVER_NS: Final = 2**63 - 1

Send = Callable[[Buffer], object]
"""Sends an encoded batch to those who want it pushed."""


@dataclass(slots=True)
class Transfer:
    """The data of one USB read, with the time at which the host had it."""

    data: bytes
    realtime_ns: int
    monotonic_ns: int


class RingMemory(NamedTuple):
    """The mapped file of a ring, as its only writer holds it."""

    map: mmap.mmap
    words: memoryview
    """Header and slot table, as words of 64 bits."""
    slots: int
    data_bytes: int
    wake_fd: int
    checksums: bool
    epoch: int
    next_sequence: int
    next_number: int


@dataclass(slots=True)
class Plan:
    """How transfers become batches without framing: sizes, coalescing, and what happens to the batches. Times are monotonic."""

    packet_size: int
    max_payload_bytes: int
    """Of one batch; a packet is never cut."""
    not_before_ns: int = ALWAYS_NS
    """Transfers that arrived earlier are refused, unless they fill half a batch: then waiting for more gains nothing."""
    spacing_ns: int = 0
    """After each put, `not_before_ns` is this long after the last transfer of it."""
    bell_at_ns: int = NEVER_NS
    """From then on a put asks for the doorbell."""
    send: Send | None = None
    """None if nobody wants the batches pushed."""


class Put(IntEnum):
    """What `StreamWriter.put` did. False if it did nothing."""

    NEEDS_FRAMING = 0
    """Nothing was done: the transfers take the other path."""
    DONE = 1
    """They are in the ring and, if anybody wants that, sent."""
    DONE_RING_BELL = 2
    """They are in the ring; somebody has to look, because that is due or because they are not sent yet."""


class Settled(NamedTuple):
    """What `put` wrote since the last settling, and the times of the last transfer of it."""

    batches: int
    packets: int
    size_bytes: int
    realtime_ns: int
    monotonic_ns: int


class StreamWriter(Protocol):
    """The only writer of one ring. It numbers what `put` makes; `append` writes batches that bear their numbers.

        state   put(transfers)                  put(transfers, plan), append, send_unsent
        Closed  NEEDS_FRAMING                   by one thread at a time, under a lock of the caller's
        Open    goes by the plan it opened with not allowed, but for send_unsent by the thread that puts

    `open` and `close` change the state. One thread may put without a lock while others open, close and settle: each call happens
    as a whole before or after the others. The native core keeps the GIL for that, the writer in Python has a lock.
    """

    bell_at_ns: int
    """From when on a put asks for the doorbell; `open` sets it."""

    @property
    def next_sequence(self) -> int:
        """Of the packet behind the newest batch."""

    @property
    def next_number(self) -> int:
        """Of the batch behind the newest."""

    def open(self, plan: Plan, /) -> None:
        """Let transfers be put, from now on, by `plan`."""

    def close(self) -> None:
        """Let no more transfers be put; idempotent."""

    def put(self, transfers: list[Any], plan: Plan | None = None, /) -> Put:
        """Write `transfers` as batches and wake the readers that sleep, if all are Transfers of whole packets; else do nothing.

        By `plan` for this call alone, or by the one that it was opened with. Nothing is done either if they come too soon
        for the plan, or if the batches would take more than half of the ring: they are sent out of it.
        """

    def append(self, batch: Encoded, /) -> None:
        """Write a batch that framing produced. Raises ConfigError if it is larger than the whole ring."""

    def send_unsent(self, send: Send | None, /) -> None:
        """Call `send` with each batch that was put and not sent yet, in place, the oldest first; with None forget them.

        Batches that the ring no longer holds are left out. To be called before anything is appended.
        """

    def settle(self) -> Settled | None:
        """What was put since the last call; None if nothing was."""

    def release(self) -> None:
        """Let go of the memory: nothing can be written any more. Idempotent."""


def too_large(size_bytes: int, data_bytes: int) -> ConfigError:
    """Return the error for a batch that is larger than the whole ring."""
    return ConfigError(f"a batch of {size_bytes} bytes does not fit into a ring of {data_bytes}: make the ring larger")

"""The hot path as both engines implement it: what writes a stream into its ring, and what reads plain batches out of one, or
out of the messages of a socket.

`pure_writer.py` and `pure_reader.py` implement them in Python; `writers.py` and `readers.py` bind the native core's and choose.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from typing import Any, Final, NamedTuple, Protocol

from usbcast_schemas.batch import Buffer, Encoded, EncodedBatch
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


Make = Callable[[EncodedBatch], Any]
"""Makes of a batch what the application gets; see `usbcast_schemas.engine.making`."""


class Expected(NamedTuple):
    """The batch that a reader may deliver next: any other is for continuity."""

    epoch: int
    number: int
    first_sequence: int


class Limits(NamedTuple):
    """When somebody else has something to do. Monotonic nanoseconds."""

    due_ns: int
    """The first batch that is delivered from then on is the last one."""
    park_until_ns: int
    """Nobody sleeps beyond it; 0 if nobody may sleep."""


class ReaderState(IntEnum):
    """What a reader does when it is asked for a batch; `READER_TRANSITIONS` says how it gets there."""

    CLOSED = 0
    """It delivers nothing."""
    OPEN = 1
    """It delivers the next batch if that is plain and the expected one."""
    REFUSED = 2
    """What comes next needs continuity: it delivers nothing more."""
    PARKED = 3
    """As OPEN. It was waited for, and no batch has come: if the wait is over, something else ended it."""
    DUE = 4
    """Somebody else has something to do first: it delivers nothing more."""


class ReaderEvent(StrEnum):
    """What changes the state of a reader."""

    OPENED = auto()
    DELIVERED = auto()
    DELIVERED_WHEN_DUE = auto()
    """A batch was delivered at `due_ns` or later."""
    FOUND_ANOTHER = auto()
    """What comes next is not plain, or not the expected batch, or was overwritten."""
    FOUND_LOAN_OVERWRITTEN = auto()
    """The last batch was handed out in place, and overwritten before the next one was asked for."""
    PARKED = auto()
    """The caller was told how long it may sleep."""
    SETTLED = auto()


_C, _O, _R, _P, _D = ReaderState
_E = ReaderEvent

READER_TRANSITIONS: Final = {
    **{(state, _E.OPENED): _O for state in ReaderState},
    **{(state, _E.SETTLED): _C for state in ReaderState},
    (_O, _E.DELIVERED): _O,
    (_P, _E.DELIVERED): _O,
    (_O, _E.DELIVERED_WHEN_DUE): _D,
    (_P, _E.DELIVERED_WHEN_DUE): _D,
    (_O, _E.FOUND_ANOTHER): _R,
    (_P, _E.FOUND_ANOTHER): _R,
    (_O, _E.FOUND_LOAN_OVERWRITTEN): _D,
    (_P, _E.FOUND_LOAN_OVERWRITTEN): _D,
    (_O, _E.PARKED): _P,
}
"""The state that follows a state and an event. Where there is no entry the event cannot happen: nothing is looked at."""


class SettledRead(NamedTuple):
    """What a reader delivered since it was settled last, and the state in which that found it."""

    state: ReaderState
    batches: int
    packets: int
    """Of all of these batches."""
    delivered: int
    """Packets of those batches that were not handed out in place, or were given back whole."""
    realtime_ns: int
    """Arrival of the last packet."""
    monotonic_ns: int
    taken_ns: int
    """When the last batch was delivered, on the monotonic clock."""
    loaned: Any
    """What was handed out in place last and is not given back; None if nothing is."""


class StreamReader(Protocol):
    """Delivers the batches of one stream as long as each is plain and the expected one; used by one thread at a time.

    Plain: packets of one size with their arrival times, and nothing else to report. Everything else it leaves where it is, for
    continuity, and delivers nothing more (REFUSED) until it is opened again. It counts what it delivers, so that nobody else has
    to do anything per batch; `settle` tells the sums.
    """

    @property
    def state(self) -> ReaderState: ...

    @property
    def taken(self) -> int:
        """How many batches were delivered, ever."""

    @property
    def taken_ns(self) -> int:
        """When the last batch was delivered, on the monotonic clock; 0 if none was yet."""

    def open(self, expected: Expected, limits: Limits, /) -> bool:
        """Deliver from now on, beginning with the batch `expected`; return True if a ring holds something to be looked at.

        Raises ValueError if the ring is closed.
        """

    def next_batch(self, make: Make | None = None, /) -> Any:
        """Return the next batch, as `make` makes it if one is given; None if there is none, and `state` says why.

        A caller that asks for the next batch has finished with the one before, which matters if that was handed out in place.
        """

    def wait_for_batch(self, most_s: float, make: Make | None = None, /) -> Any:
        """As `next_batch`, after a sleep of at most `most_s`; None at once if `park_s` would be 0."""

    def park_s(self) -> float:
        """Ask to be woken; return for how many seconds the caller may sleep. 0 if it may not, or if the state is not OPEN."""

    def settle(self) -> SettledRead | None:
        """Close; return what was delivered since the last call, None if it is closed already."""


class RingStreamReader(StreamReader, Protocol):
    """Reads a ring."""

    at: int
    """The slot to be read next; whoever else reads the ring moves it along."""


class Waiter(Protocol):
    """What a reader sleeps on: a set of descriptors, among them the one that wakes the readers of the ring."""

    def fileno(self) -> int: ...
    def wait(self, timeout_s: float, /) -> bool: ...

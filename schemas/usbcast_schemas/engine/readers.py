"""The readers of a stream: by the native core, where there is one and it can read the source, else in Python."""

from __future__ import annotations

from usbcast_schemas import engine
from usbcast_schemas.batch import GIVEN, MAX_BATCH_BYTES, Arrivals, EncodedBatch, native_maker
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.engine.protocols import ReaderState, RingStreamReader, SettledRead, StreamReader, Waiter
from usbcast_schemas.engine.pure_reader import PureMessageReader, PureRingReader
from usbcast_schemas.messages import Messages, PyzmqMessages
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import BatchInPlace, RingReader


def ring_reader(ring: RingReader, waiter: Waiter, *, copy: bool = True) -> RingStreamReader:
    """Return the reader of `ring`, which sleeps on `waiter`; without `copy` it hands out batches in place."""
    if ring.memory.native is None:
        return PureRingReader(ring, waiter, copy=copy)
    return native_ring_reader(ring, waiter, copy=copy)


def native_ring_reader(ring: RingReader, waiter: Waiter, *, copy: bool = True) -> RingStreamReader:
    """Return that of the native core, which has to be there."""
    assert engine.native is not None
    assert ring.memory.native is not None
    return engine.native.StreamReader(
        ring.memory.native,
        wait_fd=waiter.fileno(),
        batch=native_maker(EncodedBatch) if copy else native_maker(BatchInPlace, (*GIVEN, "slot"), ring=ring),
        below_bytes=WORTH_BYTES if copy else MAX_BATCH_BYTES,
        arrivals=Arrivals,
        major=MAJOR,
        states=tuple(ReaderState),
        settled=SettledRead,
    )


def message_reader(messages: Messages, topic: bytes) -> StreamReader:
    """Return the reader of the batches that come as `messages` on `topic`."""
    if isinstance(messages, PyzmqMessages):
        return PureMessageReader(messages, topic)
    return native_message_reader(messages, topic)


def native_message_reader(messages: Messages, topic: bytes) -> StreamReader:
    """Return that of the native core, which has to be there, of messages of its own."""
    assert engine.native is not None
    assert isinstance(messages, engine.native.Messages)
    return engine.native.StreamReader(
        messages,
        topic=topic,
        batch=native_maker(EncodedBatch),
        arrivals=Arrivals,
        major=MAJOR,
        states=tuple(ReaderState),
        settled=SettledRead,
    )

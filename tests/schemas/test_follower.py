"""The follower: it takes what simply goes on in a ring as decoding it would, counts it, and leaves everything else alone."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast import Batch
from usbcast.receiving.waiting import Waiter
from usbcast_schemas import native
from usbcast_schemas.batch import MAKER, Arrivals, Encoded, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.messages import IN_PLACE_BYTES, Messages, messages_of
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import STORES_ARE_ORDERED, BatchInPlace, RingReader, RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = [
    pytest.mark.skipif(native.core is None, reason=f"there is no native core: {native.why_not}"),
    pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work"),
]

needs_epoll = pytest.mark.skipif(sys.platform != "linux", reason="it sleeps in epoll")
FOR_EVER = 2**62
Write = Callable[..., None]


class Stream:
    """A ring with a writer and a reader."""

    def __init__(self, directory: Path, *, data_bytes: int = 32 * 1024, slots: int = 64) -> None:
        self.ring = RingWriter(directory, "s", 7, data_bytes=data_bytes, slots=slots)
        self.reader = RingReader(self.ring.path, self.ring.nonce)
        self.number = self.sequence = 0

    def write(self, packets: int = 1, *, size: int = 8, odd: bool = False) -> None:
        raw = encode_batch(
            epoch=7, number=self.number, first_sequence=self.sequence, packet_count=packets, packet_size=size,
            payload=(bytes(size * packets),),
            arrivals=Arrivals((packets,), (100 + self.number,), (self.number,)) if packets else Arrivals(),
            events=[pb.DeviceEvent(detail="e")] if odd else [],
        )  # fmt: skip
        self.ring.stream_writer.append(Encoded(raw, self.number, self.sequence, packets))
        self.number += 1
        self.sequence += packets

    def follower(self, *, copy: bool = True):  # type: ignore[no-untyped-def]  # the type is there with the native core only
        made = self.reader.follower(copy=copy)
        assert made is not None
        return made

    def close(self) -> None:
        self.reader.close()
        self.ring.close()


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path)
    yield made
    made.close()


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    odd=st.sets(st.integers(0, 39), max_size=4),
    begin=st.integers(0, 3),
    copy=st.booleans(),
)
def test_it_takes_as_far_as_nothing_else_is_to_be_said(
    counts: list[int], odd: set[int], begin: int, copy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`odd` ones bear an event; those without packets end it as well."""
    stream = Stream(tmp_path_factory.mktemp("ring"))
    for number, count in enumerate(counts):
        stream.write(count, odd=number in odd)
    at = min(begin, len(counts) - 1)
    follower = stream.follower(copy=copy)
    assert follower.open(at, 7, at, sum(counts[:at]), FOR_EVER, FOR_EVER)
    taken = list(iter(follower.next, None))
    simple = list(itertools.takewhile(lambda n: counts[n] and n not in odd, range(at, len(counts))))
    assert [batch.number for batch in taken] == simple
    for batch in taken:
        copied = stream.reader.take(batch.number)
        assert copied is not None
        assert type(batch) is (EncodedBatch if copy else BatchInPlace)
        assert (batch.first_sequence, batch.arrivals, bytes(batch.payload)) == (
            copied.first_sequence, copied.arrivals, bytes(copied.payload),
        )  # fmt: skip
    assert follower.refused == (at + len(simple) < len(counts))
    told = follower.close()
    if simple:
        packets, last = sum(counts[n] for n in simple), simple[-1]
        assert told[:5] == (len(simple), packets, packets, 100 + last, last)
        assert told[6] is None
    else:
        assert told is None
    assert follower.close() is None
    stream.close()


@pytest.mark.parametrize("wrong", [(0, 8, 0, 0), (0, 7, 1, 0), (0, 7, 0, 1)], ids=["epoch", "batch", "packet"])
def test_what_does_not_go_on_is_refused(wrong: tuple[int, int, int, int], stream: Stream) -> None:
    stream.write()
    follower = stream.follower()
    assert follower.open(*wrong, FOR_EVER, FOR_EVER)
    assert follower.next() is None
    assert follower.refused
    assert follower.doze() == 0.0
    assert follower.close() is None


def test_large_ones_are_left_to_who_has_buffers_for_them(tmp_path: Path) -> None:
    stream = Stream(tmp_path, data_bytes=8 * WORTH_BYTES)
    stream.write(1, size=2 * WORTH_BYTES)
    for copy in (True, False):
        follower = stream.follower(copy=copy)
        follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
        assert (follower.next() is None) == copy == follower.refused
    stream.close()


def test_a_batch_is_wrapped_as_the_application_sees_it(stream: Stream) -> None:
    stream.write(3)
    follower = stream.follower()
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    context = object()
    batch = follower.next(Batch, context)
    assert type(batch) is Batch
    assert (batch.first_sequence, batch.last_sequence, len(batch), batch.gaps) == (0, 2, 3, ())
    assert batch.payload == bytes(24)
    assert batch._context is context


def test_something_that_is_due_comes_after_one_more(stream: Stream) -> None:
    for _ in range(3):
        stream.write()
    follower = stream.follower()
    follower.open(0, 7, 0, 0, time.monotonic_ns(), FOR_EVER)
    assert follower.next() is not None
    assert follower.next() is None
    assert not follower.refused
    assert follower.doze() == 0.0
    assert follower.open(1, 7, 1, 1, FOR_EVER, FOR_EVER)
    assert follower.next() is not None


def test_closed_it_takes_nothing(stream: Stream) -> None:
    stream.write()
    follower = stream.follower()
    assert follower.next() is None
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    follower.close()
    assert follower.next() is None
    assert follower.doze() == 0.0
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    stream.reader.close()
    assert follower.next() is None
    assert follower.doze() == 0.0
    with pytest.raises(ValueError, match="the ring is closed"):
        follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)


def test_it_may_doze_until_something_comes_or_is_due(stream: Stream) -> None:
    follower = stream.follower()
    assert not follower.open(0, 7, 0, 0, FOR_EVER, time.monotonic_ns() + 10**9)
    assert 0.9 < follower.doze() <= 1.0
    assert follower.dozed
    assert follower.doze() == 0.0, "it was woken by something else: somebody has to look what it was"
    stream.write()
    assert follower.next() is not None
    assert not follower.dozed
    assert follower.doze() > 0.9
    stream.write()
    assert follower.next() is not None
    stream.write()
    assert follower.doze() == 0.0, "there is something"
    assert follower.next() is not None
    assert not follower.open(3, 7, 3, 3, FOR_EVER, 0)
    assert follower.doze() == 0.0, "others do not allow it"
    follower.open(3, 7, 3, 3, FOR_EVER, FOR_EVER)
    stream.ring.close()
    assert follower.doze() == 0.0, "nobody would wake it"


def _waiting(stream: Stream) -> Waiter:
    waiter = Waiter()
    waiter.add_edge(os.open(stream.ring.wake_path, os.O_RDONLY | os.O_NONBLOCK))
    return waiter


@needs_epoll
def test_it_waits_for_what_comes(stream: Stream) -> None:
    """And lets other threads work meanwhile."""
    waiter, follower = _waiting(stream), stream.follower()
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    assert follower.wait(waiter.fileno(), 0.01, Batch, None) is None, "the time is up"
    assert follower.dozed
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    writer = threading.Timer(0.05, stream.write)
    writer.start()
    batch = follower.wait(waiter.fileno(), 20.0, Batch, None)
    assert batch is not None
    assert batch.payload == bytes(8)
    writer.join()
    stream.write()
    assert follower.wait(waiter.fileno(), 20.0, Batch, None) is None, "there is something, so it does not sleep"
    assert not follower.dozed
    waiter.close()


@needs_epoll
def test_a_signal_is_handled_and_ends_it_only_by_an_exception(stream: Stream) -> None:
    waiter, follower = _waiting(stream), stream.follower()
    rung: list[int] = []

    def ring(_number: int, _frame: object) -> None:
        rung.append(1)
        if len(rung) == 3:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
        with pytest.raises(KeyboardInterrupt):
            follower.wait(waiter.fileno(), 20.0, Batch, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        waiter.close()
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    with pytest.raises(OSError, match="Bad file descriptor"):
        follower.wait(-1, 1.0, Batch, None)


def test_what_is_lent_counts_when_it_is_given_back(stream: Stream) -> None:
    for _ in range(3):
        stream.write(2)
    follower = stream.follower(copy=False)
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    follower.next(Batch, None)
    loaned = follower.next(Batch, None)
    batches, packets, delivered, *_, still_lent = follower.close()
    assert (batches, packets, delivered) == (2, 4, 2)
    assert still_lent is loaned
    assert follower.close() is None, "that is somebody else's now"


def test_what_is_overwritten_while_it_is_lent_ends_it(tmp_path: Path) -> None:
    stream = Stream(tmp_path, slots=4)
    stream.write(2)
    follower = stream.follower(copy=False)
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    loaned = follower.next(Batch, None)
    for _ in range(4):
        stream.write()
    assert not loaned.intact
    assert follower.next(Batch, None) is None
    assert follower.doze() == 0.0
    batches, packets, delivered, *_, still_lent = follower.close()
    assert (batches, packets, delivered) == (1, 2, 0)
    assert still_lent is loaned
    stream.close()


@pytest.mark.parametrize("first", ["the writer", "the reader"])
def test_what_is_in_place_stays_where_nobody_writes_any_more(first: str, stream: Stream) -> None:
    """Closed by the writer, a ring is as it is for ever; of one that was left before, nobody knows."""
    stream.write(4)
    follower = stream.follower(copy=False)
    follower.open(0, 7, 0, 0, FOR_EVER, FOR_EVER)
    batch = follower.next()
    assert isinstance(batch, BatchInPlace)
    assert batch.intact
    for closed in (stream.ring, stream.reader) if first == "the writer" else (stream.reader, stream.ring):
        closed.close()
    assert batch.intact == (first == "the writer")
    assert bytes(batch.payload) == bytes(32), "the memory is there as long as it is looked at"


def test_wrong_arguments_are_type_errors(stream: Stream) -> None:
    follower = stream.follower()
    assert native.core is not None
    for call, arguments in (
        (native.core.Follower, ("no ring", b"", 1, 1, MAKER, Arrivals)),
        (native.core.Follower, (stream.reader._native, "text", 1, 1, MAKER, Arrivals)),
        (native.core.Follower, (stream.reader._native, b"", 1, 1, "no type", Arrivals, None)),
        (follower.__init__, (stream.reader._native, b"", 1, 1, MAKER, Arrivals)),
        (follower.open, (1, 2, 3)),
        (follower.next, ("no type", 1)),
        (follower.next, (Batch,)),
    ):
        with pytest.raises(TypeError):
            call(*arguments)


def _encoded(number: int, *, odd: bool = False, payload_bytes: int = 16) -> bytes:
    return encode_batch(
        epoch=7, number=number, first_sequence=2 * number, packet_count=2, packet_size=payload_bytes // 2,
        payload=(bytes([number]) * payload_bytes,),
        arrivals=Arrivals((2,), (100 + number,), (number,)), events=[pb.DeviceEvent(detail="e")] if odd else [],
    )  # fmt: skip


@pytest.mark.parametrize("large", [False, True], ids=["copied", "in place"])
def test_it_takes_messages_as_decoding_them_would(large: bool) -> None:
    assert native.core is not None
    pad = IN_PLACE_BYTES if large else 16
    with zmq.Context.instance().socket(zmq.PAIR) as sender, zmq.Context.instance().socket(zmq.PAIR) as socket:
        sender.bind("inproc://follower")
        socket.connect("inproc://follower")
        messages = messages_of(socket)
        assert isinstance(messages, native.core.Messages)
        follower = native.core.Follower(messages, b"data/s/", 0, MAJOR, MAKER, Arrivals)
        encoded = partial(_encoded, payload_bytes=pad)

        def send(raw: bytes, topic: bytes = b"data/s/") -> None:
            sender.send_multipart([topic, raw])

        send(encoded(3))
        assert follower.next() is None, "it is closed"
        assert not follower.open(0, 7, 3, 6, FOR_EVER, FOR_EVER)
        assert follower.is_open
        assert follower.doze() == 0.0
        assert follower.next() == decode_batch(encoded(3))
        assert follower.next() is None
        assert messages.drained
        assert not follower.refused
        send(encoded(4))
        batch = follower.next(Batch, None)
        assert batch is not None
        assert (batch.first_sequence, bytes(batch.payload)) == (8, bytes([4]) * pad)
        for other in (encoded(4), encoded(6), encoded(5, odd=True), encoded(5)[:-1], b"", b"\xff" * 300):
            send(other)
            send(encoded(5))
            assert [follower.next(), follower.next()] == [None, None], "what is left is to be received first"
            assert follower.refused
            assert messages.left_over
            assert _received(messages) == [b"data/s/", other]
            assert _received(messages) == [b"data/s/", encoded(5)]
            follower.open(0, 7, 5, 10, FOR_EVER, FOR_EVER)
        send(encoded(5), b"tail/s/")
        sender.send(b"data/s/")
        sender.send_multipart([b"data/s/", encoded(5), b"and more"])
        for left in ([b"tail/s/", encoded(5)], [b"data/s/"], [b"data/s/", encoded(5), b"and more"]):
            assert follower.next() is None
            assert _received(messages) == left
        told = follower.close()
        assert told is not None
        assert (told[:5], told[6]) == ((2, 4, 4, 104, 4), None)
        follower.open(0, 7, 5, 10, 0, FOR_EVER)
        send(encoded(5))
        send(encoded(6))
        assert follower.next() is not None
        assert follower.next() is None, "something is due first"
        assert not follower.refused
        messages.close()


def _received(messages: Messages) -> list[bytes] | None:
    frames = messages.receive()
    return None if frames is None else list(map(bytes, frames))

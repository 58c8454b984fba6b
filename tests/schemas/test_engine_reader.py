"""Both engines' stream readers are held to one contract, over a ring and over messages: the same batches, sums and states."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engines import only_python
from usbcast import Batch
from usbcast.batch import DecodeContext, batch_maker
from usbcast.layout import Layout
from usbcast.receiving.waiting import Waiter
from usbcast_schemas import engine
from usbcast_schemas.batch import Arrivals, Encoded, EncodedBatch, decode_batch, encode_batch, native_maker
from usbcast_schemas.engine.making import pure_maker
from usbcast_schemas.engine.protocols import (
    READER_TRANSITIONS,
    Expected,
    Limits,
    ReaderEvent,
    ReaderState,
    RingStreamReader,
    StreamReader,
)
from usbcast_schemas.engine.pure_reader import ClosedReader, PureMessageReader, PureRingReader
from usbcast_schemas.engine.readers import message_reader, native_message_reader, native_ring_reader, ring_reader
from usbcast_schemas.messages import IN_PLACE_BYTES, PyzmqMessages, messages_of
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import STORES_ARE_ORDERED, BatchInPlace, RingReader, RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb

FOR_EVER = 2**62
NEVER_DUE = Limits(FOR_EVER, FOR_EVER)
TOPIC = b"data/s/"
HAS_NATIVE_RINGS = engine.native is not None and STORES_ARE_ORDERED
RINGS = ["pure", "checksums", *(["native"] if HAS_NATIVE_RINGS else [])]
"""The last but one: in Python, of a ring with checksums, as machines have that may show stores late."""

SOURCES = [f"ring, {kind}" for kind in RINGS] + ["messages, pure", *(["messages, native"] if engine.native else [])]
numbers = itertools.count()
needs_epoll = pytest.mark.skipif(sys.platform != "linux", reason="it sleeps in epoll")

CLOSED, OPEN, REFUSED, PARKED, DUE = ReaderState


class Source(Protocol):
    """A stream of epoch 7, and a reader of it."""

    reader: StreamReader

    def publish(self, raw: bytes, number: int, first_sequence: int, packets: int) -> None: ...


class RingSource:
    def __init__(self, directory: Path, kind: str, *, copy: bool = True, data_bytes: int = 32 * 1024, slots: int = 64):
        self.ring = RingWriter(directory, "s", 7, data_bytes=data_bytes, slots=slots, checksums=kind == "checksums")
        with nullcontext() if kind == "native" else only_python():
            self.held = RingReader(self.ring.path, self.ring.nonce)
        self.waiter = Waiter()
        self._wake_fd = os.open(self.ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
        self.waiter.add_edge(self._wake_fd)
        self.is_in_place = not copy and kind != "checksums"
        if kind == "native":
            self.reader: RingStreamReader = native_ring_reader(self.held, self.waiter, copy=copy)
        else:
            self.reader = PureRingReader(self.held, self.waiter, copy=copy)

    def publish(self, raw: bytes, number: int, first_sequence: int, packets: int) -> None:
        self.ring.stream_writer.append(Encoded(raw, number, first_sequence, packets))

    def close(self) -> None:
        self.held.close()
        self.ring.close()
        self.waiter.close()
        os.close(self._wake_fd)


class MessageSource:
    def __init__(self, kind: str) -> None:
        self.sender, self.socket = (zmq.Context.instance().socket(zmq.PAIR) for _ in range(2))
        address = f"inproc://engine-reader-{next(numbers)}"
        self.sender.bind(address)
        self.socket.connect(address)
        self.messages = PyzmqMessages(self.socket) if kind == "pure" else messages_of(self.socket)
        if isinstance(self.messages, PyzmqMessages):
            self.reader: StreamReader = PureMessageReader(self.messages, TOPIC)
        else:
            self.reader = native_message_reader(self.messages, TOPIC)

    def publish(self, raw: bytes, _number: int = 0, _first_sequence: int = 0, _packets: int = 0) -> None:
        self.sender.send_multipart([TOPIC, raw])

    def received(self) -> list[bytes] | None:
        frames = self.messages.receive()
        return None if frames is None else list(map(bytes, frames))

    def close(self) -> None:
        self.messages.close()
        self.socket.close()
        self.sender.close(linger=0)


@contextmanager
def source_of(kind: str, directory: Path, **options: Any) -> Iterator[Any]:
    of, _, engine_name = kind.partition(", ")
    made = RingSource(directory, engine_name, **options) if of == "ring" else MessageSource(engine_name)
    try:
        yield made
    finally:
        made.close()


class Published:
    """Publishes batches that follow one another."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.number = self.sequence = 0

    def __call__(self, packets: int = 1, *, size: int = 8, arrivals: int = 1, odd: bool = False) -> bytes:
        raw = encoded(self.number, self.sequence, packets, size=size, arrivals=arrivals, odd=odd)
        self._source.publish(raw, self.number, self.sequence, packets)
        self.number += 1
        self.sequence += packets
        return raw


def encoded(
    number: int, sequence: int, packets: int, *, size: int = 8, arrivals: int = 1, odd: bool = False, epoch: int = 7
) -> bytes:
    counts = [packets // arrivals] * arrivals if packets else []
    if counts:
        counts[-1] += packets - sum(counts)
    at = range(len(counts))
    return encode_batch(
        epoch=epoch, number=number, first_sequence=sequence, packet_count=packets, packet_size=size,
        payload=(bytes([number % 256]) * (size * packets),),
        arrivals=Arrivals(tuple(counts), tuple(100 + number + n for n in at), tuple(number + n for n in at)),
        events=[pb.DeviceEvent(detail="e")] if odd else [],
    )  # fmt: skip


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with source_of(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=[f"ring, {kind}" for kind in RINGS])
def ring_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RingSource]:
    with source_of(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=[f"ring, {kind}" for kind in RINGS if kind != "checksums"])
def in_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RingSource]:
    with source_of(request.param, tmp_path, copy=False, slots=4) as made:
        yield made


@pytest.fixture(params=[kind for kind in SOURCES if kind.startswith("messages")])
def message_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MessageSource]:
    with source_of(request.param, tmp_path) as made:
        yield made


# What both sources have in common


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    odd=st.sets(st.integers(0, 39), max_size=4),
    copy=st.booleans(),
)
def test_it_delivers_as_far_as_batches_are_plain(
    kind: str, counts: list[int], odd: set[int], copy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`odd` ones bear an event; those without packets end it as well."""
    options = {"copy": copy} if kind.startswith("ring") else {}
    with source_of(kind, tmp_path_factory.mktemp("ring"), **options) as source:
        publish = Published(source)
        raws = [
            publish(count, arrivals=min(1 + number % 3, count), odd=number in odd)
            for number, count in enumerate(counts)
        ]
        source.reader.open(Expected(7, 0, 0), NEVER_DUE)
        taken = list(iter(source.reader.next_batch, None))
        plain = list(itertools.takewhile(lambda n: counts[n] and n not in odd, range(len(counts))))
        for batch, raw in zip(taken, raws[: len(plain)], strict=True):
            expected = decode_batch(raw)
            assert type(batch) is (BatchInPlace if getattr(source, "is_in_place", False) else EncodedBatch)
            assert (batch.number, batch.first_sequence, batch.packet_count, batch.packet_size) == (
                expected.number, expected.first_sequence, expected.packet_count, expected.packet_size,
            )  # fmt: skip
            assert (batch.arrivals, bytes(batch.raw), bytes(batch.payload)) == (
                expected.arrivals,
                raw,
                expected.payload,
            )
            assert (batch.packet_ends, batch.losses, batch.events, batch.end, batch.holes) == ((), (), (), None, ())
        assert source.reader.state is (OPEN if len(plain) == len(counts) else REFUSED)
        settled = source.reader.settle()
        assert settled is not None
        packets = sum(counts[n] for n in plain)
        assert (settled.batches, settled.packets) == (len(plain), packets)
        loaned = settled.loaned.packet_count if settled.loaned is not None else 0
        assert settled.delivered + loaned == packets
        if plain:
            assert (settled.realtime_ns, settled.monotonic_ns) == (
                taken[-1].arrivals.realtime_ns[-1], taken[-1].arrivals.monotonic_ns[-1],
            )  # fmt: skip
            assert settled.taken_ns == source.reader.taken_ns > 0
        assert source.reader.taken == len(plain)


@pytest.mark.parametrize("wrong", [(8, 0, 0), (7, 1, 0), (7, 0, 1)], ids=["epoch", "number", "sequence"])
def test_a_batch_that_is_not_the_expected_one_is_refused(source: Any, wrong: tuple[int, int, int]) -> None:
    Published(source)()
    source.reader.open(Expected(*wrong), NEVER_DUE)
    assert source.reader.next_batch() is None
    assert source.reader.state is REFUSED
    assert source.reader.park_s() == 0.0
    assert source.reader.settle()[:4] == (REFUSED, 0, 0, 0)
    assert source.reader.settle() is None


def test_a_batch_that_was_refused_is_delivered_to_who_opens_it_right(source: Any) -> None:
    raw = Published(source)()
    source.reader.open(Expected(7, 1, 1), NEVER_DUE)
    assert source.reader.next_batch() is None
    if isinstance(source, MessageSource):
        assert source.received() == [TOPIC, raw], "a message waits for whoever receives it"
    else:
        source.reader.open(Expected(7, 0, 0), NEVER_DUE)
        assert source.reader.next_batch() == decode_batch(raw)


def test_anything_but_plain_batches_is_refused(source: Any) -> None:
    """Among others, of another major version, of varying packets, with a wrong sum of arrivals, and with a longer length."""
    plain = encoded(0, 0, 4, arrivals=2)
    others = [
        plain[:1] + b"\xff\xff\xff\xff" + plain[5:],
        plain[:-1],
        plain + b"\0",
        plain[:44] + b"\x03" + plain[45:],
        plain[:43] + b"\x88\x00" + plain[44:],
        plain[:42],
        b"",
        b"\xff" * 300,
        encode_batch(
            epoch=7, number=0, first_sequence=0, packet_count=2, packet_size=0, packet_ends=(3, 5), payload=(b"12345",),
            arrivals=Arrivals((2,), (1,), (1,)),
        ),
        encode_batch(epoch=7, number=0, first_sequence=0, packet_count=1, packet_size=80, payload=(bytes(80),)),
        encoded(0, 0, 1, odd=True),
        encode_batch(
            epoch=7, number=0, first_sequence=0, packet_count=1, packet_size=8, payload=(bytes(8),),
            arrivals=Arrivals((1,), (1,), (1,)), end=pb.StreamEnd(reason="r"),
        ),
    ]  # fmt: skip
    for slot, raw in enumerate(others):
        source.publish(raw, 0, 0, 1)
        if isinstance(source, RingSource):
            source.reader.at = slot
        source.reader.open(Expected(7, 0, 0), NEVER_DUE)
        assert source.reader.next_batch() is None, raw
        assert source.reader.state is REFUSED, raw
        if isinstance(source, MessageSource):
            assert source.received() == [TOPIC, raw]


def test_a_batch_is_made_into_what_the_application_gets(source: Any) -> None:
    publish = Published(source)
    context = DecodeContext(Layout((), 0))
    source.reader.open(Expected(7, 0, 0), NEVER_DUE)
    for make in (batch_maker(context), pure_maker(Batch, "_encoded", {"_context": context, "_skip": 0, "gaps": ()})):
        publish(3)
        batch = source.reader.next_batch(make)
        assert type(batch) is Batch
        assert (len(batch), batch.gaps) == (3, ())
        assert bytes(batch.payload) == bytes([publish.number - 1]) * 24
        assert batch._context is context
    publish()
    assert source.reader.next_batch(lambda encoded: ("made", encoded.number)) == ("made", 2)


def test_an_error_of_the_maker_is_raised(source: Any) -> None:
    Published(source)()
    source.reader.open(Expected(7, 0, 0), NEVER_DUE)
    with pytest.raises(ZeroDivisionError):
        source.reader.next_batch(lambda _encoded: 1 // 0)


def test_it_takes_arguments_of_the_right_kind_only(source: Any) -> None:
    source.reader.open(Expected(7, 0, 0), NEVER_DUE)
    for call, arguments in (
        (source.reader.open, (1, 2, 3)),
        (source.reader.next_batch, (None, None)),
        (source.reader.wait_for_batch, ()),
    ):
        with pytest.raises(TypeError):
            call(*arguments)


def test_the_batch_that_is_delivered_when_something_is_due_is_the_last(source: Any) -> None:
    publish = Published(source)
    for _ in range(3):
        publish()
    source.reader.open(Expected(7, 0, 0), Limits(time.monotonic_ns(), FOR_EVER))
    assert source.reader.next_batch() is not None
    assert source.reader.next_batch() is None
    assert source.reader.state is DUE
    assert source.reader.park_s() == 0.0
    assert source.reader.settle()[:4] == (DUE, 1, 1, 1)
    source.reader.open(Expected(7, 1, 1), NEVER_DUE)
    assert source.reader.next_batch() is not None


def test_closed_it_delivers_nothing(source: Any) -> None:
    Published(source)()
    for _ in range(2):
        assert source.reader.state is CLOSED
        assert source.reader.next_batch() is None
        assert source.reader.wait_for_batch(0.0) is None
        assert source.reader.park_s() == 0.0
        assert source.reader.settle() is None
        source.reader.open(Expected(7, 0, 0), NEVER_DUE)
        assert source.reader.settle()[:4] == (OPEN, 0, 0, 0)


def test_sums_begin_anew_with_each_settling(source: Any) -> None:
    publish = Published(source)
    for number in range(3):
        publish(2)
        source.reader.open(Expected(7, number, 2 * number), NEVER_DUE)
        assert source.reader.next_batch() is not None
        assert source.reader.settle()[1:4] == (1, 2, 2)
        assert source.reader.taken == number + 1


# The table of states

REACHED = {
    CLOSED: (),
    OPEN: (ReaderEvent.OPENED,),
    REFUSED: (ReaderEvent.OPENED, ReaderEvent.FOUND_ANOTHER),
    PARKED: (ReaderEvent.OPENED, ReaderEvent.PARKED),
    DUE: (ReaderEvent.OPENED, ReaderEvent.DELIVERED_WHEN_DUE),
}


class Driven:
    """A reader to which the events of the table happen."""

    def __init__(self, source: RingSource) -> None:
        self.source, self.reader = source, source.reader
        self.publish = Published(source)
        self._due_ns = FOR_EVER

    def happens(self, event: ReaderEvent) -> None:
        reader = self.reader
        match event:
            case ReaderEvent.OPENED:
                self._open(FOR_EVER)
            case ReaderEvent.SETTLED:
                reader.settle()
            case ReaderEvent.DELIVERED:
                self.publish()
                reader.next_batch()
            case ReaderEvent.DELIVERED_WHEN_DUE:
                parks = reader.state is PARKED
                if reader.state is not CLOSED:
                    self._open(0)
                if parks:
                    assert reader.park_s() > 0
                self.publish()
                reader.next_batch()
            case ReaderEvent.FOUND_ANOTHER:
                self.publish(odd=True)
                reader.next_batch()
            case ReaderEvent.PARKED:
                reader.park_s()
            case ReaderEvent.FOUND_LOAN_OVERWRITTEN:
                raise AssertionError("a test of its own")

    def _open(self, due_ns: int) -> None:
        self.reader.at = self.publish.number
        self.reader.open(Expected(7, self.publish.number, self.publish.sequence), Limits(due_ns, FOR_EVER))


@pytest.mark.parametrize("event", [event for event in ReaderEvent if event != ReaderEvent.FOUND_LOAN_OVERWRITTEN])
@pytest.mark.parametrize("state", ReaderState)
def test_states_follow_one_another_as_the_table_says(
    ring_source: RingSource, state: ReaderState, event: ReaderEvent
) -> None:
    driven = Driven(ring_source)
    for earlier in REACHED[state]:
        driven.happens(earlier)
    assert driven.reader.state is state
    if (state, event) not in READER_TRANSITIONS and event == ReaderEvent.DELIVERED_WHEN_DUE:
        return  # it cannot be opened for that without leaving the state
    driven.happens(event)
    assert driven.reader.state is READER_TRANSITIONS.get((state, event), state)


def test_the_table_has_no_state_that_is_not_left_and_none_that_is_not_reached() -> None:
    assert {state for state, _ in READER_TRANSITIONS} == {*READER_TRANSITIONS.values()} == {*ReaderState}
    assert {event for _, event in READER_TRANSITIONS} == {*ReaderEvent}


# Rings


def test_it_reads_on_from_its_slot(ring_source: RingSource) -> None:
    publish = Published(ring_source)
    for _ in range(3):
        publish()
    ring_source.reader.at = 1
    assert ring_source.reader.open(Expected(7, 1, 1), NEVER_DUE)
    assert [batch.number for batch in iter(ring_source.reader.next_batch, None)] == [1, 2]
    assert ring_source.reader.at == 3
    ring_source.reader.settle()
    assert not ring_source.reader.open(Expected(7, 3, 3), NEVER_DUE)


def test_what_was_overwritten_is_refused(ring_source: RingSource) -> None:
    publish = Published(ring_source)
    for _ in range(100):  # of which the ring holds 64
        publish()
    ring_source.reader.open(Expected(7, 0, 0), NEVER_DUE)
    assert ring_source.reader.next_batch() is None
    assert ring_source.reader.state is REFUSED


@pytest.mark.parametrize("kind", [f"ring, {kind}" for kind in RINGS if kind != "checksums"])
@pytest.mark.parametrize("copy", [True, False])
def test_large_ones_are_left_to_who_has_buffers_for_them(kind: str, copy: bool, tmp_path: Path) -> None:
    with source_of(kind, tmp_path, copy=copy, data_bytes=8 * WORTH_BYTES) as source:
        Published(source)(1, size=2 * WORTH_BYTES)
        source.reader.open(Expected(7, 0, 0), NEVER_DUE)
        assert (source.reader.next_batch() is None) == copy == (source.reader.state is REFUSED)


def test_of_a_closed_ring_nothing_is_delivered(ring_source: RingSource) -> None:
    Published(ring_source)()
    reader = ring_source.reader
    reader.open(Expected(7, 0, 0), NEVER_DUE)
    ring_source.held.close()
    assert reader.next_batch() is None
    assert reader.park_s() == 0.0
    reader.settle()
    with pytest.raises(ValueError, match="the ring is closed"):
        reader.open(Expected(7, 0, 0), NEVER_DUE)


def test_it_may_park_until_something_comes_or_is_due(ring_source: RingSource) -> None:
    reader, publish = ring_source.reader, Published(ring_source)
    assert not reader.open(Expected(7, 0, 0), Limits(FOR_EVER, time.monotonic_ns() + 10**10))
    assert 5 < reader.park_s() <= 10
    assert reader.state is PARKED
    assert reader.park_s() == 0.0, "something else woke: somebody has to look what it was"
    publish()
    assert reader.next_batch() is not None
    assert reader.state is OPEN
    assert reader.park_s() > 0
    publish()
    assert reader.next_batch() is not None
    publish()
    assert reader.park_s() == 0.0, "there is something"
    assert reader.next_batch() is not None
    reader.settle()
    assert not reader.open(Expected(7, 3, 3), Limits(FOR_EVER, 0))
    assert reader.park_s() == 0.0, "others do not allow it"
    reader.open(Expected(7, 3, 3), NEVER_DUE)
    ring_source.ring.close()
    assert reader.park_s() == 0.0, "nobody would wake it"


def test_it_waits_for_what_comes(ring_source: RingSource) -> None:
    """And lets other threads work meanwhile."""
    reader, publish = ring_source.reader, Published(ring_source)
    reader.open(Expected(7, 0, 0), NEVER_DUE)
    if reader.park_s() == 0.0 or sys.platform != "linux":
        pytest.skip("it does not sleep here")
    reader.open(Expected(7, 0, 0), NEVER_DUE)
    assert reader.wait_for_batch(0.01, batch_maker(DecodeContext(Layout((), 0)))) is None, "the time is up"
    assert reader.state is PARKED
    reader.open(Expected(7, 0, 0), NEVER_DUE)
    writer = threading.Timer(0.05, publish)
    writer.start()
    batch = reader.wait_for_batch(20.0, batch_maker(DecodeContext(Layout((), 0))))
    assert isinstance(batch, Batch)
    assert batch.payload == bytes(8)
    writer.join()
    publish()
    assert reader.wait_for_batch(20.0) is None, "there is something, so it does not sleep"
    assert reader.state is OPEN


@needs_epoll
def test_a_signal_is_handled_and_ends_the_wait_only_by_an_exception(ring_source: RingSource) -> None:
    reader = ring_source.reader
    rung: list[int] = []

    def ring(_number: int, _frame: object) -> None:
        rung.append(1)
        if len(rung) == 3:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        reader.open(Expected(7, 0, 0), NEVER_DUE)
        with pytest.raises(KeyboardInterrupt):
            reader.wait_for_batch(20.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6), keep=st.booleans(), copy=st.booleans())
@pytest.mark.parametrize("kind", [f"ring, {kind}" for kind in RINGS])
def test_a_slot_with_any_figures_leads_nowhere(
    kind: str, words: list[int], keep: bool, copy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What another process has written there must not lead out of the memory."""
    with source_of(kind, tmp_path_factory.mktemp("ring"), copy=copy, data_bytes=4096, slots=2) as source:
        Published(source)()
        with memoryview(source.ring._map)[4096 : 4096 + 48].cast("Q") as slot:
            for at, word in enumerate(words):
                if at or not keep:
                    slot[at] = word
        source.reader.open(Expected(*words[1:4]), NEVER_DUE)
        batch = source.reader.next_batch()
        assert batch is None or isinstance(batch, EncodedBatch)


# Batches in place


def test_a_loaned_batch_counts_when_it_is_given_back(in_place: RingSource) -> None:
    reader, publish = in_place.reader, Published(in_place)
    for _ in range(3):
        publish(2)
    reader.open(Expected(7, 0, 0), NEVER_DUE)
    reader.next_batch()
    loaned = reader.next_batch()
    settled = reader.settle()
    assert settled is not None
    assert settled[:4] == (OPEN, 2, 4, 2)
    assert settled.loaned is loaned
    assert reader.settle() is None, "that is somebody else's now"


def test_a_loaned_batch_that_is_overwritten_ends_it(in_place: RingSource) -> None:
    reader, publish = in_place.reader, Published(in_place)
    publish(2)
    reader.open(Expected(7, 0, 0), NEVER_DUE)
    loaned = reader.next_batch()
    for _ in range(4):
        publish()
    assert not loaned.intact
    assert reader.next_batch() is None
    assert reader.state is READER_TRANSITIONS[OPEN, ReaderEvent.FOUND_LOAN_OVERWRITTEN]
    assert reader.park_s() == 0.0
    settled = reader.settle()
    assert settled is not None
    assert settled[:4] == (DUE, 1, 2, 0)
    assert settled.loaned is loaned


@pytest.mark.parametrize("first", ["the writer", "the reader"])
def test_what_is_in_place_stays_where_nobody_writes_any_more(in_place: RingSource, first: str) -> None:
    """Closed by the writer, a ring is as it is for ever; of one that was left before, nobody knows."""
    raw = Published(in_place)(4)
    in_place.reader.open(Expected(7, 0, 0), NEVER_DUE)
    batch = in_place.reader.next_batch()
    assert isinstance(batch, BatchInPlace)
    assert batch.intact
    sides = [in_place.ring, in_place.held]
    for closed in sides if first == "the writer" else reversed(sides):
        closed.close()
    assert batch.intact == (first == "the writer")
    assert bytes(batch.payload) == decode_batch(raw).payload, "the memory is there as long as it is looked at"
    with pytest.raises(TypeError):
        batch.payload[0] = 1


# Messages


@pytest.mark.parametrize("size", [8, IN_PLACE_BYTES], ids=["copied", "in place"])
def test_it_reads_messages_up_to_one_that_it_leaves(message_source: MessageSource, size: int) -> None:
    reader, publish = message_source.reader, Published(message_source)
    raw = publish(1, size=size)
    assert not reader.open(Expected(7, 0, 0), NEVER_DUE)
    assert reader.next_batch() == decode_batch(raw)
    assert reader.next_batch() is None
    assert message_source.messages.drained
    assert reader.state is OPEN
    left, behind = encoded(5, 9, 1, size=size), encoded(6, 10, 1, size=size)
    message_source.publish(left)
    message_source.publish(behind)
    assert [reader.next_batch(), reader.next_batch()] == [None, None], "what is left is to be received first"
    assert reader.state is REFUSED
    assert message_source.messages.left_over
    assert [message_source.received(), message_source.received()] == [[TOPIC, left], [TOPIC, behind]]


def test_messages_on_other_topics_and_of_other_frames_are_left(message_source: MessageSource) -> None:
    reader, raw = message_source.reader, encoded(0, 0, 1)
    for frames in ([b"tail/s/", raw], [TOPIC, raw, b"and more"]):
        message_source.sender.send_multipart(frames)
        reader.open(Expected(7, 0, 0), NEVER_DUE)
        assert reader.next_batch() is None
        assert reader.state is REFUSED
        reader.settle()
        reader.open(Expected(7, 0, 0), NEVER_DUE)
        assert reader.next_batch() is None, "it is still to be received"
        assert reader.state is REFUSED
        assert message_source.received() == frames


def test_of_closed_messages_nothing_is_delivered(message_source: MessageSource) -> None:
    Published(message_source)()
    message_source.reader.open(Expected(7, 0, 0), NEVER_DUE)
    message_source.messages.close()
    assert message_source.reader.next_batch() is None


# Which one is taken


def test_the_engine_that_was_chosen_reads(tmp_path: Path) -> None:
    with source_of("ring, pure", tmp_path) as source:
        held = RingReader(source.ring.path, source.ring.nonce)
        assert isinstance(ring_reader(held, source.waiter), PureRingReader) == (held.memory.native is None)
        held.close()
    with source_of("messages, pure", tmp_path) as source:
        assert isinstance(message_reader(source.messages, TOPIC), PureMessageReader)
    assert (engine.ENGINE == "native") == (engine.native is not None)


def test_a_reader_of_nothing_never_opens() -> None:
    reader = ClosedReader()
    assert not reader.open(Expected(7, 0, 0), NEVER_DUE)
    assert (reader.state, reader.next_batch(), reader.wait_for_batch(1.0), reader.park_s()) == (CLOSED, None, None, 0.0)
    assert reader.settle() is None


@pytest.mark.skipif(engine.native is None, reason="there is no native core")
def test_the_native_core_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    assert engine.native is not None
    kinds: dict[str, Any] = {"batch": native_maker(EncodedBatch), "arrivals": Arrivals, "major": 1, "settled": tuple}
    states = tuple(ReaderState)
    make: Callable[..., object] = engine.native.StreamReader
    for source, options in (("no ring", {"states": states}), (None, {}), (None, {"states": ()})):
        with pytest.raises(TypeError):
            make(source, **kinds, **options)
    with source_of("messages, native", tmp_path) as source:
        make(source.messages, **kinds, states=states, topic=TOPIC)
        for options in ({}, {"topic": "text"}, {"topic": TOPIC, "states": ()}, {"topic": TOPIC, "batch": EncodedBatch}):
            with pytest.raises(TypeError):
                make(source.messages, **{**kinds, "states": states, **options})

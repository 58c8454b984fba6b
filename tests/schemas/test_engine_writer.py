"""Both engines write a stream alike: the same answers, the same ring byte by byte, the same batches sent out of it."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.flow import DeviceEvent, HostItem, Lost, Packets
from usbcast_broker.stream.batcher import Batcher
from usbcast_schemas import engine
from usbcast_schemas.batch import Arrivals, Buffer, Encoded, decode_batch, encode_parts, join_if_small
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.engine.protocols import Plan, Put, RingMemory, Settled, StreamWriter, Transfer, too_large
from usbcast_schemas.engine.pure_writer import PureStreamWriter
from usbcast_schemas.engine.writers import native_writer
from usbcast_schemas.errors import ConfigError
from usbcast_schemas.fanout import fanout_of, sender_of
from usbcast_schemas.ring import HEADER_BYTES, STORES_ARE_ORDERED, RingReader, RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb

SIZE = 8
EPOCH = 5

ENGINES: dict[str, Callable[[RingMemory], StreamWriter]] = {"pure": PureStreamWriter}
if engine.native is not None and STORES_ARE_ORDERED:
    ENGINES["native"] = native_writer

Make = Callable[..., RingWriter]


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes rings that are written by one of the engines."""
    made: list[RingWriter] = []

    def a_ring(data_bytes: int = 8192, slots: int = 64, **options: object) -> RingWriter:
        writer = ENGINES[request.param]
        ring = RingWriter(tmp_path, "s", EPOCH, data_bytes=data_bytes, slots=slots, make_writer=writer, **options)  # type: ignore[arg-type]
        made.append(ring)
        return ring

    yield a_ring
    for ring in made:
        ring.close()


@pytest.fixture
def writer(make: Make) -> StreamWriter:
    """That of a small ring, whose next batch has the number 7 and begins at 100."""
    return make(level=(100, 7)).stream_writer


def at(monotonic_ns: int, packets: int = 1) -> Transfer:
    return Transfer(bytes(SIZE * packets), 1000 + monotonic_ns, monotonic_ns)


def plan(packets: int = 10, **options: object) -> Plan:
    return Plan(SIZE, packets * SIZE, **options)  # type: ignore[arg-type]


def sent(writer: StreamWriter) -> list[tuple[int, int, int]]:
    """The number, first sequence and packets of each batch that is sent now."""
    batches = map(decode_batch, raw_sent(writer))
    return [(batch.number, batch.first_sequence, batch.packet_count) for batch in batches]


def raw_sent(writer: StreamWriter) -> list[bytes]:
    raw: list[bytes] = []
    writer.send_unsent(lambda batch: raw.append(bytes(batch)))
    return raw


def levels(writer: StreamWriter) -> tuple[int, int]:
    return writer.next_number, writer.next_sequence


def event() -> DeviceEvent:
    return DeviceEvent(pb.DeviceEvent.KIND_STALLED, 1, 1, "a stall")


# One engine at a time


def test_it_numbers_and_counts_what_is_put(writer: StreamWriter) -> None:
    assert writer.put([at(0)]) is Put.NEEDS_FRAMING, "it has not been opened"
    assert writer.settle() is None
    writer.open(plan(not_before_ns=20, spacing_ns=50, bell_at_ns=300))
    assert writer.put([at(19)]) is Put.NEEDS_FRAMING, "it is too soon"
    assert writer.put([at(20)]) is Put.DONE
    assert writer.put([at(69)]) is Put.NEEDS_FRAMING, "it is too soon after the last one"
    assert writer.put([at(69, 6)]) is Put.DONE, "though soon, it leaves no room for another one in its batch"
    assert writer.put([at(400, 2), at(401, 9)]) is Put.DONE_RING_BELL, "the bell is to ring from 300 on"
    assert levels(writer) == (11, 118)
    assert sent(writer) == [(7, 100, 1), (8, 101, 6), (9, 107, 2), (10, 109, 9)]
    assert writer.settle() == Settled(4, 18, 18 * SIZE, 1401, 401)
    assert writer.settle() is None
    writer.close()
    assert writer.put([at(999)]) is Put.NEEDS_FRAMING


def test_settled_has_names(writer: StreamWriter) -> None:
    writer.put([at(3, 2)], plan())
    settled = writer.settle()
    assert isinstance(settled, Settled)
    assert (settled.batches, settled.packets, settled.size_bytes) == (1, 2, 16)
    assert (settled.realtime_ns, settled.monotonic_ns) == (1003, 3)


def test_the_bell_may_be_put_off_while_it_is_open(writer: StreamWriter) -> None:
    writer.open(plan(bell_at_ns=10))
    assert writer.bell_at_ns == 10
    assert writer.put([at(10)]) is Put.DONE_RING_BELL
    writer.bell_at_ns = 20
    assert [writer.put([at(19)]), writer.put([at(20)])] == [Put.DONE, Put.DONE_RING_BELL]
    writer.open(plan())
    assert writer.put([at(10**9)]) is Put.DONE


def test_a_plan_for_one_call_needs_no_open_writer_and_leaves_it_closed(writer: StreamWriter) -> None:
    assert writer.put([at(1)], plan(not_before_ns=2)) is Put.NEEDS_FRAMING
    assert writer.put([at(1)], plan(bell_at_ns=0, spacing_ns=100)) is Put.DONE
    assert writer.put([at(1)], plan()) is Put.DONE
    assert writer.put([at(1)]) is Put.NEEDS_FRAMING
    assert sent(writer) == [(7, 100, 1), (8, 101, 1)]


@pytest.mark.parametrize(
    "items",
    [
        [],
        [event()],
        [at(100), event()],
        [Lost(pb.STAGE_HOST, "queue full", packets=1)],
        [at(100), Lost(pb.STAGE_HOST, "queue full", size_bytes=1)],
        [Transfer(bytes(SIZE + 1), 0, 100)],
        [at(100), Transfer(bytes(SIZE - 1), 0, 100)],
        [Transfer(bytes(SIZE + 1), 0, 100), Transfer(bytes(SIZE - 1), 0, 100)],
        [at(100), Transfer(b"", 0, 100)],
        [Transfer(bytearray(SIZE), 0, 100)],  # type: ignore[arg-type]
        [at(100, 9)] * 100,
    ],
    ids=[
        *("nothing", "event", "packet, event", "loss", "packet, loss", "ragged", "packet, ragged", "two ragged"),
        *("packet, empty", "no bytes", "half of the ring"),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_what_is_not_so_simple_is_refused_whole(items: list[HostItem], is_open: bool, writer: StreamWriter) -> None:
    if is_open:
        writer.open(plan())
    assert writer.put(items, None if is_open else plan()) is Put.NEEDS_FRAMING
    assert writer.settle() is None
    assert levels(writer) == (7, 100)
    assert sent(writer) == []


def test_what_is_larger_than_a_batch_is_cut(writer: StreamWriter) -> None:
    writer.open(Plan(SIZE, 10 * SIZE + 3, not_before_ns=1000, spacing_ns=50))
    assert writer.put([at(1, 24), at(2, 6)]) is Put.DONE, "though soon, it makes full batches"
    assert [packets for *_, packets in sent(writer)] == [10, 10, 10]
    assert sent(writer) == []
    assert writer.put([at(60)]) is Put.DONE
    writer.open(Plan(SIZE, SIZE - 1))
    assert writer.put([at(1, 2)]) is Put.DONE, "a packet is never cut"
    assert [packets for *_, packets in sent(writer)] == [1, 1, 1], "what was not sent before stays to be sent"
    assert writer.put([at(2, 2)]) is Put.DONE
    writer.send_unsent(None)
    assert sent(writer) == [], "nobody wanted it"


def test_many_small_batches_do_not_overtake_one_another(make: Make) -> None:
    """They are sent out of the ring after all are written, so all of them must still be there."""
    writer = make(slots=16).stream_writer
    transfers = [Transfer(bytes([n]) * SIZE, n, n) for n in range(9)]
    assert writer.put(transfers, plan(1)) is Put.NEEDS_FRAMING
    assert writer.put(transfers[:8], plan(1)) is Put.DONE
    assert [bytes(decode_batch(raw).payload) for raw in raw_sent(writer)] == [one.data for one in transfers[:8]]


def test_of_more_than_the_ring_holds_the_newest_are_sent(make: Make) -> None:
    writer = make(slots=4).stream_writer
    writer.open(plan())
    for n in range(10):
        assert writer.put([at(n)]) is Put.DONE
    assert [number for number, *_ in sent(writer)] == [6, 7, 8, 9]


def test_who_sends_elsewhere_hears_the_bell(writer: StreamWriter) -> None:
    called: list[Buffer] = []
    writer.open(plan(send=called.append))
    assert writer.put([at(1)]) is Put.DONE_RING_BELL
    assert called == [], "the thread that puts does not hold the lock under which is sent"
    assert len(sent(writer)) == 1


def test_a_batch_that_framing_made_has_its_own_number(make: Make) -> None:
    ring = make()
    reader = RingReader(ring.path, ring.nonce)
    ring.stream_writer.append(Encoded.in_parts((b"a", memoryview(b"bcd"), b""), 40, 300, 3))
    slot = reader.slot(0)
    assert slot is not None
    assert (slot.number, slot.first_sequence, slot.packet_count, reader.read(slot)) == (40, 300, 3, b"abcd")
    assert levels(ring.stream_writer) == (41, 303)
    assert ring.stream_writer.settle() is None
    assert sent(ring.stream_writer) == [], "who appends sends"
    reader.close()


def test_a_batch_larger_than_the_ring_is_refused(make: Make) -> None:
    writer = make(4096).stream_writer
    with pytest.raises(
        ConfigError, match="a batch of 5001 bytes does not fit into a ring of 4096: make the ring larger"
    ):
        writer.append(Encoded.in_parts((bytes(5000), b"x"), 1, 1, 1))
    assert levels(writer) == (0, 0)


@pytest.mark.parametrize("sizes", [[112] * 800, [40_000], [3000, 40_000, 112], [4096] * 9, [112] * 100 + [32_704]])
def test_a_large_run_is_there_wherever_it_begins(sizes: list[int], make: Make) -> None:
    """From 32 KiB on the native core writes past the caches."""
    chance = random.Random(len(sizes))
    ring = make(256 * 1024, 8)
    reader = RingReader(ring.path, ring.nonce)
    for number in range(9):
        transfers = [Transfer(chance.randbytes(size // 16 * 16), number, number) for size in sizes]
        assert ring.stream_writer.put(transfers, Plan(16, 96 * 1024)) is Put.DONE
        taken = reader.take(number)
        assert taken is not None
        assert bytes(taken.payload) == b"".join(transfer.data for transfer in transfers)
    reader.close()


@pytest.mark.parametrize("sizes", [[32 * 1024], [1, 40_001, 7], [100_003], [20_000, 20_001, 3, 64, 65], [9] * 5000])
def test_a_large_batch_is_there_wherever_it_begins(sizes: list[int], make: Make) -> None:
    chance = random.Random(sum(sizes))
    ring = make(256 * 1024, 8)
    reader = RingReader(ring.path, ring.nonce)
    for number in range(9):
        parts = tuple(chance.randbytes(size) for size in sizes)
        ring.stream_writer.append(Encoded.in_parts(parts, number, number, 1))
        slot = reader.slot(number)
        assert slot is not None
        assert reader.read(slot) == b"".join(parts)
    reader.close()


def test_a_run_wakes_who_sleeps_once(make: Make) -> None:
    ring = make()
    writer = ring.stream_writer
    reader = RingReader(ring.path, ring.nonce)
    fifo = os.open(ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
    for times in (1, 2):
        assert reader.will_sleep(reader.head)
        writer.put([at(1, 10), at(1)], plan())
        assert os.read(fifo, 10) == b"\0", "once, however many batches"
        assert not reader.will_sleep(times)
    writer.put([at(1)], plan())
    os.read(fifo, 10)
    writer.put([at(1)], plan())
    with pytest.raises(BlockingIOError):
        os.read(fifo, 10)
    os.close(fifo)
    reader.close()


def test_a_full_fifo_is_emptied_and_rung_again(make: Make) -> None:
    ring = make()
    reader = RingReader(ring.path, ring.nonce)
    fifo = os.open(ring.wake_path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, bytes(1 << 20))
    reader.will_sleep(0)
    ring.stream_writer.append(Encoded(b"x", 0, 0, 1))
    assert len(os.read(fifo, 1 << 20)) == 1
    os.close(fifo)
    reader.close()


def test_it_is_over_when_its_ring_is_closed(make: Make) -> None:
    ring = make(level=(3, 2))
    writer = ring.stream_writer
    writer.open(plan())
    ring.close()
    ring.close()
    writer.release()
    assert writer.put([at(100)]) is Put.NEEDS_FRAMING
    for write in (lambda: writer.append(Encoded(b"x", 0, 0, 1)), lambda: writer.put([at(1)], plan())):
        with pytest.raises(ValueError):
            write()
    assert levels(writer) == (2, 3)
    writer.close()


def test_one_thread_puts_while_another_opens_and_closes(make: Make) -> None:
    """Nothing is counted twice, or not at all, and every batch has the next number."""
    ring = make(1 << 20, 20_000)
    writer = ring.stream_writer
    over = threading.Event()
    put = 0

    def feed() -> None:
        nonlocal put
        for n in range(20_000):
            put += bool(writer.put([at(n)]))
        over.set()

    settled: list[Settled] = []
    thread = threading.Thread(target=feed)
    thread.start()
    while True:
        last = over.is_set()
        writer.open(plan())
        writer.close()
        tally = writer.settle()
        if tally is not None:
            settled.append(tally)
            own, level = at(0), levels(writer)
            parts = encode_parts(
                epoch=EPOCH, number=level[0], first_sequence=level[1], packet_count=1, packet_size=SIZE,
                payload=(own.data,), arrivals=Arrivals((1,), (own.realtime_ns,), (own.monotonic_ns,)),
            )  # fmt: skip
            writer.append(Encoded.in_parts(tuple(parts), *level, 1))
        if last:
            break
    thread.join()
    assert sum(tally.packets for tally in settled) == put
    reader = RingReader(ring.path, ring.nonce)
    head = reader.head
    assert head == put + len(settled)
    for slot in range(reader.tail, head):
        batch = reader.take(slot)
        assert batch is not None
        assert (batch.number, batch.first_sequence) == (slot, slot)
    reader.close()


def test_where_stores_may_show_late_what_is_put_has_a_checksum(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", EPOCH, data_bytes=8192, slots=4, checksums=True)
    assert isinstance(ring.stream_writer, PureStreamWriter)
    reader = RingReader(ring.path, ring.nonce)
    assert ring.stream_writer.put([at(1, 3)], plan()) is Put.DONE
    slot, batch = reader.slot(0), reader.take(0)
    assert slot is not None
    assert slot.checksum
    assert batch is not None
    assert batch.packet_count == 3
    reader.close()
    ring.close()


# Side by side

times = st.integers(-(2**62), 2**62)
runs = st.lists(st.integers(1, 40), min_size=1, max_size=60)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), runs),
        st.tuples(st.just("put by a plan"), runs),
        st.tuples(st.just("open"), st.integers(0, 50)),
        st.tuples(st.just("close"), st.none()),
        st.tuples(st.just("append"), st.lists(st.integers(0, 900), min_size=1, max_size=4)),
        st.tuples(st.just("send"), st.booleans()),
        st.tuples(st.just("settle"), st.none()),
    ),
    min_size=1,
    max_size=40,
)


def memory_of(ring: RingWriter) -> tuple[bytes, bytes]:
    """Head and tail; slots and data."""
    memory = ring.path.read_bytes()
    return memory[128:256], memory[HEADER_BYTES:]


@settings(max_examples=150, deadline=None)
@given(
    script=steps,
    packet_size=st.integers(1, 60),
    most=st.integers(1, 4000),
    slots=st.integers(2, 40),
    epoch=st.integers(0, 2**64 - 1),
    stamps=st.tuples(times, times),
)
def test_whatever_is_done_both_engines_leave_the_same_ring(
    script: list[tuple[str, object]], packet_size: int, most: int, slots: int, epoch: int, stamps: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    results = []
    for make_writer in ENGINES.values():
        chance = random.Random(len(script))
        directory = tmp_path_factory.mktemp("ring")
        ring = RingWriter(directory, "s", epoch, data_bytes=16384, slots=slots, make_writer=make_writer)
        writer = ring.stream_writer
        seen: list[object] = []
        for step, (what, with_what) in enumerate(script):
            if what.startswith("put"):
                assert isinstance(with_what, list)
                transfers = [
                    Transfer(chance.randbytes(n * packet_size), stamps[0] + n, stamps[1] + 10 * step) for n in with_what
                ]
                by = Plan(packet_size, most) if what == "put by a plan" else None
                seen.append(writer.put(transfers, by))
            elif what == "open":
                assert isinstance(with_what, int)
                writer.open(
                    Plan(
                        packet_size,
                        most,
                        not_before_ns=stamps[1] + 5 * with_what,
                        spacing_ns=with_what,
                        bell_at_ns=stamps[1] + 200,
                    )
                )
            elif what == "close":
                writer.close()
            elif what == "append":
                assert isinstance(with_what, list)
                parts = tuple(chance.randbytes(size) for size in with_what)
                raw_sent(writer)  # before anything is appended
                writer.append(Encoded.in_parts(parts, *levels(writer), 2))
            elif what == "send":
                seen.append(raw_sent(writer) if with_what else writer.send_unsent(None))
            else:
                seen.append(writer.settle())
            seen.append(levels(writer))
        results.append((seen, memory_of(ring)))
        ring.close()
    assert all(result == results[0] for result in results)


@settings(max_examples=80, deadline=None)
@given(packet_size=st.integers(1, 100), counts=st.lists(runs, min_size=1, max_size=4), most=st.integers(1, 20_000))
@pytest.mark.parametrize("name", ENGINES)
def test_what_is_put_is_written_as_the_batches_that_the_batcher_makes_of_it(
    name: str, packet_size: int, counts: list[list[int]], most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both ways lead to the same bytes."""
    chance = random.Random(len(counts))
    max_bytes = max(most, max(map(sum, counts)) * packet_size // 40)  # a ring holds so many
    quick, slow = (
        RingWriter(
            tmp_path_factory.mktemp("ring"), "s", EPOCH, data_bytes=1 << 20, slots=256, make_writer=ENGINES[name]
        )
        for _ in range(2)
    )
    batcher = Batcher(EPOCH, max_bytes=max_bytes)
    stamp = 0
    for run in counts:
        transfers = [
            Transfer(chance.randbytes(n * packet_size), stamp, stamp) for stamp, n in enumerate(run, stamp + 1)
        ]
        stamp += len(run)
        assert quick.stream_writer.put(transfers, Plan(packet_size, batcher.max_payload_bytes(packet_size)))
        batches = []
        for one in transfers:
            packets = Packets(one.data, len(one.data) // packet_size, packet_size)
            batches += batcher.add(packets, realtime_ns=one.realtime_ns, monotonic_ns=one.monotonic_ns)
        rest = batcher.flush()
        for batch in [*batches, rest] if rest else batches:
            slow.stream_writer.append(batch)
        assert levels(quick.stream_writer) == levels(slow.stream_writer) == (batcher.next_number, batcher.next_sequence)
    memories = memory_of(quick), memory_of(slow)
    quick.close()
    slow.close()
    assert memories[0] == memories[1]


def test_parts_are_joined_only_if_they_are_small() -> None:
    assert join_if_small([b"head", b"p1", b"p2"], 2, 4) == (b"headp1p2",)
    large = bytes(5000)
    assert join_if_small([b"he", b"ad", large, large], 2, 10_000) == (b"head", large, large)
    assert join_if_small([b"head", b""], 0, 0) == (b"head",)


# The native core alone

needs_core = pytest.mark.skipif("native" not in ENGINES, reason=f"there is no native writer: {engine.why_not}")


@needs_core
def test_what_a_sender_can_send_is_sent_at_once(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", EPOCH, data_bytes=8192, slots=64, make_writer=native_writer)
    writer = ring.stream_writer
    context = zmq.Context.instance()
    with context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://stream-writer")
        there.connect("inproc://stream-writer")
        assert here.getsockopt(zmq.EVENTS)  # it has taken notice of its peer
        fanout = fanout_of(here)
        sender = sender_of([fanout], b"topic")
        writer.open(plan(bell_at_ns=100, send=sender))
        assert [writer.put([at(10)]), writer.put([at(20, 13)]), writer.put([at(100, 2)])] == [1, 1, 2]
        writer.bell_at_ns = 200
        assert writer.put([at(110)]) is Put.DONE
        came = [there.recv_multipart(zmq.DONTWAIT) for _ in range(5)]
        assert [topic for topic, _ in came] == [b"topic"] * 5
        batches = [decode_batch(raw) for _, raw in came]
        assert [batch.number for batch in batches] == [0, 1, 2, 3, 4]
        assert [batch.packet_count for batch in batches] == [1, 10, 3, 2, 1]
        assert sent(writer) == []
        fanout.close()
        assert writer.put([at(120)]) is Put.DONE_RING_BELL, "it could not be sent, so somebody is to look"
        with pytest.raises(ValueError, match="closed"):
            writer.send_unsent(sender)
    ring.close()


@needs_core
def test_wrong_arguments_are_errors(tmp_path: Path) -> None:
    assert engine.native is not None
    core = engine.native.Ring(bytearray(HEADER_BYTES + 4 * 48 + 4096), 4, 4096)
    named = {
        "contract": CONTRACT, "epoch": 1, "transfer": Transfer, "outcomes": tuple(Put), "settled": Settled,
        "too_large": too_large,
    }  # fmt: skip
    make = engine.native.StreamWriter
    writer = make(core, **named)  # type: ignore[arg-type]
    for call, arguments, options in (
        (make, (core,), {}),
        (make, ("no ring",), named),
        (make, (core,), {**named, "transfer": "no type"}),
        (make, (core,), {**named, "outcomes": (0, 1)}),
        (writer.put, (None,), {}),
        (writer.put, ([], None, None), {}),
        (writer.__init__, (core,), named),  # type: ignore[misc]  # a second time
        (writer.append, (Encoded.in_parts([b"x"], 0, 0, 1),), {}),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call(*arguments, **options)  # type: ignore[operator]
    for wrong in (object(), Plan("1", 8)):  # type: ignore[arg-type]
        with pytest.raises((AttributeError, TypeError)):
            writer.open(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        writer.open(Plan(0, 8))
    assert writer.put([at(1)]) is Put.NEEDS_FRAMING

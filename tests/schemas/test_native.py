"""The native core does what the Python beside it does: the same bytes, the same ring, the same batches out of it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.flow import Lost, Transfer
from usbcast_broker.stream.batcher import Batcher
from usbcast_schemas import native
from usbcast_schemas.batch import MAKER, Arrivals, Buffer, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.errors import ConfigError, VersionMismatch, WireError
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import (
    HEADER_BYTES,
    SLOT_BYTES,
    STORES_ARE_ORDERED,
    BatchInPlace,
    RingReader,
    RingWriter,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = [
    pytest.mark.skipif(native.core is None, reason=f"there is no native core: {native.why_not}"),
    pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work"),
]

SPAWN = multiprocessing.get_context("spawn")

numbers = st.integers(0, 2**40)
times = st.integers(-(2**62), 2**62)


runs = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=60), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    packet_size=st.integers(1, 100),
    counts=runs,
    stamps=st.tuples(times, times),
    most=st.integers(1, 20_000),
    epoch=st.integers(0, 2**64 - 1),
)
def test_runs_are_written_as_the_batches_that_the_batcher_makes_of_them(
    packet_size: int, counts: list[list[int]], stamps: tuple[int, int], most: int, epoch: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """The same ring, byte by byte, and what the writer shows of it is what it wrote."""
    chance = random.Random(len(counts))
    max_bytes = max(most, max(map(sum, counts)) * packet_size // 40)  # a ring holds so many
    ring, other = (
        RingWriter(tmp_path_factory.mktemp("ring"), "s", 1, data_bytes=1024 * 1024, slots=256) for _ in range(2)
    )
    quick, slow = Batcher(epoch, max_bytes=max_bytes), Batcher(epoch, max_bytes=max_bytes)
    for run in counts:
        transfers = [Transfer(chance.randbytes(n * packet_size), stamps[0] + n, stamps[1] - n) for n in run]
        before = quick.next_sequence
        written = quick.write_run(ring, list(transfers), packet_size)
        assert written is not None
        batches = slow.add_run(transfers, packet_size)
        rest = slow.flush()
        batches += [rest] if rest else []
        for batch in batches:
            other.write(
                *batch.parts,
                number=batch.number,
                first_sequence=batch.first_sequence,
                packet_count=batch.packet_count,
            )
        assert written == (len(batches), sum(run), sum(run) * packet_size)
        assert (quick.next_sequence, quick.next_number) == (slow.next_sequence, slow.next_number)
        sent = [bytes(raw) for raw in _newest(ring, written[0])]
        shown = [
            (batch.number, batch.first_sequence, batch.packet_count, bytes(batch.raw))
            for batch in map(decode_batch, sent)
        ]
        assert shown == [(b.number, b.first_sequence, b.packet_count, b.raw) for b in batches]
        assert shown[0][1] == before
    memories = [(bytes(one._map[128:256]), bytes(one._map[HEADER_BYTES:])) for one in (ring, other)]
    ring.close()
    other.close()
    assert memories[0] == memories[1]


def _newest(ring: RingWriter, count: int) -> list[Buffer]:
    sent: list[Buffer] = []
    ring.send(sent.append, count)
    return sent


def _ring_and_batcher(tmp_path: Path, *, max_bytes: int = 1024, slots: int = 16) -> tuple[RingWriter, Batcher]:
    return RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=slots), Batcher(1, max_bytes=max_bytes)


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Transfer(bytes(8), 1, 1), Lost(pb.STAGE_HOST, "queue full", size_bytes=1)],
        [Transfer(bytes(8), 1, 1), Transfer(bytes(7), 1, 1)],
        [Transfer(b"", 1, 1)],
        [Transfer(bytearray(8), 1, 1)],
        [Transfer(bytes(1024), 1, 1)] * 5,
    ],
    ids=[
        "nothing",
        "a loss",
        "half a packet",
        "empty",
        "no bytes",
        "more than half of the ring",
    ],
)
def test_what_is_not_so_simple_is_left_alone(items: list[object], tmp_path: Path) -> None:
    ring, batcher = _ring_and_batcher(tmp_path)
    assert batcher.write_run(ring, items, 8) is None
    assert (batcher.next_sequence, batcher.next_number, ring.oldest) == (0, 0, None)
    ring.close()


def test_many_small_batches_do_not_overtake_one_another(tmp_path: Path) -> None:
    """Who pushes them reads them out of the ring behind the run, so all of them must still be there."""
    ring, batcher = _ring_and_batcher(tmp_path, max_bytes=8, slots=16)
    transfers = [Transfer(bytes([n]) * 8, n, n) for n in range(9)]
    assert batcher.write_run(ring, list(transfers), 8) is None
    assert batcher.write_run(ring, transfers[:8], 8) == (8, 8, 64)
    ring.close()


def test_a_run_does_not_pass_by_what_is_held_or_waited_for(tmp_path: Path) -> None:
    ring, batcher = _ring_and_batcher(tmp_path)
    batcher.add(Lost(pb.STAGE_HOST, "queue full", size_bytes=1), realtime_ns=0, monotonic_ns=0)
    assert batcher.write_run(ring, [Transfer(bytes(8), 1, 1)], 8) is None
    assert Batcher(1, max_age_ns=1).write_run(ring, [Transfer(bytes(8), 1, 1)], 8) is None
    ring.close()


@pytest.mark.parametrize("sizes", [[112] * 800, [40_000], [3000, 40_000, 112], [4096] * 9, [112] * 100 + [32_704]])
def test_a_run_that_is_written_past_the_caches_is_there(sizes: list[int], tmp_path: Path) -> None:
    chance = random.Random(len(sizes))
    ring = RingWriter(tmp_path, "s", 1, data_bytes=256 * 1024, slots=8)
    reader = RingReader(ring.path, ring.nonce)
    batcher = Batcher(1, max_bytes=96 * 1024)
    for number in range(9):
        transfers = [Transfer(chance.randbytes(size // 16 * 16), number, number) for size in sizes]
        assert batcher.write_run(ring, list(transfers), 16) is not None
        taken = reader.take(number)
        assert taken is not None
        assert bytes(taken.payload) == b"".join(transfer.data for transfer in transfers)
    reader.close()
    ring.close()


def test_a_run_wakes_who_sleeps(tmp_path: Path) -> None:
    ring, batcher = _ring_and_batcher(tmp_path)
    reader = RingReader(ring.path, ring.nonce)
    fifo = os.open(ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
    for times in (1, 2):
        assert reader.will_sleep(reader.head)
        batcher.write_run(ring, [Transfer(bytes(1024), 1, 1), Transfer(bytes(8), 1, 1)], 8)
        assert os.read(fifo, 10) == b"\0", "once, however many batches"
        assert not reader.will_sleep(times)
    batcher.write_run(ring, [Transfer(bytes(8), 1, 1)], 8)
    os.read(fifo, 10)
    batcher.write_run(ring, [Transfer(bytes(8), 1, 1)], 8)
    with pytest.raises(BlockingIOError):
        os.read(fifo, 10)
    os.close(fifo)
    reader.close()
    ring.close()


def test_who_will_sleep_is_told_of_what_has_come(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    assert reader.will_sleep(0)
    ring.write(b"x", number=0, first_sequence=0, packet_count=1)
    assert not reader.will_sleep(0)
    assert reader.will_sleep(1)
    ring.close()
    assert not reader.will_sleep(1), "nobody would wake it"
    reader.close()


def test_spin_waiting_ends_when_something_comes_or_the_time_is_over(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    begin_ns = time.monotonic_ns()
    assert not reader.spin_wait(0, 2_000_000)
    assert time.monotonic_ns() - begin_ns >= 2_000_000
    writer = threading.Timer(0.05, ring.write, (b"x",), {"number": 0, "first_sequence": 0, "packet_count": 1})
    writer.start()
    assert not reader.spin_wait(0, 20_000_000_000), "as it was in vain before, it does not look now"
    assert reader.spin_wait(0, 20_000_000_000), "and the thread that writes is not held up by it"
    assert time.monotonic_ns() - begin_ns < 10_000_000_000
    writer.join()
    assert reader.spin_wait(0, 0)
    reader.close()
    with pytest.raises(ValueError, match="the ring is closed"):
        reader.spin_wait(0, 0)
    ring.close()


def test_a_full_fifo_is_emptied_and_rung_again(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    fifo = os.open(ring.wake_path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, bytes(1 << 20))
    reader.will_sleep(0)
    ring.write(b"x", number=0, first_sequence=0, packet_count=1)
    assert len(os.read(fifo, 1 << 20)) == 1
    os.close(fifo)
    reader.close()
    ring.close()


@settings(max_examples=150, deadline=None)
@given(
    writes=st.lists(st.lists(st.integers(0, 900), min_size=1, max_size=4), min_size=1, max_size=60),
    slots=st.integers(2, 12),
)
def test_a_ring_is_written_alike(writes: list[list[int]], slots: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    chance = random.Random(slots)
    batches = [[chance.randbytes(size) for size in sizes] for sizes in writes]
    contents = []
    for core in (native.core, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "core", core)
            ring = RingWriter(tmp_path_factory.mktemp("ring"), "s", 1, data_bytes=4096, slots=slots)
            for number, parts in enumerate(batches):
                ring.write(*parts, number=number, first_sequence=2 * number, packet_count=2)
            memory = bytes(ring._map)
            contents.append((memory[128:256], memory[HEADER_BYTES:]))  # head and tail; slots and data
            ring.close()
    assert contents[0] == contents[1]


@pytest.mark.parametrize("sizes", [[32 * 1024], [1, 40_001, 7], [100_003], [20_000, 20_001, 3, 64, 65], [9] * 5000])
def test_what_is_written_past_the_caches_is_there(sizes: list[int], tmp_path: Path) -> None:
    """From 32 KiB on, wherever it begins and ends, over the end of the ring and again."""
    chance = random.Random(sum(sizes))
    ring = RingWriter(tmp_path, "s", 1, data_bytes=256 * 1024, slots=8)
    reader = RingReader(ring.path, ring.nonce)
    for number in range(9):
        parts = [chance.randbytes(size) for size in sizes]
        ring.write(*parts, number=number, first_sequence=number, packet_count=1)
        slot = reader.slot(number)
        assert slot is not None
        assert reader.read(slot) == b"".join(parts)
    reader.close()
    ring.close()


@settings(max_examples=200, deadline=None)
@given(
    epoch=st.integers(0, 2**64 - 1),
    number=numbers,
    first=numbers,
    count=st.one_of(st.integers(0, 30), st.integers(0, 400)),
    size=st.integers(0, 40),
    arrivals=st.one_of(st.integers(0, 3), st.integers(0, 300)),
    event=st.booleans(),
    stamp=times,
)
def test_a_batch_is_taken_as_it_is_decoded(
    epoch: int, number: int, first: int, count: int, size: int, arrivals: int, event: bool, stamp: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Whatever its layout; of one that the native core leaves to Python it gives the bytes."""
    parts = min(arrivals, count)
    raw = encode_batch(
        epoch=epoch, number=number, first_sequence=first, packet_count=count, packet_size=size,
        payload=(bytes(n % 251 for n in range(count * size)),),
        packet_ends=() if size else [0] * count,
        arrivals=Arrivals([count - parts + 1, *[1] * (parts - 1)], [stamp] * parts, [-stamp] * parts) if parts else Arrivals(),
        events=[pb.DeviceEvent(detail="e")] if event else [],
    )  # fmt: skip
    taken, decoded = [], []
    for core in (native.core, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "core", core)
            try:
                decoded.append(decode_batch(raw))
            except WireError as error:
                decoded.append(str(error))
            ring = RingWriter(tmp_path_factory.mktemp("ring"), "s", 1, data_bytes=64 * 1024, slots=4)
            reader = RingReader(ring.path, ring.nonce)
            ring.write(raw, number=number, first_sequence=first, packet_count=count)
            try:
                taken.append(reader.take(0))
            except WireError as error:
                taken.append(str(error))
            assert reader.take(1) is None
            reader.close()
            ring.close()
    assert taken[0] == taken[1] == decoded[0] == decoded[1]
    if isinstance(taken[0], EncodedBatch):
        assert taken[0] == decode_batch(raw)
        assert type(taken[0].arrivals) is Arrivals


@settings(max_examples=200, deadline=None)
@given(
    arrivals=st.one_of(st.integers(1, 3), st.integers(1, 80)),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 3),
)
def test_damaged_bytes_are_read_or_refused_alike(arrivals: int, changes: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(
        encode_batch(
            epoch=1, number=2, first_sequence=3, packet_count=2 * arrivals, packet_size=3, payload=(bytes(6 * arrivals),),
            arrivals=Arrivals([2] * arrivals, list(range(arrivals)), list(range(arrivals))),
        )
    )  # fmt: skip
    before_payload = len(raw) - 6 * arrivals
    for at, value in changes:
        raw[at % before_payload] = value
    damaged = bytes(raw[: len(raw) - cut])
    seen = []
    for core in (native.core, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "core", core)
            try:
                seen.append(decode_batch(damaged))
            except (WireError, VersionMismatch) as error:
                seen.append(str(error))
    assert seen[0] == seen[1]


def test_what_is_no_batch_is_refused_in_the_same_words(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    ring.write(b"\xff" * 100, number=0, first_sequence=0, packet_count=1)
    with pytest.raises(WireError, match="are not a PacketBatch"):
        reader.take(0)
    other = bytearray(
        encode_batch(epoch=1, number=0, first_sequence=0, packet_count=1, packet_size=4, payload=(b"abcd",))
    )
    other[3:5] = (MAJOR + 1).to_bytes(2, "little")
    ring.write(bytes(other), number=0, first_sequence=0, packet_count=1)
    with pytest.raises(VersionMismatch):
        reader.take(1)
    reader.close()
    ring.close()


def test_a_large_batch_is_read_into_a_buffer_of_the_readers(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=1 << 20, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    size = 2 * WORTH_BYTES
    raw = encode_batch(
        epoch=1,
        number=0,
        first_sequence=0,
        packet_count=1,
        packet_size=size,
        payload=(random.Random(1).randbytes(size),),
        arrivals=Arrivals((1,), (1,), (1,)),
    )
    ring.write(raw, number=0, first_sequence=0, packet_count=1)
    batch = reader.take(0)
    assert batch is not None
    assert isinstance(batch.raw, memoryview)
    assert batch == decode_batch(raw)
    with pytest.raises(ConfigError, match="make the ring larger"):
        ring.write(bytes(1 << 20), b"x", number=1, first_sequence=1, packet_count=1)
    reader.close()
    ring.close()
    ring.close()


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6), keep=st.booleans())
def test_a_slot_with_any_figures_leads_nowhere(
    words: list[int], keep: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What another process has written there must not lead out of the memory."""
    ring = RingWriter(tmp_path_factory.mktemp("ring"), "s", 1, data_bytes=4096, slots=2)
    reader = RingReader(ring.path, ring.nonce)
    ring.write(bytes(64), number=0, first_sequence=0, packet_count=1)
    slot = memoryview(ring._map)[HEADER_BYTES : HEADER_BYTES + SLOT_BYTES].cast("Q")
    for at, word in enumerate(words):
        if at or not keep:
            slot[at] = word
    slot.release()
    assert native.core is not None
    taken = reader._native.take(WORTH_BYTES, MAJOR, MAKER, Arrivals, 0)
    assert taken is None or isinstance(taken, bytes | EncodedBatch)
    for copy, kind in ((True, EncodedBatch), (False, BatchInPlace)):
        follower = reader.follower(copy=copy)
        assert follower is not None
        follower.open(0, *words[1:4], 2**62, 0)
        batch = follower.next()
        assert batch is None or isinstance(batch, kind)
    reader.close()
    ring.close()


def test_a_closed_ring_says_so(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=4096, slots=2)
    assert native.core is not None
    core = ring._native
    ring.close()
    with pytest.raises(ValueError, match="the ring is closed"):
        core.write((b"",), 0, 0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"", 4, 4096),
        (bytearray(100), 4, 4096),
        (bytearray(8192), 0, 4096),
        (bytearray(4096), 1, 0),
        (bytearray(8192), 2**60, 4096),  # whose table has 3 * 2**64 bytes
        (bytearray(8192), 100, 2**64 - 704),  # which makes 8192 of 2**64 more
        (bytearray(8192), 2**64 - 1, 4144),
    ],
)
def test_memory_that_is_no_ring(arguments: tuple[object, int, int]) -> None:
    assert native.core is not None
    with pytest.raises((ValueError, BufferError)):
        native.core.Ring(*arguments)


def _write_for(directory: str, seconds: float, ready, pure: bool) -> None:
    if pure:
        native.core = None  # type: ignore[assignment]
    ring = RingWriter(Path(directory), "s", 1, data_bytes=64 * 1024, slots=64)
    ready.put((str(ring.path), ring.nonce))
    end = time.monotonic() + seconds
    for number in itertools.count():
        if number % 64 == 0 and time.monotonic() > end:
            break
        size = 8 * (number % 200 + 1)
        raw = encode_batch(
            epoch=1, number=number, first_sequence=number, packet_count=1, packet_size=size,
            payload=(number.to_bytes(8, "little") * (size // 8),), arrivals=Arrivals((1,), (number,), (number,)),
        )  # fmt: skip
        ring.write(raw, number=number, first_sequence=number, packet_count=1)
    os._exit(0)


@pytest.mark.parametrize("writer_is", ["native", "python"])
@pytest.mark.parametrize("reader_is", ["native", "python"])
def test_a_reader_beside_a_furious_writer_takes_whole_batches_or_none(
    writer_is: str, reader_is: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = SPAWN.Queue()
    process = SPAWN.Process(target=_write_for, args=(str(tmp_path), 1.0, ready, writer_is == "python"))
    process.start()
    path, nonce = ready.get(timeout=60)
    if reader_is == "python":
        monkeypatch.setattr(native, "core", None)
    reader = RingReader(Path(path), nonce)
    taken = overtaken = 0
    at = 0
    try:
        while process.is_alive() or at < reader.head:
            if at >= reader.head:
                continue
            batch = reader.take(at)
            if batch is None:
                overtaken += 1
                at = max(at + 1, reader.tail)
                continue
            assert batch.number == at
            assert bytes(batch.payload) == batch.number.to_bytes(8, "little") * (batch.packet_size // 8)
            assert batch.arrivals.realtime_ns == (batch.number,)
            at, taken = at + 1, taken + 1
            if taken % 50 == 0:
                at = max(at, reader.tail)  # to where it is overwritten next
    finally:
        process.join(60)
        reader.close()
    assert taken > 500
    print(f"{taken} taken, {overtaken} overtaken")

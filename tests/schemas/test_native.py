"""The native core does what the Python beside it does: the same bytes, the same ring, the same batches out of it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engines import only_python
from usbcast_schemas import engine
from usbcast_schemas.batch import MAKER, Arrivals, Encoded, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.engine.pure_writer import PureStreamWriter
from usbcast_schemas.engine.writers import native_writer
from usbcast_schemas.errors import VersionMismatch, WireError
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import (
    HEADER_BYTES,
    SLOT_BYTES,
    STORES_ARE_ORDERED,
    RingReader,
    RingWriter,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = [
    pytest.mark.skipif(engine.native is None, reason=f"there is no native core: {engine.why_not}"),
    pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work"),
]

SPAWN = multiprocessing.get_context("spawn")

numbers = st.integers(0, 2**40)
times = st.integers(-(2**62), 2**62)


def test_who_will_sleep_is_told_of_what_has_come(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    assert reader.will_sleep(0)
    ring.stream_writer.append(Encoded(b"x", 0, 0, 1))
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
    writer = threading.Timer(0.05, ring.stream_writer.append, (Encoded(b"x", 0, 0, 1),))
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
    for how in (nullcontext, only_python):
        with how():
            try:
                decoded.append(decode_batch(raw))
            except WireError as error:
                decoded.append(str(error))
            ring = RingWriter(tmp_path_factory.mktemp("ring"), "s", 1, data_bytes=64 * 1024, slots=4)
            reader = RingReader(ring.path, ring.nonce)
            ring.stream_writer.append(Encoded(raw, number, first, count))
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
    for how in (nullcontext, only_python):
        with how():
            try:
                seen.append(decode_batch(damaged))
            except (WireError, VersionMismatch) as error:
                seen.append(str(error))
    assert seen[0] == seen[1]


def test_what_is_no_batch_is_refused_in_the_same_words(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=8192, slots=4)
    reader = RingReader(ring.path, ring.nonce)
    ring.stream_writer.append(Encoded(b"\xff" * 100, 0, 0, 1))
    with pytest.raises(WireError, match="are not a PacketBatch"):
        reader.take(0)
    other = bytearray(
        encode_batch(epoch=1, number=0, first_sequence=0, packet_count=1, packet_size=4, payload=(b"abcd",))
    )
    other[3:5] = (MAJOR + 1).to_bytes(2, "little")
    ring.stream_writer.append(Encoded(bytes(other), 0, 0, 1))
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
    ring.stream_writer.append(Encoded(raw, 0, 0, 1))
    batch = reader.take(0)
    assert batch is not None
    assert isinstance(batch.raw, memoryview)
    assert batch == decode_batch(raw)
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
    ring.stream_writer.append(Encoded(bytes(64), 0, 0, 1))
    slot = memoryview(ring._map)[HEADER_BYTES : HEADER_BYTES + SLOT_BYTES].cast("Q")
    for at, word in enumerate(words):
        if at or not keep:
            slot[at] = word
    slot.release()
    assert engine.native is not None
    taken = reader.memory.native.take(WORTH_BYTES, MAJOR, MAKER, Arrivals, 0)
    assert taken is None or isinstance(taken, bytes | EncodedBatch)
    reader.close()
    ring.close()


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
    assert engine.native is not None
    with pytest.raises((ValueError, BufferError)):
        engine.native.Ring(*arguments)


def _write_for(directory: str, seconds: float, ready, pure: bool) -> None:
    make_writer = PureStreamWriter if pure else native_writer
    ring = RingWriter(Path(directory), "s", 1, data_bytes=64 * 1024, slots=64, make_writer=make_writer)
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
        ring.stream_writer.append(Encoded(raw, number, number, 1))
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("writer_is", ["native", "python"])
@pytest.mark.parametrize("reader_is", ["native", "python"])
def test_a_reader_beside_a_furious_writer_takes_whole_batches_or_none(
    writer_is: str, reader_is: str, tmp_path: Path
) -> None:
    ready = SPAWN.Queue()
    process = SPAWN.Process(target=_write_for, args=(str(tmp_path), 1.0, ready, writer_is == "python"))
    process.start()
    path, nonce = ready.get(timeout=60)
    with only_python() if reader_is == "python" else nullcontext():
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

"""The native core does what the Python beside it does: the same bytes, the same ring, the same batches out of it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.batcher import JOINED_BYTES, Batcher, Encoded
from usbcast_broker.flow import Transfer
from usbcast_schemas import native
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.errors import ConfigError, VersionMismatch, WireError
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import HEADER_BYTES, SLOT_BYTES, STORES_ARE_ORDERED, RingReader, RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = [
    pytest.mark.skipif(native.core is None, reason=f"there is no native core: {native.why_not}"),
    pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work"),
]

SPAWN = multiprocessing.get_context("spawn")

numbers = st.integers(0, 2**40)
times = st.integers(-(2**62), 2**62)


@settings(max_examples=200, deadline=None)
@given(
    packet_size=st.integers(1, 300),
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    stamps=st.tuples(times, times),
    most=st.integers(1, 20_000),
    epoch=st.integers(0, 2**64 - 1),
)
def test_a_run_is_encoded_to_the_same_bytes(
    packet_size: int, counts: list[int], stamps: tuple[int, int], most: int, epoch: int
) -> None:
    chance = random.Random(len(counts))
    transfers = [Transfer(chance.randbytes(n * packet_size), stamps[0] + n, stamps[1] - n) for n in counts]
    most_bytes = max(most, max(counts) * packet_size)  # what is larger than a batch is cut, by Python
    made = {}
    for core in (native.core, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "core", core)
            batcher = Batcher(epoch, max_bytes=most_bytes)
            batches = batcher.add_run(transfers, packet_size)
            rest = batcher.flush()
            made[core] = [*batches, rest] if rest else batches
            assert batcher.next_sequence == sum(counts)
    assert list(map(_figures, made[native.core])) == list(map(_figures, made[None]))
    assert [batch.raw for batch in made[native.core]] == [batch.raw for batch in made[None]]


def _figures(batch: Encoded) -> tuple[int, ...]:
    return batch.number, batch.first_sequence, batch.packet_count, batch.size_bytes, len(batch.parts)


def test_large_transfers_are_not_joined_and_are_cut_where_a_batch_has_no_room() -> None:
    batcher = Batcher(1, max_bytes=3 * JOINED_BYTES)
    sizes = [JOINED_BYTES, JOINED_BYTES, 10 * JOINED_BYTES, 64]
    transfers = [Transfer(bytes([n]) * size, n, n) for n, size in enumerate(sizes)]
    batches = batcher.add_run(transfers, 64)
    assert not batcher.pending
    assert [len(batch.parts) for batch in batches[:1]] == [3], "head and two pieces"
    decoded = [decode_batch(batch.raw) for batch in batches]
    assert b"".join(batch.payload for batch in decoded) == b"".join(transfer.data for transfer in transfers)
    assert all(len(batch.payload) <= 3 * JOINED_BYTES for batch in decoded)
    assert [batch.number for batch in decoded] == list(range(len(decoded)))


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
    count=st.integers(0, 30),
    size=st.integers(0, 40),
    arrivals=st.integers(0, 3),
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
    taken = []
    for core in (native.core, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "core", core)
            ring = RingWriter(tmp_path_factory.mktemp("ring"), "s", 1, data_bytes=8192, slots=4)
            reader = RingReader(ring.path, ring.nonce)
            ring.write(raw, number=number, first_sequence=first, packet_count=count)
            try:
                taken.append(reader.take(0))
            except WireError as error:
                taken.append(str(error))
            assert reader.take(1) is None
            reader.close()
            ring.close()
    assert taken[0] == taken[1]
    if isinstance(taken[0], EncodedBatch):
        assert taken[0] == decode_batch(raw)
        assert type(taken[0].arrivals) is Arrivals


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
    taken = reader._native.take(0, WORTH_BYTES, MAJOR, EncodedBatch, Arrivals)
    assert taken is None or isinstance(taken, bytes | EncodedBatch)
    reader.close()
    ring.close()


def test_a_closed_ring_says_so(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=4096, slots=2)
    assert native.core is not None
    core = ring._native
    ring.close()
    with pytest.raises(ValueError, match="the ring is closed"):
        core.write((b"",), 0, 0, 0)


@pytest.mark.parametrize("arguments", [(b"", 4, 4096), (bytearray(100), 4, 4096), (bytearray(8192), 0, 4096)])
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

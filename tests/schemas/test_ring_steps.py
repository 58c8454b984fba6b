"""Reader and writer of a ring, call by call, for both kinds of ring. What holds under pressure is in test_ring."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from usbcast_schemas.batch import Arrivals, Encoded, encode_batch
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import RingReader, RingWriter
from usbcast_schemas.ring import reader as ring_reader
from usbcast_schemas.v1 import usbcast_pb2 as pb

SLOTS = 8
EVENT = {"events": [pb.DeviceEvent(detail="x")]}
LOSS = {"losses": [pb.Loss(packets=1)]}
END = {"end": pb.StreamEnd()}


@pytest.fixture(params=[False, True], ids=["ordered", "checksums"])
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RingWriter]:
    made = RingWriter(tmp_path, "s", 7, data_bytes=4 * WORTH_BYTES, slots=SLOTS, checksums=request.param)
    yield made
    made.close()


@pytest.fixture
def reader(ring: RingWriter) -> Iterator[RingReader]:
    made = RingReader(ring.path, ring.nonce)
    yield made
    made.close()


def write(ring: RingWriter, count: int = 1, **more: Any) -> bytes:
    """Write the next batch, of one-byte packets."""
    writer = ring.stream_writer
    number, first = writer.next_number, writer.next_sequence
    raw = encode_batch(
        epoch=7, number=number, first_sequence=first, packet_count=count, packet_size=1 if count else 0,
        payload=[bytes(count)], arrivals=Arrivals((count,), (5,), (6,)) if count else Arrivals(), **more,
    )  # fmt: skip
    writer.append(Encoded(raw, number, first, count))
    return raw


def test_a_new_ring_is_empty(ring: RingWriter, reader: RingReader) -> None:
    assert (reader.head, reader.tail, reader.epoch, reader.data_bytes) == (0, 0, 7, 4 * WORTH_BYTES)
    assert (reader.slot(0), reader.take(0), ring.oldest) == (None, None, None)
    assert (reader.find(0), reader.newest(0), reader.remarks(0, 0)) == (0, 0, [])
    assert not reader.closed_by_writer
    assert reader.holds(0), "nothing has been overwritten"


def test_a_slot_says_what_it_holds(ring: RingWriter, reader: RingReader) -> None:
    write(ring, 3)
    raw = write(ring, 2)
    slot = reader.slot(1)
    assert slot is not None
    assert (slot.slot, slot.number, slot.first_sequence, slot.packet_count, slot.end_sequence) == (1, 1, 3, 2, 5)
    assert slot.size_bytes == len(raw)
    assert bytes(reader.read(slot)) == raw
    assert slot.position % 8 == 0


def test_a_batch_is_taken_while_it_is_held(ring: RingWriter, reader: RingReader) -> None:
    raws = [write(ring, 1 + number % 3) for number in range(SLOTS + 3)]
    oldest = ring.oldest
    assert oldest is not None
    assert (reader.tail, reader.head, oldest.number) == (3, SLOTS + 3, 3)
    for number in range(SLOTS + 5):
        batch = reader.take(number)
        if 3 <= number < SLOTS + 3:
            assert batch is not None
            assert (batch.number, bytes(batch.raw)) == (number, raws[number])
            assert batch.intact
        else:
            assert batch is None
        assert (reader.slot(number) is None) == (batch is None)
        assert reader.holds(number) == (number >= 3)


@pytest.mark.parametrize("size_bytes", [0, 1, WORTH_BYTES - 1, WORTH_BYTES, WORTH_BYTES + 1, 4 * WORTH_BYTES])
def test_bytes_of_any_size_are_read_in_one_piece_or_several(
    size_bytes: int, ring: RingWriter, reader: RingReader
) -> None:
    whole = os.urandom(size_bytes)
    for number, parts in enumerate(((whole,), (whole[:1], whole[1:]), (b"", whole[:-1], whole[-1:], b""))):
        ring.stream_writer.append(Encoded.in_parts(parts, number, number, 1))
        slot = reader.slot(number)
        assert slot is not None
        assert bytes(reader.read(slot)) == whole


@pytest.mark.parametrize(
    ("counts", "first", "newest"),
    [
        ([2], 0, 0),
        ([2, 3], 0, 1),
        ([2, 0, 3, 0, 0], 0, 2),
        ([2, 0, 3, 0, 0], 2, 2),
        ([2, 0, 3, 0, 0], 3, 3),
        ([2, 0, 3, 0, 0], 5, 5),
        ([0, 0], 0, 0),
        ([0, 0], 1, 1),
        ([1, 0, 0, *[0] * SLOTS], 0, 3),
    ],
)
def test_the_newest_batch_with_packets(counts, first, newest, ring: RingWriter, reader: RingReader) -> None:
    for count in counts:
        write(ring, count, **({} if count else EVENT))
    assert reader.newest(first) == newest


class TestRemarks:
    SAID = (LOSS, {}, EVENT, {}, END, {})

    @pytest.mark.parametrize(
        ("first", "until", "numbers"),
        [(0, 6, [0, 2, 4]), (0, 4, [0, 2]), (1, 5, [2, 4]), (2, 3, [2]), (3, 4, []), (4, 4, [])],
    )
    def test_of_a_range(self, first, until, numbers, ring: RingWriter, reader: RingReader) -> None:
        for more in self.SAID:
            write(ring, **more)
        assert [slot.number for slot in reader.remarks(first, until)] == numbers

    def test_a_batch_without_packets_says_something(self, ring: RingWriter, reader: RingReader) -> None:
        write(ring)
        write(ring, 0, **EVENT)
        assert [slot.number for slot in reader.remarks(0, 2)] == [1]

    def test_what_is_overwritten_is_left_out(self, ring: RingWriter, reader: RingReader) -> None:
        for _ in range(SLOTS + 3):
            write(ring, **EVENT)
        assert [slot.number for slot in reader.remarks(0, 5)] == [3, 4]

    def test_only_the_newest_are_looked_at(
        self, ring: RingWriter, reader: RingReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(6):
            write(ring, **EVENT)
        monkeypatch.setattr(ring_reader, "SKIPPED_LOOKED_AT", 2)
        assert [slot.number for slot in reader.remarks(0, 5)] == [3, 4]


class TestSleep:
    def test_who_knows_the_newest_may_sleep_and_is_woken_once(self, ring: RingWriter, reader: RingReader) -> None:
        wake = os.open(ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
        assert reader.will_sleep(0)
        for _ in range(3):
            write(ring)
        assert os.read(wake, 100) == b"\0"
        os.close(wake)

    @pytest.mark.parametrize(("known", "may"), [(0, False), (1, False), (2, True)])
    def test_who_does_not_know_the_newest_must_not(self, known, may, ring: RingWriter, reader: RingReader) -> None:
        write(ring)
        write(ring)
        assert reader.will_sleep(known) == may

    def test_nobody_sleeps_at_a_closed_ring(self, ring: RingWriter, reader: RingReader) -> None:
        ring.close()
        assert not reader.will_sleep(0)

    def test_a_full_fifo_wakes_too(self, ring: RingWriter, reader: RingReader) -> None:
        wake = os.open(ring.wake_path, os.O_RDWR | os.O_NONBLOCK)
        for chunk in (bytes(4096), b"\1"):  # to the last byte
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(wake, chunk)
        assert reader.will_sleep(0)
        write(ring)
        assert os.read(wake, 1 << 20)[-1:] == b"\0"
        os.close(wake)


class TestEnd:
    def test_signs_of_life(self, ring: RingWriter, reader: RingReader) -> None:
        ring.beat(123)
        assert (reader.heartbeat_monotonic_ns, reader.source_silent_ns) == (123, 0)
        ring.beat(456, 9)
        assert (reader.heartbeat_monotonic_ns, reader.source_silent_ns) == (456, 9)
        ring.close()
        ring.beat(789)
        assert (reader.heartbeat_monotonic_ns, reader.closed_by_writer) == (456, True)

    @pytest.mark.parametrize("closed", [False, True])
    def test_after_closing_only_what_a_closed_ring_holds_stays(self, closed, ring: RingWriter) -> None:
        reader = RingReader(ring.path, ring.nonce)
        for _ in range(SLOTS + 3):
            write(ring)
        if closed:
            ring.close()
        for _ in range(2):
            reader.close()
        assert [reader.holds(slot) for slot in (2, 3, SLOTS + 2)] == [False, closed, closed]


def test_the_level_of_a_ring_that_goes_on(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 7, data_bytes=4096, slots=2, level=(50, 4))
    assert (ring.stream_writer.next_sequence, ring.stream_writer.next_number) == (50, 4)
    write(ring, 3)
    assert (ring.stream_writer.next_sequence, ring.stream_writer.next_number) == (53, 5)
    ring.close()


def test_a_batch_as_large_as_the_ring_replaces_all(ring: RingWriter, reader: RingReader) -> None:
    for _ in range(3):
        write(ring)
    whole = os.urandom(ring.data_bytes)
    ring.stream_writer.append(Encoded(whole, 3, 3, 1))
    slot = reader.slot(3)
    assert slot is not None
    assert bytes(reader.read(slot)) == whole
    assert (reader.tail, reader.head) == (3, 4)


def test_a_copy_of_a_ring_has_a_name_of_its_own(tmp_path: Path) -> None:
    rings = [RingWriter(tmp_path, "s", 7, data_bytes=4096, slots=2, copy=copy) for copy in (False, True, True)]
    assert len({ring.path for ring in rings}) == len({ring.wake_path for ring in rings}) == 3
    assert rings[0].path.name == "s-0000000000000007.ring"
    for ring in rings:
        ring.close()
    assert list(tmp_path.iterdir()) == []

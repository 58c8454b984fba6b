"""Fetching from a ring: what the contract says of a range, and that it stays true while the writer overtakes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.serving import replay
from usbcast_schemas.batch import Arrivals, Encoded, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.ring import HEADER_BYTES, SLOT_BYTES, RingReader, RingWriter, Slot
from usbcast_schemas.v1 import usbcast_pb2 as pb

SLOTS = 12


@dataclass
class Model:
    """A ring, and all that was ever written to it."""

    writer: RingWriter
    reader: RingReader
    made: list[EncodedBatch]

    def write(self, count: int) -> None:
        """One batch of so many packets, each of which says its sequence."""
        number = len(self.made)
        first = self.made[-1].end_sequence if self.made else 0
        raw = encode_batch(
            epoch=1,
            number=number,
            first_sequence=first,
            packet_count=count,
            packet_size=4,
            payload=[(first + i).to_bytes(4, "little") for i in range(count)],
            arrivals=Arrivals((count,), (0,), (0,)) if count else Arrivals(),
        )
        self.writer.stream_writer.append(Encoded(raw, number, first, count))
        self.made.append(decode_batch(raw))

    @property
    def held(self) -> list[EncodedBatch]:
        return self.made[self.reader.tail : self.reader.head]

    def answer(self, from_sequence: int, until_sequence: int | None, from_number: int) -> list[EncodedBatch]:
        """What usbcast.proto says of a FetchRequest."""
        until = until_sequence if until_sequence is not None else 1 << 63

        def belongs(batch: EncodedBatch) -> bool:
            if batch.packet_count:
                return batch.end_sequence > from_sequence and batch.first_sequence < until
            return from_sequence <= batch.first_sequence <= until

        return [batch for batch in self.held if belongs(batch) and batch.number >= from_number]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ring")


def model_of(directory: Path, counts: list[int], **options: bool) -> Model:
    epoch = int.from_bytes(os.urandom(8), "little")
    writer = RingWriter(directory, "s", epoch, data_bytes=4096, slots=SLOTS, **options)
    model = Model(writer, RingReader(writer.path, writer.nonce), [])
    for count in counts:
        model.write(count)
    return model


@pytest.fixture
def ring(directory: Path) -> Iterator[Model]:
    model = model_of(directory, [])
    yield model
    model.reader.close()
    model.writer.close()


counts_strategy = st.lists(st.sampled_from([0, 0, 1, 2, 5, 40]), max_size=40)
ranges = st.tuples(st.integers(0, 130), st.none() | st.integers(0, 160))


@settings(max_examples=400, deadline=None)
@given(counts=counts_strategy, asked=ranges, budget=st.integers(1, 2500), from_number=st.integers(0, 40))
def test_as_the_contract_says(
    directory: Path, counts: list[int], asked: tuple[int, int | None], budget: int, from_number: int
) -> None:
    model = model_of(directory, counts)
    try:
        from_sequence, until_sequence = asked
        fetched = replay.fetch(
            model.reader,
            from_sequence=from_sequence,
            until_sequence=until_sequence,
            from_number=from_number,
            budget_bytes=budget,
        )
        answer = model.answer(from_sequence, until_sequence, from_number)
        assert fetched.batches == [bytes(batch.raw) for batch in answer[: len(fetched.batches)]]
        assert fetched.complete == (len(fetched.batches) == len(answer))
        assert fetched.batches or not answer, "at least one, whatever the budget"
        assert sum(map(len, fetched.batches)) <= budget or len(fetched.batches) == 1
        if not fetched.complete:
            assert sum(map(len, fetched.batches)) + len(answer[len(fetched.batches)].raw) > budget
        gone = {
            sequence
            for batch in model.made[: model.reader.tail]
            for sequence in range(batch.first_sequence, batch.end_sequence)
        }
        told = {s for lost in fetched.lost for s in range(lost.first_sequence, lost.first_sequence + lost.count)}
        for lost in fetched.lost:
            assert (lost.stage, lost.reason) == (pb.STAGE_RING, "overwritten in the ring")
        until = 1 << 63 if until_sequence is None else until_sequence
        asked_gone = {sequence for sequence in gone if from_sequence <= sequence < until}
        if from_number == 0 and (answer or until_sequence is not None):
            assert told == asked_gone
        else:
            assert told <= asked_gone
    finally:
        model.reader.close()
        model.writer.close()


@settings(max_examples=100, deadline=None)
@given(counts=counts_strategy, start=st.integers(0, 130), budget=st.integers(1, 900))
def test_asking_again_until_complete_gives_everything_once(
    directory: Path, counts: list[int], start: int, budget: int
) -> None:
    model = model_of(directory, counts)
    try:
        came: list[EncodedBatch] = []
        sequence, number = start, 0
        for _ in range(100):
            fetched = replay.fetch(model.reader, from_sequence=sequence, from_number=number, budget_bytes=budget)
            came += map(decode_batch, fetched.batches)
            if fetched.complete:
                break
            sequence, number = came[-1].end_sequence, came[-1].number + 1
        assert [batch.number for batch in came] == [batch.number for batch in model.answer(start, None, 0)]
    finally:
        model.reader.close()
        model.writer.close()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), counts=counts_strategy, asked=ranges)
def test_while_the_writer_overtakes_nothing_is_torn_and_nothing_is_missing_unsaid(
    directory: Path, data: st.DataObject, counts: list[int], asked: tuple[int, int | None]
) -> None:
    model = model_of(directory, counts)
    left = 60

    class Overtaken(RingReader):
        """Lets the writer write between seeing a slot and reading it."""

        def read(self, slot: Slot) -> bytes:
            nonlocal left
            burst = min(left, data.draw(st.sampled_from([0, 0, 1, 3, SLOTS - 1, SLOTS + 2])))
            left -= burst
            for _ in range(burst):
                model.write(data.draw(st.integers(0, 3)))
            return super().read(slot)

    reader = Overtaken(model.writer.path, model.writer.nonce)
    try:
        from_sequence, until_sequence = asked
        fetched = replay.fetch(reader, from_sequence=from_sequence, until_sequence=until_sequence)
        came = [decode_batch(raw) for raw in fetched.batches]
        assert [bytes(batch.raw) for batch in came] == [bytes(model.made[batch.number].raw) for batch in came]
        assert [batch.number for batch in came] == sorted({batch.number for batch in came})
        got = {s for batch in came for s in range(batch.first_sequence, batch.end_sequence)}
        told = {s for lost in fetched.lost for s in range(lost.first_sequence, lost.first_sequence + lost.count)}
        assert not got & told
        assert all(s >= from_sequence for s in told)
        end = max([*got, *told], default=from_sequence - 1) + 1
        made_until = model.made[-1].end_sequence if model.made else 0
        if until_sequence is not None:
            end = max(from_sequence, min(until_sequence, made_until))
        assert set(range(from_sequence, end)) <= got | told
    finally:
        reader.close()
        model.reader.close()
        model.writer.close()


class Counted(RingReader):
    """Counts the looks at the table."""

    looks = 0

    def slot(self, slot: int) -> Slot | None:
        self.looks += 1
        return super().slot(slot)


@pytest.fixture(scope="module")
def many(directory: Path) -> Iterator[Counted]:
    """A reader of a ring that holds 100,000 batches of one packet."""
    writer = RingWriter(directory, "many", 7, data_bytes=1 << 25, slots=100_000)
    raw = encode_batch(
        epoch=7,
        number=0,
        first_sequence=0,
        packet_count=1,
        packet_size=4,
        payload=[b"abcd"],
        arrivals=Arrivals((1,), (0,), (0,)),
    )
    for n in range(100_000):
        writer.stream_writer.append(Encoded(raw, n, n, 1))
    reader = Counted(writer.path, writer.nonce)
    yield reader
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    ("asked", "count", "complete"),
    [
        ({"from_sequence": 0, "from_number": 2**63}, 0, True),
        ({"from_sequence": 0, "until_sequence": 2**63, "from_number": 2**63}, 0, True),
        ({"from_sequence": 0, "until_sequence": 5, "from_number": 2**63}, 0, True),
        ({"from_sequence": 0, "until_sequence": 90_000, "from_number": 89_999}, 1, True),
        ({"from_sequence": 99_990}, 10, True),
        ({"from_sequence": 0}, replay.MAX_BATCHES, False),
        ({"from_sequence": 0, "from_number": 50_000}, replay.MAX_BATCHES, False),
    ],
)
def test_the_work_of_a_fetch_is_bounded(many: Counted, asked: dict[str, int], count: int, complete: bool) -> None:
    many.looks = 0
    fetched = replay.fetch(many, **asked)
    assert (len(fetched.batches), fetched.complete) == (count, complete)
    assert many.looks < count + 50


def test_batches_passed_over_by_number_are_not_lost(ring: Model) -> None:
    for _ in range(SLOTS + 5):
        ring.write(2)
    oldest = ring.held[0]
    fetched = replay.fetch(ring.reader, from_sequence=0, until_sequence=1000, from_number=oldest.number + 3)
    assert [decode_batch(raw).number for raw in fetched.batches] == [batch.number for batch in ring.held[3:]]
    assert fetched.lost == []


def test_an_empty_ring(ring: Model) -> None:
    assert replay.fetch(ring.reader, from_sequence=0) == replay.Fetched([], [], complete=True)
    assert replay.fetch(ring.reader, from_sequence=5, until_sequence=9) == replay.Fetched([], [], complete=True)
    assert replay.newest(ring.reader) == []


def test_the_newest_is_the_last_with_a_packet_and_what_stands_behind_it(ring: Model) -> None:
    ring.write(0)
    assert replay.newest(ring.reader) == [bytes(ring.made[0].raw)]
    for count in (1, 3, 0, 0):
        ring.write(count)
    assert replay.newest(ring.reader) == [bytes(batch.raw) for batch in ring.made[2:]]


def test_before_the_newest_those_that_say_what_happened(ring: Model) -> None:
    for count in (0, 2, 0, 3, 4, 0, 5, 0):
        ring.write(count)

    def numbers(**wanted: int) -> list[int]:
        return [decode_batch(raw).number for raw in replay.newest(ring.reader, **wanted)]

    assert numbers() == [6, 7]
    assert numbers(from_sequence=0) == [0, 2, 5, 6, 7]
    assert numbers(from_sequence=2) == [2, 5, 6, 7]
    assert numbers(from_sequence=0, from_number=3) == [5, 6, 7]
    assert numbers(from_sequence=14) == [6, 7]
    size = len(ring.made[2].raw)
    assert numbers(from_sequence=0, budget_bytes=size) == [5, 6, 7], "the newest of them, as far as the budget goes"
    for _ in range(SLOTS):
        ring.write(1)
    assert numbers(from_sequence=0) == [7 + SLOTS], "what was overwritten is gone"


def test_a_slot_that_was_damaged_is_passed_over(directory: Path) -> None:
    """Where slots have checksums, bytes that are wrong for good must not be read for ever."""
    model = model_of(directory, [2, 3, 4], checksums=True)
    slot = model.reader.slot(1)
    assert slot is not None
    with model.writer.path.open("r+b") as file:
        file.seek(HEADER_BYTES + SLOTS * SLOT_BYTES + slot.position + 60)
        file.write(b"\xff\xff")
    fetched = replay.fetch(model.reader, from_sequence=0)
    assert [decode_batch(raw).number for raw in fetched.batches] == [0, 2]
    assert [(lost.first_sequence, lost.count) for lost in fetched.lost] == [(2, 3)]
    model.reader.close()
    model.writer.close()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((0, None), [(0, 2, "ring"), (2, 7, "bridge")]),
        ((4, 9), [(4, 5, "bridge")]),
        ((4, 6), [(4, 2, "bridge")]),
        ((0, 2), [(0, 2, "ring")]),
        ((0, 1), [(0, 1, "ring")]),
        ((9, None), []),
    ],
)
def test_what_a_batch_tells_of_holes_is_told_of_the_range(
    ring: Model, asked: tuple[int, int | None], told: list[tuple[int, int, str]]
) -> None:
    hole = pb.LostRange(first_sequence=2, count=7, stage=pb.STAGE_BRIDGE, reason="upstream: gone", batches=3)
    raw = encode_batch(epoch=1, number=5, first_sequence=9, packet_count=0, packet_size=0, payload=(), holes=[hole])
    ring.writer.stream_writer.append(Encoded(raw, 5, 9, 0))
    fetched = replay.fetch(ring.reader, from_sequence=asked[0], until_sequence=asked[1])
    names = {pb.STAGE_RING: "ring", pb.STAGE_BRIDGE: "bridge"}
    assert [(lost.first_sequence, lost.count, names[lost.stage]) for lost in fetched.lost] == told
    assert fetched.batches == ([raw] if asked[1] in (None, 9) else [])
    assert fetched.complete

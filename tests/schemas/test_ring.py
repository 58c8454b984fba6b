"""The ring: what it holds is read whole, what it no longer holds is never delivered, and nobody who sleeps is forgotten."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import struct
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_schemas.batch import Arrivals, Encoded, encode_batch
from usbcast_schemas.errors import ConfigError, RingTorn, RingUnavailable
from usbcast_schemas.ring import HEADER_BYTES, RingReader, RingWriter, Slot, sweep
from usbcast_schemas.ring.layout import DATA_BYTES, IS_A_RING, MAGIC, NONCE, SLOTS

SPAWN = multiprocessing.get_context("spawn")


def pattern(number: int, size: int) -> bytes:
    """Bytes that say which batch they are of, everywhere."""
    return (number.to_bytes(8, "little") * (size // 8 + 1))[:size]


@pytest.fixture(params=[False, True], ids=["ordered", "checksums"])
def writer(request: pytest.FixtureRequest, tmp_path: Path):
    ring = RingWriter(tmp_path, "s", 1, data_bytes=4096, slots=16, checksums=request.param)
    yield ring
    ring.close()


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=60),
    counts=st.lists(st.integers(0, 9), min_size=60, max_size=60),
    slots=st.integers(2, 12),
)
def test_holds_exactly_the_newest(sizes: list[int], counts: list[int], slots: int, tmp_path_factory) -> None:
    """After any writes: a run of the newest batches, each whole, none of them overlapping, as many as there is room for."""
    directory = tmp_path_factory.mktemp("ring")
    ring = RingWriter(directory, "s", 1, data_bytes=4096, slots=slots)
    reader = RingReader(ring.path, ring.nonce)
    sequence = 0
    firsts = []
    for number, size in enumerate(sizes):
        ring.stream_writer.append(Encoded(pattern(number, size), number, sequence, counts[number]))
        firsts.append(sequence)
        sequence += counts[number]
        held = [slot for n in range(reader.tail, reader.head) if (slot := reader.slot(n))]
        assert [slot.number for slot in held] == list(range(number + 1 - len(held), number + 1))
        assert 1 <= len(held) <= slots
        for slot in held:
            assert reader.read(slot) == pattern(slot.number, sizes[slot.number])
            assert (slot.first_sequence, slot.packet_count) == (firsts[slot.number], counts[slot.number])
        if len(held) < min(slots, number + 1):  # something was overwritten for its bytes: then there was no room for it
            assert sum(sizes[number - len(held) : number + 1]) + 8 * (len(held) + 1) + 1500 > 4096
        for wanted in range(sequence + 1):
            at = reader.find(wanted)
            ends_after = [
                n
                for n in range(reader.tail, reader.head)
                if firsts[n] + counts[n] > wanted or (counts[n] == 0 and firsts[n] >= wanted)
            ]
            assert at == (ends_after[0] if ends_after else reader.head)
    reader.close()
    ring.close()


def test_an_overwritten_slot_is_never_read(writer: RingWriter) -> None:
    reader = RingReader(writer.path, writer.nonce)
    writer.stream_writer.append(Encoded(pattern(0, 100), 0, 0, 1))
    stale = reader.slot(0)
    assert stale is not None
    for number in range(1, 60):
        writer.stream_writer.append(Encoded(pattern(number, 100), number, number, 1))
    assert reader.slot(0) is None
    with pytest.raises(RingTorn, match=r"slot 0 of .* was overwritten while it was read"):
        reader.read(stale)
    reader.close()


def test_a_flipped_bit_is_noticed_where_slots_have_checksums(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=4096, slots=16, checksums=True)
    reader = RingReader(ring.path, ring.nonce)
    ring.stream_writer.append(Encoded(pattern(5, 100), 0, 0, 1))
    slot = reader.slot(0)
    assert slot is not None
    assert slot.checksum == zlib.crc32(pattern(5, 100))
    assert reader.read(slot) == pattern(5, 100)
    with ring.path.open("r+b") as file:
        file.seek(HEADER_BYTES + 16 * 48 + slot.position + 50)
        file.write(b"\xff")
    with pytest.raises(RingTorn):
        reader.read(slot)
    reader.close()
    ring.close()


def _write_for(directory: str, seconds: float, ready) -> None:
    ring = RingWriter(Path(directory), "s", 1, data_bytes=64 * 1024, slots=64)
    number = 0
    ready.send((str(ring.path), ring.nonce))
    ready.recv()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        size = 64 + number * 37 % 4000
        ring.stream_writer.append(Encoded(pattern(number, size), number, number, 1))
        number += 1
    ready.send(number)
    ready.recv()
    ring.close()


class LateWords:
    """Shows the words of some slots as they were before, for a number of looks, as a weakly ordered machine may."""

    def __init__(self, words: memoryview, before: dict[int, int], looks: int) -> None:
        self._words = words
        self._before = before
        self._left = looks

    def __getitem__(self, at: int | slice) -> object:
        if isinstance(at, slice):
            self._left -= 1
            found = list(self._words[at])
            if self._left > 0:
                for word, value in self._before.items():
                    if at.start <= word < at.stop:
                        found[word - at.start] = value
            return found
        return self._words[at]

    def release(self) -> None:
        self._words.release()


@pytest.mark.parametrize("shown", [False, True], ids=["no word shows yet", "the slot shows, its other words do not"])
def test_a_slot_whose_words_show_late_is_not_taken_for_what_it_held_before(tmp_path: Path, shown: bool) -> None:
    def one_packet(number: int) -> bytes:
        return encode_batch(
            epoch=1,
            number=number,
            first_sequence=number,
            packet_count=1,
            packet_size=8,
            payload=[bytes(8)],
            arrivals=Arrivals([1], [1], [1]),
        )

    ring = RingWriter(tmp_path, "s", 1, data_bytes=4096, slots=2, checksums=True)
    reader = RingReader(ring.path, ring.nonce)
    for number in range(2):
        ring.stream_writer.append(Encoded(one_packet(number), number, number, 1))
    for slot in range(2):
        assert reader.take(slot).number == slot
    first = HEADER_BYTES // 8
    before = {first + word: reader._words[first + word] for word in range(int(shown), 6)}
    ring.stream_writer.append(Encoded(one_packet(2), 2, 2, 1))
    reader._words = LateWords(reader._words, before, looks=20)
    assert reader.take(2).number == 2
    reader.close()
    ring.close()


def test_a_reader_beside_a_furious_writer_sees_whole_batches_or_none(tmp_path: Path) -> None:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_write_for, args=(str(tmp_path), 1.5, there))
    process.start()
    path, nonce = here.recv()
    reader = RingReader(Path(path), nonce)
    here.send("go")
    whole = torn = 0
    at = 0
    while not here.poll():
        slot = reader.slot(at)
        if slot is None:
            at = max(at, reader.tail) if at < reader.head else at
            continue
        try:
            raw = reader.read(slot)
        except RingTorn:
            torn += 1
        else:
            assert raw == pattern(slot.number, 64 + slot.number * 37 % 4000), f"batch {slot.number} is not whole"
            whole += 1
        at += 1
    written = here.recv()
    here.send("done")
    process.join(10)
    reader.close()
    assert whole > 100
    assert written > 1000


def test_nobody_who_sleeps_is_forgotten(tmp_path: Path) -> None:
    """Writer and sleeping readers chase each other; a lost wake-up shows as a sleep that only its timeout ends."""
    ring = RingWriter(tmp_path, "s", 1, data_bytes=64 * 1024, slots=64)
    rounds, readers = 1500, 3
    arrived = [threading.Semaphore(0) for _ in range(readers)]
    forgotten: list[int] = []

    def read(mine: threading.Semaphore) -> None:
        reader = RingReader(ring.path, ring.nonce)
        fd = os.open(ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
        epoll = select.epoll()
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        seen = 0
        while seen < rounds:
            head = reader.head
            if head > seen:
                for _ in range(head - seen):
                    mine.release()
                seen = head
                continue
            if reader.will_sleep(head) and not epoll.poll(30) and reader.head > head:
                forgotten.append(head)
        epoll.close()
        os.close(fd)
        reader.close()

    threads = [threading.Thread(target=read, args=(semaphore,)) for semaphore in arrived]
    for thread in threads:
        thread.start()
    for number in range(rounds):
        ring.stream_writer.append(Encoded(b"x", number, number, 1))
        for semaphore in arrived:
            assert semaphore.acquire(timeout=60)
    for thread in threads:
        thread.join(60)
    ring.close()
    assert forgotten == []


def test_a_busy_reader_costs_no_wake_up(writer: RingWriter) -> None:
    fd = os.open(writer.wake_path, os.O_RDONLY | os.O_NONBLOCK)
    writer.stream_writer.append(Encoded(b"x", 0, 0, 1))
    with pytest.raises(BlockingIOError):
        os.read(fd, 1)
    reader = RingReader(writer.path, writer.nonce)
    assert reader.will_sleep(reader.head)
    assert not reader.will_sleep(reader.head - 1), "something has come: one must not sleep"
    writer.stream_writer.append(Encoded(b"x", 1, 1, 1))
    assert os.read(fd, 10) == b"\0"
    writer.stream_writer.append(Encoded(b"x", 2, 2, 1))
    with pytest.raises(BlockingIOError):
        os.read(fd, 1)
    reader.close()
    os.close(fd)


def test_closing_wakes_and_removes(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 1, data_bytes=4096, slots=4)
    ring.stream_writer.append(Encoded(b"last", 0, 0, 1))
    reader = RingReader(ring.path, ring.nonce)
    fd = os.open(ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
    assert reader.will_sleep(1)
    ring.close()
    assert os.read(fd, 1) == b"\0"
    assert reader.closed_by_writer
    assert list(tmp_path.iterdir()) == []
    slot = reader.slot(0)
    assert isinstance(slot, Slot)
    assert reader.read(slot) == b"last", "what is mapped stays readable"
    reader.close()
    os.close(fd)


def test_private_to_its_user(writer: RingWriter) -> None:
    assert writer.path.stat().st_mode & 0o777 == 0o600
    assert writer.wake_path.stat().st_mode & 0o777 == 0o600


def test_another_ring_under_the_same_name_is_refused(writer: RingWriter, tmp_path: Path) -> None:
    with pytest.raises(RingUnavailable, match="is not the ring that the node described"):
        RingReader(writer.path, writer.nonce ^ 1)
    with pytest.raises(RingUnavailable, match="cannot open the ring"):
        RingReader(tmp_path / "absent.ring", 0)
    (tmp_path / "garbage.ring").write_bytes(os.urandom(8192))
    with pytest.raises(RingUnavailable, match="is not the ring"):
        RingReader(tmp_path / "garbage.ring", 0)


def test_a_batch_larger_than_the_ring_is_refused(writer: RingWriter) -> None:
    with pytest.raises(ConfigError, match="a batch of 5000 bytes does not fit into a ring of 4096"):
        writer.stream_writer.append(Encoded(b"x" * 5000, 0, 0, 1))


@pytest.mark.parametrize(("data_bytes", "slots"), [(100, 16), (4097, 16), (4096, 1)])
def test_sizes_that_make_no_ring(tmp_path: Path, data_bytes: int, slots: int) -> None:
    with pytest.raises(ConfigError, match=f"a ring cannot have {data_bytes} bytes and {slots} slots"):
        RingWriter(tmp_path, "s", 1, data_bytes=data_bytes, slots=slots)


def _hold_a_ring(directory: str, ready) -> None:
    ring = RingWriter(Path(directory), "dead", 2, data_bytes=4096, slots=4)
    ready.send(str(ring.path))
    signal.pause()


def test_the_ring_of_a_killed_node_is_swept_and_that_of_a_living_one_is_not(writer: RingWriter, tmp_path: Path) -> None:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_hold_a_ring, args=(str(tmp_path), there))
    process.start()
    path = Path(here.recv())
    assert sweep(tmp_path) == []
    process.kill()
    process.join()
    assert path.exists()
    assert sweep(tmp_path) == [path]
    assert not path.exists()
    assert not path.with_suffix(".wake").exists()
    assert writer.path.exists()
    assert writer.wake_path.exists()


@pytest.mark.parametrize(
    ("size", "figures"),
    [
        (100, {}),  # no room for a header
        (4096, {SLOTS: 0, DATA_BYTES: 0}),
        (8192, {SLOTS: 0, DATA_BYTES: 4096}),
        (4096 + 48, {SLOTS: 1, DATA_BYTES: 0}),
        (8192, {SLOTS: 2**60, DATA_BYTES: 4096}),
        (8192, {SLOTS: 100, DATA_BYTES: 2**64 - 704}),
    ],
)
def test_a_file_whose_figures_make_no_ring_is_refused(size: int, figures: dict[int, int], tmp_path: Path) -> None:
    words = [0] * (HEADER_BYTES // 8)
    words[MAGIC], words[NONCE] = IS_A_RING, 7
    for word, value in figures.items():
        words[word] = value
    path = tmp_path / "s.ring"
    path.write_bytes(struct.pack(f"={len(words)}Q", *words).ljust(size, b"\0")[:size])
    with pytest.raises(RingUnavailable, match="is not the ring that the node described"):
        RingReader(path, 7)

"""A file cut, or with one byte changed, at many places: what was recorded is saved, or declared lost; never neither.

The account is kept apart from the code under test: what is in a file is read by the MCAP library and the protobuf classes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from made import EPOCH, SIZE, batch, info
from mcap.reader import make_reader
from recordings import cli

import usbcast
from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import Position
from usbcast.recording.entries import (
    Annotation,
    annotation_entry,
    batch_entry,
    begin_annotation,
    gap_annotation,
    hex_epoch,
    info_entry,
    restart_annotation,
)
from usbcast.recording.files import resolve, walk
from usbcast.recording.recover import Recovered, recover
from usbcast.recording.segment import Head, Segment
from usbcast.recording.verify import verify
from usbcast_schemas.errors import RecordingError
from usbcast_schemas.v1 import usbcast_pb2 as pb

LATER = 0xF
"""The epoch after the node has started anew."""

Packet = tuple[str, int, int]
"""Stream, epoch, sequence."""


@dataclass
class Account:
    """What stands in files: packets, and packets that are declared lost."""

    packets: set[Packet] = field(default_factory=set)
    lost: set[Packet] = field(default_factory=set)
    damaged: set[Packet] = field(default_factory=set)
    """Those of the lost ones that were lost by damage to a file."""
    described: set[str] = field(default_factory=set)
    epochs: dict[str, list[int]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    """Kinds of annotations that say that something is not as it was."""

    @property
    def all(self) -> set[Packet]:
        return self.packets | self.lost


def account(*paths: Path) -> Account:
    made = Account()
    for path in paths:
        with path.open("rb") as file:
            for schema, channel, message in make_reader(file, validate_crcs=True).iter_messages(log_time_order=False):
                assert schema is not None
                _enter(made, schema.name.rpartition(".")[2], channel.metadata.get("stream", ""), message.data)
    return made


def _enter(made: Account, kind: str, stream: str, data: bytes) -> None:
    if kind == "StreamInfo":
        made.described.add(stream)
    elif kind == "PacketBatch":
        found = pb.PacketBatch.FromString(data)
        for at in range(found.packet_count):
            packet = (stream, found.epoch, found.first_sequence + at)
            assert int.from_bytes(found.payload[at * SIZE : (at + 1) * SIZE], "little") == packet[2]
            assert packet not in made.all, f"{packet} stands twice, or is declared lost as well"
            made.packets.add(packet)
    else:
        said = json.loads(data)
        if said["kind"] == "gap":
            gone = {(stream, int(said["epoch"], 16), n) for n in range(said["first"], said["last"] + 1)}
            assert not gone & made.all, "lost, and there as well"
            made.lost |= gone
            made.damaged |= gone if said["stage"] == "recording" else set()
        elif said["kind"] == "restart":
            made.epochs.setdefault(stream, []).append(int(said["epoch"], 16))
        elif said["kind"] in ("recovered", "damaged", "unknown"):
            made.said.append(said["kind"])


def recording(directory: Path, compression: str) -> list[Path]:
    """Three segments of a stream that loses packets and whose node starts anew, and of one that comes and goes."""
    later = pb.StreamInfo()
    later.CopyFrom(info())
    later.epoch = LATER
    other = pb.StreamInfo()
    other.CopyFrom(info())
    other.stream = "t"
    gone = Gap(70, 79, 10, "ring", "overwritten in the ring")
    chunks: list[list[list[object]]] = [
        [
            [info_entry(info(), 1), annotation_entry(begin_annotation("s", None, 1)), batch_entry("s", batch(0))],
            [batch_entry("s", batch(n)) for n in (1, 2, 3)],
            [info_entry(other, 1), annotation_entry(begin_annotation("t", None, 1)), batch_entry("t", batch(0))],
        ],
        [
            [info_entry(info(), 1), annotation_entry(begin_annotation("s", Position(EPOCH, 40, 4), 1))],
            [batch_entry("s", batch(n)) for n in (4, 5, 6)],
            [annotation_entry(gap_annotation("s", EPOCH, gone, 1)), batch_entry("s", batch(8))],
            [
                batch_entry("s", batch(9)),
                annotation_entry(restart_annotation("s", Restart(EPOCH, LATER, 100, 100), 1)),
                info_entry(later, 1),
                batch_entry("s", batch(0, epoch=LATER)),
            ],
            [batch_entry("s", batch(n, epoch=LATER)) for n in (1, 2)],
            [batch_entry("t", batch(n)) for n in (1, 2)],
        ],
        [
            [info_entry(later, 1), annotation_entry(begin_annotation("s", Position(LATER, 30, 3), 1))],
            [batch_entry("s", batch(n, epoch=LATER)) for n in (3, 4)],
        ],
    ]
    ends = [
        {"s": (EPOCH, 40, 4), "t": (EPOCH, 10, 1)},
        {"s": (LATER, 30, 3), "t": (EPOCH, 30, 3)},
        {"s": (LATER, 50, 5)},
    ]
    made = []
    for index, (parts, end) in enumerate(zip(chunks, ends, strict=True)):
        segment = Segment(directory / f"r-{index:05d}.mcap", Head("aa", index, 1, "host"), compression)
        for part in parts:
            for entry in part:
                segment.add(entry)  # type: ignore[arg-type]
            segment.sync()
        streams = {
            stream: {"epoch": hex_epoch(epoch), "next_sequence": sequence, "next_number": number, "batches": 1}
            for stream, (epoch, sequence, number) in end.items()
        }
        fields = {"reason": "enough", "final": index == 2, "streams": streams}
        segment.add(annotation_entry(Annotation("close", 2, "", fields)))
        made.append(segment.finish())
    return made


@pytest.fixture(params=["zstd", "none"])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    (tmp_path / "r").mkdir()
    return recording(tmp_path / "r", request.param)


def test_the_account_of_a_whole_recording(files: list[Path]) -> None:
    whole = account(*files)
    assert len(whole.packets) == 90 + 50 + 30
    assert whole.lost == {("s", EPOCH, n) for n in range(70, 80)}
    assert whole.epochs == {"s": [LATER]}
    assert not whole.said


def test_bytes_changed_at_many_places(files: list[Path]) -> None:
    for at, path in _places(files, 4):
        changed_at(files, path, at)


def test_cuts_at_many_places(files: list[Path]) -> None:
    for at, path in _places(files, 12):
        cut_at(files, path, at)


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.timeout(3600)
def test_bytes_changed_at_every_place(files: list[Path]) -> None:
    """Some 20,000 places; each file of the recording, each byte of it."""
    for path in files:
        for at in range(path.stat().st_size):
            changed_at(files, path, at)


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.timeout(3600)
def test_cuts_at_every_place(files: list[Path]) -> None:
    for path in files:
        for at in range(path.stat().st_size):
            cut_at(files, path, at)


def _places(files: list[Path], count: int) -> Iterator[tuple[int, Path]]:
    pick = random.Random(7)
    for path in files:
        size = path.stat().st_size
        headers = [chunk.offset + at for chunk in walk(path).chunks for at in (0, 38)]
        for at in sorted({*pick.sample(range(size), count), *headers}):
            yield at, path


def changed_at(files: list[Path], path: Path, at: int) -> None:
    """Everything that another byte does not hit is saved, and what it hits is declared, to the packet."""
    original = path.read_bytes()
    whole = account(*files)
    where = f"byte {at} of {path.name}"
    damaged = bytearray(original)
    damaged[at] ^= random.Random(at).randrange(1, 256)
    path.write_bytes(damaged)
    try:
        assert not is_balanced(files), where
        assert read(files) == whole.all, where
        made = recover(path)
        left = account(*files)
        assert left.all == whole.all, where
        assert (left.described, left.epochs) == (whole.described, whole.epochs), where
        assert len(left.damaged) == made.lost, where
        assert not made.unknown
        assert len(whole.all - left.packets - whole.lost) <= 30, f"{where}: more than a chunk is gone"
        assert not made.lost or left.said, where
        assert is_balanced(files), where
    finally:
        _restore(path, original)


def cut_at(files: list[Path], path: Path, size: int) -> None:
    """All complete chunks before the cut are saved; that the rest is gone is said, and counted where a later file knows it."""
    original = path.read_bytes()
    whole, alone = account(*files), account(path)
    where = f"{path.name} cut at {size}"
    path.write_bytes(original[:size])
    try:
        assert not is_balanced(files), where
        made = _recovered(path)
        if made is None:
            assert not is_balanced(files) or account(path).said == ["recovered"], where
            return
        left = account(path)
        assert left.all <= alone.all, where
        assert left.said, where
        assert "recovered" in left.said or left.all == alone.all, where
        for stream, epoch in {packet[:2] for packet in alone.all}:
            had = sorted(n for s, e, n in alone.all if (s, e) == (stream, epoch))
            kept = sorted(n for s, e, n in left.all if (s, e) == (stream, epoch))
            assert kept == had[: len(kept)], where
        assert made.packets == len(left.packets), where
        (found,) = verify(files)
        for books in found.ledger.epochs.values():
            accounted = books.recorded + sum(books.lost.values()) + books.missing
            assert accounted == books.span, where
        assert whole.packets >= account(*files).packets
    finally:
        _restore(path, original)


def is_balanced(paths: list[Path]) -> bool:
    try:
        return all(found.balanced for found in verify(resolve(paths)))
    except RecordingError:
        return False


def read(paths: list[Path]) -> set[Packet]:
    """The packets that reading gives, and those that it says are gone."""
    found: set[Packet] = set()
    with usbcast.open_recording(paths) as opened:
        for stream in opened.streams:
            epoch = EPOCH
            for event in opened.events(stream):
                if isinstance(event, usbcast.Restart):
                    epoch = event.new_epoch
                elif isinstance(event, usbcast.Batch):
                    assert event.epoch == epoch
                    found |= {(stream, epoch, n) for n in range(event.first_sequence, event.last_sequence + 1)}
                elif isinstance(event, usbcast.Gap):
                    found |= {(stream, epoch, n) for n in range(event.first, event.last + 1)}
    return found


def _recovered(path: Path) -> Recovered | None:
    """None if the file could not be recovered, or nothing of it; then the user is told so."""
    try:
        made = recover(path)
    except RecordingError:
        return None
    return None if made.in_vain else made


def _restore(path: Path, original: bytes) -> None:
    path.with_name(path.name + ".damaged").unlink(missing_ok=True)
    path.write_bytes(original)


def test_an_unfinished_file_whose_first_chunk_is_damaged(files: list[Path]) -> None:
    """There is no index, and channels and descriptions stood in that chunk: their copies are behind it."""
    original = files[0].read_bytes()
    chunks = walk(files[0]).chunks
    part = files[0].with_name(files[0].name + ".part")
    damaged = bytearray(original[: chunks[-1].offset])
    damaged[chunks[0].offset + chunks[0].size_bytes // 2] ^= 1
    part.write_bytes(damaged)
    whole = account(files[0])
    for path in files:
        path.unlink()
    said = cli("recover", part)
    left = account(files[0])
    assert left.lost == {("s", EPOCH, n) for n in range(10)}
    assert left.all == whole.all
    assert left.described == {"s", "t"}
    assert (said["lost"], said["packets"]) == (10, 40)


def test_a_recording_without_a_description_is_converted_as_bytes_and_that_is_said(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "r-00000.mcap", Head("aa", 0, 1, ""), "zstd")
    segment.add(batch_entry("s", batch(0)))
    segment.finish()
    done = cli("convert", tmp_path / "r", "--to", "csv", "-o", tmp_path / "out", check=1)
    assert done["packets"] == 10
    first = (tmp_path / "out-s.csv").read_text().splitlines()[1]
    assert first.endswith("," + bytes(SIZE).hex())


def test_success_means_that_there_is_a_result(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "r-00000.mcap", Head("aa", 0, 1, ""), "zstd")
    segment.add(annotation_entry(Annotation("trigger", 1)))
    path = segment.finish()
    assert "holds no stream" in cli("convert", path, "--to", "csv", check=1)["error"]
    damaged = bytearray(path.read_bytes())
    damaged[walk(path).chunks[0].offset + 60] ^= 1
    path.write_bytes(damaged)
    assert cli("recover", path, check=1)["packets"] == 0

"""Whatever is done to the files, `verify` notices it, and `recover` saves what is left and declares the rest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from made import BATCHES_PER_CHUNK, EPOCH, PER_BATCH, make, total
from recordings import cli, verified

import usbcast
from usbcast.recording.files import resolve, walk
from usbcast.recording.recover import recover
from usbcast.recording.verify import verify
from usbcast_schemas.errors import RecordingError


def is_balanced(*paths: Path) -> bool:
    try:
        return all(found.balanced for found in verify(resolve(paths)))
    except RecordingError:
        return False


def test_a_whole_recording_balances(tmp_path: Path) -> None:
    make(tmp_path, gap_at=7)
    found = verified(tmp_path)
    (books,) = found.ledger.epochs.values()
    assert found.balanced, found.ledger.problems
    assert (books.span, books.recorded, books.lost) == (
        total(), total() - PER_BATCH, {"ring: overwritten in the ring": PER_BATCH},
    )  # fmt: skip
    assert cli("verify", tmp_path)["balanced"]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    (path,) = make(tmp_path, segments=1)
    whole = path.read_bytes()
    pick = random.Random(5)
    places = set(range(60)) | set(range(len(whole) - 60, len(whole)))
    places |= {pick.randrange(len(whole)) for _ in range(200)}
    for at in sorted(places):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << pick.randrange(8)
        path.write_bytes(damaged)
        assert not is_balanced(path), f"bit flipped in byte {at} of {len(whole)}"
        found = usbcast_batches(path)
        assert all(batch.epoch == EPOCH and batch.first_sequence % PER_BATCH == 0 for batch in found)


def usbcast_batches(path: Path) -> list[usbcast.Batch]:
    try:
        return list(usbcast.open_recording(path).batches("s"))
    except (RecordingError, usbcast.UsageError):
        return []


def test_a_file_cut_anywhere_is_noticed_and_every_complete_chunk_is_saved(tmp_path: Path) -> None:
    (path,) = make(tmp_path, segments=1)
    whole = path.read_bytes()
    ends = [chunk.offset + chunk.size_bytes for chunk in walk(path).chunks]
    metadata_end = walk(path).chunks[0].offset
    for size in [*range(9, len(whole), 211), *ends, *(end - 1 for end in ends), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert not is_balanced(path), f"cut at {size} of {len(whole)}"
        if size < metadata_end:
            continue
        output = tmp_path / "out.mcap"
        made = recover(path, output)
        complete = min(sum(end <= size for end in ends), 3)
        assert made.packets == complete * BATCHES_PER_CHUNK * PER_BATCH
        found = verified(output)
        assert found.balanced, (size, found.ledger.problems)
        output.unlink()


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_removed_segment_is_noticed(tmp_path: Path, gone: int) -> None:
    files = make(tmp_path)
    files[gone].unlink()
    found = verified(tmp_path)
    assert not found.balanced
    assert any("missing" in problem for problem in found.ledger.problems)
    said = cli("verify", tmp_path, check=1)
    assert not said["balanced"]


def test_a_segment_named_twice_is_noticed(tmp_path: Path) -> None:
    files = make(tmp_path)
    (tmp_path / "copy.mcap").write_bytes(files[1].read_bytes())
    assert not is_balanced(tmp_path)


def test_a_cut_segment_in_the_middle_is_declared_after_recovery(tmp_path: Path) -> None:
    files = make(tmp_path)
    chunk = walk(files[1]).chunks[1]
    files[1].write_bytes(files[1].read_bytes()[: chunk.offset + 20])
    assert not is_balanced(tmp_path)
    said = cli("recover", files[1])
    assert not said["was_whole"]
    found = verified(*files)
    assert found.balanced, found.ledger.problems
    (books,) = found.ledger.epochs.values()
    assert sum(books.lost.values()) == 2 * BATCHES_PER_CHUNK * PER_BATCH
    assert "ended before its time" in next(iter(books.lost))
    assert (tmp_path / "r-00001.mcap.damaged").exists(), "the damaged file stays"


def test_a_damaged_chunk_costs_that_chunk_alone(tmp_path: Path) -> None:
    files = make(tmp_path)
    chunk = walk(files[1]).chunks[1]
    damaged = bytearray(files[1].read_bytes())
    damaged[chunk.offset + chunk.size_bytes // 2] ^= 0x10
    files[1].write_bytes(damaged)
    made = recover(files[1])
    assert made.lost == BATCHES_PER_CHUNK * PER_BATCH
    found = verified(*files)
    assert found.balanced, found.ledger.problems
    (books,) = found.ledger.epochs.values()
    assert books.recorded == total() - made.lost
    gaps = [e for e in usbcast.open_recording(files).events("s") if isinstance(e, usbcast.Gap)]
    assert [(gap.count, gap.stage) for gap in gaps] == [(made.lost, "recording")]


def test_a_damaged_record_header_is_passed_with_the_help_of_the_index(tmp_path: Path) -> None:
    (path,) = make(tmp_path, segments=1)
    chunk = walk(path).chunks[1]
    damaged = bytearray(path.read_bytes())
    damaged[chunk.offset + 4] ^= 0x40  # its length
    path.write_bytes(damaged)
    made = recover(path)
    assert made.packets == total(1) - BATCHES_PER_CHUNK * PER_BATCH
    assert verified(path).balanced


def test_a_whole_file_is_left_alone(tmp_path: Path) -> None:
    (path,) = make(tmp_path, segments=1)
    before = path.read_bytes()
    assert recover(path).was_whole
    assert path.read_bytes() == before


def test_seeking_by_time_and_sequence(tmp_path: Path) -> None:
    make(tmp_path)
    recording = usbcast.open_recording(tmp_path / "r")
    first = next(recording.batches("s", start_sequence=155))
    assert (first.first_sequence, len(first)) == (155, 5)
    assert int(first.fields["count"][0]) == 155
    assert first.scaled("level")[0] == 155 * 0.5 + 1
    inside = list(recording.batches("s", start_sequence=40, until_sequence=60))
    assert [batch.first_sequence for batch in inside] == [40, 50]
    at_ns = 1_700_000_000_000_000_000 + 20 * 1_000_000
    assert next(recording.batches("s", start_ns=at_ns)).first_sequence == 200
    assert [b.first_sequence for b in recording.batches("s", start_ns=at_ns, until_ns=at_ns + 1)] == [200]
    assert len(recording.to_pandas("s")) == total()
    assert recording.to_arrow("s", start_sequence=300).num_rows == total() - 300
    with pytest.raises(usbcast.UsageError, match="it has s"):
        recording.info("t")

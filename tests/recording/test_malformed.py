"""Recordings from elsewhere: whatever stands in one is told with its place and stepped over, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from made import EPOCH, PER_BATCH, SIZE, batch, info
from mcap.records import Chunk

import usbcast
from tests.support.malformed_things import BATCHES as BATCHES_OF_ANY_WAY
from tests.support.malformed_things import good, packet
from usbcast import Batch, Gap
from usbcast.receiving.continuity import Position
from usbcast.recording.convert import FORMS, ConvertOptions, convert
from usbcast.recording.copies import Copies
from usbcast.recording.entries import (
    ANNOTATION_SCHEMA_NAME,
    BATCH_SCHEMA,
    INFO_SCHEMA,
    Annotation,
    Channel,
    Entry,
    annotation_entry,
    batch_entry,
    begin_annotation,
    decode_entry,
    hex_epoch,
    info_entry,
)
from usbcast.recording.files import MALFORMED_TOLD
from usbcast.recording.recover import recover
from usbcast.recording.segment import Head, Segment
from usbcast.recording.unpacking import MAX_CHUNK_BYTES, records, unpack
from usbcast.recording.verify import verify
from usbcast_schemas.errors import RecordingError, UsageError, UsbcastError, WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb

AT = 1_700_000_000_000_000_000
BATCHES = 6
E = f'"epoch":"{hex_epoch(EPOCH)}"'
POSITION = '"next_sequence":1,"next_number":1'


def annotation(text: str | bytes, stream: str = "s") -> Entry:
    data = text if isinstance(text, bytes) else text.encode()
    return Entry(Channel(f"{stream}/remarks", "json", ANNOTATION_SCHEMA_NAME, (("stream", stream),)), AT, 0, data)


def of(kind: str, fields: str) -> Entry:
    return annotation(f'{{"kind":"{kind}","time_ns":{AT},"stream":"s",{fields}}}')


def message(schema: str, data: bytes, stream: str = "s") -> Entry:
    return Entry(Channel(f"{stream}/x", "protobuf", schema, (("stream", stream),)), AT, 0, data)


def described(**changes: object) -> Entry:
    changed = info()
    for name, value in changes.items():
        setattr(changed, name, value)
    return message(INFO_SCHEMA, changed.SerializeToString())


MALFORMED = {
    "no JSON": annotation("{"),
    "no object": annotation("[1]"),
    "nothing": annotation(""),
    "bytes that are no text": annotation(b'{"kind":"\xff","time_ns":1}'),
    "half a character": of("rate", r'"reason":"\ud800"'),
    "nested deeply": of("gap", '"x":' + "[" * 100_000 + "]" * 100_000),
    "a large one": of("rate", f'"reason":"{"x" * (4 << 20)}"'),
    "no kind": annotation('{"time_ns":1}'),
    "a kind that is a list": annotation('{"kind":["gap"],"time_ns":1}'),
    "no time": annotation('{"kind":"rate","reason":"x"}'),
    "an endless time": annotation('{"kind":"rate","time_ns":1e999,"reason":"x"}'),
    "a time that is not a number": annotation('{"kind":"rate","time_ns":NaN,"reason":"x"}'),
    "a stream that is an object": annotation('{"kind":"rate","time_ns":1,"stream":{"a":1},"reason":"x"}'),
    "a stream with a path in it": annotation('{"kind":"rate","time_ns":1,"stream":"../../x","reason":"x"}'),
    "a gap of no epoch": of("gap", '"first":1,"last":1,"count":1,"stage":"ring","reason":"x"'),
    "a gap of an odd epoch": of("gap", '"epoch":"zz","first":1,"last":1,"count":1,"stage":"ring","reason":"x"'),
    "a gap of text": of("gap", E + ',"first":"a","last":null,"count":1e99,"stage":5,"reason":"x"'),
    "a gap before all": of("gap", E + ',"first":-5,"last":-5,"count":1,"stage":"ring","reason":"x"'),
    "a gap beyond all": of("gap", E + f',"first":1,"last":{2**80},"count":{2**80},"stage":"ring","reason":"x"'),
    "a gap that contradicts itself": of("gap", E + ',"first":9,"last":1,"count":-7,"stage":"ring","reason":"x"'),
    "a restart from nowhere": of("restart", E),
    "a beginning that is half": of("begin", E),
    "a clock of text": of("clock", '"node_ahead_ns":"x"'),
    "a clock without an end": of(
        "clock",
        '"realtime_ns":1,"node_ahead_ns":1,"uncertainty_ns":1,"drift_ppm":-1e6,"drift_uncertainty_ppm":1e999',
    ),
    "a silence without an end": of("silence", '"duration_ns":1e999'),
    "a disk of no time": of("disk", '"reason":"full"'),
    "dropped before the first": of("dropped", '"before":-1,"reason":"x"'),
    "an end of no streams": of("close", '"reason":"x"'),
    "an end of odd streams": of("close", f'"streams":{{"s":{{"epoch":"zz",{POSITION}}}}}'),
    "contents of an odd kind": of("contents", '"streams":{"s":[["zz",0,1,0,1]]}'),
    "a batch of random bytes": message(BATCH_SCHEMA, b"\xff\xfe"),
    "an empty batch": message(BATCH_SCHEMA, b""),
    "a batch of losses": message(BATCH_SCHEMA, bytes(batch(0).raw)[:-2] + b"\x5a\x00" * 2000),
    "a batch beyond 64 bits": message(
        BATCH_SCHEMA, bytes(batch(1, first=0).raw).replace(struct.pack("<BQ", 0x29, 0), b"\x29" + b"\xff" * 8)
    ),
    "a description of random bytes": message(INFO_SCHEMA, b"\xff\xfe"),
    "a description of a/b": described(stream="a/b"),
    "something of the stream a/b": message(BATCH_SCHEMA, bytes(batch(0).raw), "a/b"),
    "something of the stream ../x": message(INFO_SCHEMA, info().SerializeToString(), "../x"),
}


def recording(path: Path, *extra: Entry, first: Entry | None = None) -> Path:
    """Of BATCHES whole batches, with something else in the middle."""
    segment = Segment(path / "r-00000.mcap", Head("aa", 0, 1, "host"), "zstd")
    segment.add(info_entry(info(), 1) if first is None else first)
    segment.add(annotation_entry(begin_annotation("s", Position(EPOCH, 0, 0), 1)))
    for number in range(BATCHES):
        if number == BATCHES // 2:
            for entry in extra:
                segment.add(entry)
        segment.add(batch_entry("s", batch(number)))
    said = {"epoch": hex_epoch(EPOCH), "next_sequence": BATCHES * PER_BATCH, "next_number": BATCHES}
    segment.add(
        annotation_entry(Annotation("close", 2, "", {"reason": "enough", "final": True, "streams": {"s": said}}))
    )
    return segment.finish()


def packets(path: Path) -> list[int]:
    """The sequences of the packets that are read of stream `s`."""
    read = usbcast.open_recording(path)
    batches = (event for event in read.events("s") if isinstance(event, Batch))
    return [int.from_bytes(packet, "little") for one in batches for packet in one]


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_entry_is_told_and_stepped_over(name: str, tmp_path: Path) -> None:
    path = recording(tmp_path, MALFORMED[name])
    (found,) = verify([path])
    told = [problem for problem in found.ledger.problems if "an entry of a chunk is malformed" in problem]
    assert len(told) == 1, found.ledger.problems
    (books,) = found.ledger.epochs.values()
    assert (books.stream, books.recorded) == ("s", BATCHES * PER_BATCH)
    assert packets(path) == list(range(BATCHES * PER_BATCH))
    read = usbcast.open_recording(path)
    assert read.streams == ["s"]
    assert [one.packets for one in convert(read, tmp_path / "out", (), ConvertOptions("csv"))] == [len(packets(path))]
    saved = recover(path, tmp_path / "saved.mcap")
    assert (saved.batches, saved.lost, len(saved.damages)) == (BATCHES, 0, 1)
    (again,) = verify([saved.path])
    assert not again.ledger.problems


@pytest.mark.parametrize("name", BATCHES_OF_ANY_WAY)
def test_a_malformed_batch_is_told_and_is_a_gap(name: str, tmp_path: Path) -> None:
    segment = Segment(tmp_path / "r-00000.mcap", Head("aa", 0, 1, "host"), "zstd")
    segment.add(message(INFO_SCHEMA, info().SerializeToString()))
    for raw in (good(EPOCH, 0), BATCHES_OF_ANY_WAY[name](EPOCH), good(EPOCH, 2)):
        segment.add(message(BATCH_SCHEMA, raw))
    path = segment.finish()
    (found,) = verify([path])
    assert len([p for p in found.ledger.problems if "an entry of a chunk is malformed" in p]) == 1, (
        found.ledger.problems
    )
    (books,) = found.ledger.epochs.values()
    assert (books.recorded, books.missing) == (2, 1)
    events = list(usbcast.open_recording(path).events("s"))
    assert [raw for one in events if isinstance(one, Batch) for raw in one] == [packet(0), packet(2)]
    assert [(one.first, one.last, one.stage) for one in events if isinstance(one, Gap)] == [(1, 1, "recording")]


def test_of_many_malformed_entries_the_first_are_told_and_all_counted(tmp_path: Path) -> None:
    path = recording(tmp_path, *[MALFORMED["an empty batch"]] * 500)
    (found,) = verify([path])
    assert found.ledger.problem_count == MALFORMED_TOLD + 1
    assert "500 entries of a chunk are malformed" in found.ledger.problems[-1]


ODD_FIELDS = {
    "outside": pb.Field(name="x", type="u64", offset=4_000_000_000),
    "of no type": pb.Field(name="x", type="", offset=0),
    "of an odd type": pb.Field(name="x", type="u7", offset=0),
    "of no name": pb.Field(name="", type="u8", offset=0),
    "of a name that is there": pb.Field(name="count", type="u8", offset=0),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ODD_FIELDS)
def test_fields_that_cannot_be_are_one_sentence(name: str, form: str, tmp_path: Path) -> None:
    odd = info()
    odd.fields.append(ODD_FIELDS[name])
    path = recording(tmp_path, first=info_entry(odd, 1))
    with pytest.raises(UsageError, match="the description of this stream is invalid"):
        convert(usbcast.open_recording(path), tmp_path / "out", (), ConvertOptions(form))
    (one, *_) = usbcast.open_recording(path).batches("s")
    with pytest.raises(UsageError, match="the description of this stream is invalid"):
        one.fields["count"]
    assert one.packets.shape == (PER_BATCH, SIZE)


def test_what_is_new_in_a_later_version_is_no_reason_to_fall_over(tmp_path: Path) -> None:
    later = pb.PacketBatch.FromString(bytes(batch(BATCHES).raw))
    later.lost_before.add(reason="new").MergeFromString(b"\x08\x63")  # stage 99
    later.events.add(detail="new").MergeFromString(b"\x08\x63")
    path = recording(tmp_path, of("telepathy", '"x":1'), message(BATCH_SCHEMA, later.SerializeToString()))
    (found,) = verify([path])
    assert not [problem for problem in found.ledger.problems if "malformed" in problem]
    events = list(usbcast.open_recording(path).events("s"))
    assert [e.stage for e in events if isinstance(e, usbcast.Gap) and e.reason == "new"] == ["unknown"]
    assert [e.kind for e in events if isinstance(e, usbcast.DeviceEvent)] == ["unspecified"]


@pytest.mark.parametrize(
    "head",
    [{"segment": "9" * 400}, {"segment": "-5"}, {"segment": "1000000"}, {"created_ns": "x"}, {"recording": None}],
    ids=lambda head: next(iter(head)),
)
def test_a_head_that_cannot_be_is_one_sentence(head: dict[str, str | None]) -> None:
    said = {"recording": "aa", "segment": "0", "created_ns": "1"} | head
    with pytest.raises((ValueError, KeyError)):
        Head.from_metadata({key: value for key, value in said.items() if value is not None})


# Memory


def chunk(claimed: int, packed: bytes, compression: str = "zstd") -> Chunk:
    return Chunk(
        compression=compression,
        data=packed,
        message_end_time=1,
        message_start_time=0,
        uncompressed_crc=0,
        uncompressed_size=claimed,
    )


def zeros(size: int) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj(size=size)
    piece = bytes(1 << 24)
    return b"".join(packer.compress(piece) for _ in range(size >> 24)) + packer.flush()


@pytest.mark.parametrize(
    ("claimed", "says"),
    [
        (3 << 30, "claims to unpack to 3,221,225,472 bytes: at most 335,544,320 are allowed"),
        (100, "claims to unpack to 100 bytes, but it unpacks to more"),
        (MAX_CHUNK_BYTES, "claims to unpack to 335,544,320 bytes, but it unpacks to fewer"),
    ],
)
def test_a_chunk_unpacks_to_what_it_claims_and_no_more(claimed: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unpack(chunk(claimed, zeros(1 << 26)))


def test_a_chunk_of_an_unknown_compression() -> None:
    with pytest.raises(ValueError, match="its compression 'xz' is unknown"):
        unpack(chunk(1, b"x", "xz"))


@pytest.mark.parametrize("compression", ["zstd", "lz4", ""])
def test_what_is_packed_is_unpacked(compression: str) -> None:
    import lz4.frame

    data = bytes(range(256)) * 20_000
    packed = {"zstd": zstandard.compress(data), "lz4": lz4.frame.compress(data), "": data}[compression]
    assert unpack(chunk(len(data), packed, compression)) == data
    for wrong in (len(data) - 1, len(data) + 1):
        with pytest.raises(ValueError, match="it claims to unpack to"):
            unpack(chunk(wrong, packed, compression))


def bomb(directory: Path) -> Path:
    """A file of some 100 kB whose one chunk unpacks to 3 GiB."""
    packed = zeros(3 << 30)
    metadata = b"".join(
        struct.pack("<I", len(text)) + text for text in (b"recording", b"aa", b"segment", b"0", b"created_ns", b"1")
    )
    name = b"usbcast.segment"
    body = struct.pack("<I", len(name)) + name + struct.pack("<I", len(metadata)) + metadata
    inner = (
        struct.pack("<QQQI", 0, 1, 100, 0) + struct.pack("<I", 4) + b"zstd" + struct.pack("<Q", len(packed)) + packed
    )
    path = directory / "bomb-00000.mcap"
    path.write_bytes(
        b"\x89MCAP0\r\n"
        + b"".join(bytes((op,)) + struct.pack("<Q", len(r)) + r for op, r in ((1, bytes(8)), (0x0C, body), (6, inner)))
    )
    return path


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory was taken at most in KiB")
@pytest.mark.parametrize("verb", ["verify", "info", "convert", "recover"])
def test_no_verb_unpacks_more_than_it_must(verb: str, tmp_path: Path) -> None:
    more = {"convert": ["--to", "csv", "-o", str(tmp_path / "x")], "recover": ["-o", str(tmp_path / "y.mcap")]}
    code = (
        "import resource, sys\nfrom usbcast.cli.app import run\n"
        "try:\n    run()\n"
        "finally:\n    print('MB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, verb, str(bomb(tmp_path)), *more.get(verb, ())]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ran.stderr, ran.stderr
    assert "MB" in ran.stderr, ran.stderr
    assert int(ran.stderr.rsplit("MB", 1)[1].split()[0]) < 500, ran.stderr


# Fuzz: parse, or raise the one error


@given(st.binary(max_size=300) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_any_bytes_as_an_entry_decode_or_raise_the_one_error(data: bytes) -> None:
    for schema in (BATCH_SCHEMA, INFO_SCHEMA, ANNOTATION_SCHEMA_NAME, "another"):
        with contextlib.suppress(UsbcastError):
            decode_entry(schema, data)
    with contextlib.suppress(WireError):
        Copies().add(data)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(hex_epoch(EPOCH))
names = st.sampled_from(
    ["epoch", "old_epoch", "first", "last", "count", "stage", "reason", "streams", "next_sequence", "next_number",
     "delivered_until", "known_until", "duration_ns", "before", "since_ns", "node_ahead_ns", "drift_ppm", "final"]
)  # fmt: skip
kinds = st.sampled_from(
    ["gap", "restart", "begin", "close", "silence", "clock", "disk", "dropped", "contents", "unknown"]
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(kinds, st.dictionaries(names, values | st.dictionaries(st.text(max_size=3), values), max_size=8)),
        max_size=6,
    )
)
def test_any_annotations_are_read_or_refused_and_never_make_the_books_fall_over(
    tmp_path_factory: pytest.TempPathFactory, said: list
) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    entries = [annotation(json.dumps({"kind": kind, "time_ns": AT, "stream": "s"} | fields)) for kind, fields in said]
    path = recording(directory, *entries)
    (found,) = verify([path])
    assert found.ledger.epochs
    with contextlib.suppress(RecordingError):
        list(usbcast.open_recording(path).events("s"))
    recover(path, directory / "saved.mcap")


@given(st.binary(max_size=300))
def test_any_bytes_as_a_chunk_are_read_or_refused(data: bytes) -> None:
    for read in (
        lambda: list(records(data)),
        *(lambda name=name: unpack(chunk(200, data, name)) for name in ("zstd", "lz4", "")),
    ):
        with contextlib.suppress(ValueError, RuntimeError, EOFError, struct.error, zstandard.ZstdError):
            read()

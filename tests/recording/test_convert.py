"""What a recording is converted to has the values that the device sent."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pyarrow.parquet
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from made import EPOCH, make, total
from mcap.reader import make_reader
from recordings import cli

import usbcast
from usbcast.recording.convert import ConvertOptions, convert
from usbcast.recording.entries import batch_entry, info_entry
from usbcast.recording.segment import Head, Segment
from usbcast_schemas.batch import Arrivals, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

COUNTS = [n for n in range(total()) if not 70 <= n < 80]


def i16(value: int) -> int:
    return (value & 0xFFFF) - (0x10000 if value & 0x8000 else 0)


def level(count: int) -> float:
    return i16(count) * 0.5 + 1.0


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in", gap_at=7)
    return tmp_path / "in"


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_tables_of_arrow(tmp_path: Path, recording: Path, form: str) -> None:
    said = cli("convert", recording, "--to", form, "-o", tmp_path / "out")
    assert (said["packets"], said["lost"], said["gaps"]) == (len(COUNTS), 10, 1)
    path = tmp_path / f"out-s.{form}"
    table = pyarrow.parquet.read_table(path) if form == "parquet" else pyarrow.ipc.open_file(path).read_all()
    assert table.column_names == ["epoch", "sequence", "time", "count", "level"]
    assert table["sequence"].to_pylist() == COUNTS
    assert table["count"].to_pylist() == COUNTS
    assert table["level"].to_pylist() == [level(n) for n in COUNTS]
    assert set(table["epoch"].to_pylist()) == {EPOCH}
    assert table.schema.field("level").metadata == {b"unit": b"V"}
    assert str(table.schema.field("time").type) == "timestamp[ns, tz=UTC]"


def test_csv(tmp_path: Path, recording: Path) -> None:
    cli("convert", recording, "--to", "csv", "-o", tmp_path / "out")
    rows = csv_rows(tmp_path / "out-s.csv")
    assert rows[0] == ["epoch", "sequence", "time", "count", "level [V]"]
    assert [(int(row[1]), int(row[3]), float(row[4])) for row in rows[1:]] == [(n, n, level(n)) for n in COUNTS]


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def decoded_messages(path: Path) -> list[Any]:
    """The messages of a file, decoded by its own schema alone."""
    with path.open("rb") as file:
        found = list(make_reader(file, validate_crcs=True).iter_messages())
    schema = found[0][0]
    assert schema is not None
    pool = descriptor_pool.DescriptorPool()
    for proto in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
        pool.Add(proto)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
    return [kind.FromString(message.data) for _, _, message in found]


def test_decoded_mcap(tmp_path: Path, recording: Path) -> None:
    cli("convert", recording, "--to", "mcap", "-o", tmp_path / "out")
    messages = decoded_messages(tmp_path / "out-s.decoded.mcap")
    assert [message.count for message in messages] == COUNTS
    assert [message.usbcast_sequence for message in messages] == COUNTS
    assert [message.level for message in messages] == [level(n) for n in COUNTS]


def test_every_type_of_field_and_more_than_fifteen_of_them(tmp_path: Path) -> None:
    import numpy as np

    types = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"]
    fields, at = [], 0
    for big in (False, True):
        for kind in types:
            fields.append(pb.Field(name=f"{kind}_{'be' if big else 'le'}", type=kind, offset=at, big_endian=big))
            at += int(kind[1:]) // 8
    dtype = np.dtype([(f.name, f"{'>' if f.big_endian else '<'}{f.type[0]}{int(f.type[1:]) // 8}") for f in fields])
    assert dtype.itemsize == at
    rows = np.zeros(3, dtype)
    for n, name in enumerate(dtype.names or ()):
        rows[name] = [0, 100 + n, 1] if name[0] == "u" else [0, -(20 + n), 1]
    segment = Segment(tmp_path / "r-00000.mcap", Head("aa", 0, 1, ""), "zstd")
    segment.add(info_entry(pb.StreamInfo(stream="all", epoch=1, packet_size=at, fields=fields), 1))
    raw = encode_batch(
        epoch=1, number=0, first_sequence=0, packet_count=3, packet_size=at, payload=[rows.tobytes()],
        arrivals=Arrivals((3,), (9,), (9,)),
    )  # fmt: skip
    segment.add(batch_entry("all", decode_batch(raw)))
    segment.finish()
    recording = usbcast.open_recording(tmp_path / "r")
    convert(recording, tmp_path / "out", (), ConvertOptions("mcap"))
    messages = decoded_messages(tmp_path / "out-all.decoded.mcap")
    assert len(messages) == 3
    for n, message in enumerate(messages):
        assert {name: getattr(message, name) for name in dtype.names or ()} == {
            name: rows[name][n].item() for name in dtype.names or ()
        }
    convert(recording, tmp_path / "out", (), ConvertOptions("parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "out-all.parquet")
    assert all(table[name].to_pylist() == rows[name].tolist() for name in dtype.names or ())


def test_packets_without_fields_are_bytes(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "r-00000.mcap", Head("aa", 0, 1, ""), "none")
    segment.add(info_entry(pb.StreamInfo(stream="raw", epoch=1), 1))
    packets = [b"a", b"", b"ccc"]
    raw = encode_batch(
        epoch=1, number=0, first_sequence=0, packet_count=3, packet_size=0, payload=packets, packet_ends=(1, 1, 4),
        arrivals=Arrivals((3,), (9,), (9,)),
    )  # fmt: skip
    segment.add(batch_entry("raw", decode_batch(raw)))
    segment.finish()
    recording = usbcast.open_recording(tmp_path / "r")
    convert(recording, tmp_path / "out", (), ConvertOptions("arrow"))
    assert pyarrow.ipc.open_file(tmp_path / "out-raw.arrow").read_all()["packet"].to_pylist() == packets
    convert(recording, tmp_path / "out", (), ConvertOptions("csv"))
    assert [row[3] for row in csv_rows(tmp_path / "out-raw.csv")] == ["packet", "61", "", "636363"]
    with pytest.raises(usbcast.UsageError, match="no field layout"):
        convert(recording, tmp_path / "out", (), ConvertOptions("mcap"))
    with pytest.raises(usbcast.UsageError, match="XDF"):
        convert(recording, tmp_path / "out", (), ConvertOptions("xdf"))


def test_a_damaged_recording_converts_what_is_left_and_says_so(tmp_path: Path, recording: Path) -> None:
    path = recording / "r-00001.mcap"
    damaged = bytearray(path.read_bytes())
    from usbcast.recording.files import walk

    chunk = walk(path).chunks[1]
    damaged[chunk.offset + chunk.size_bytes // 2] ^= 1
    path.write_bytes(damaged)
    said = cli("convert", recording, "--to", "csv", "-o", tmp_path / "out", check=1)
    assert said["packets"] == len(COUNTS) - 40


def test_csv_and_parquet_have_one_schema(tmp_path: Path, recording: Path) -> None:
    for form in ("csv", "parquet"):
        cli("convert", recording, "--to", form, "-o", tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out-s.parquet")
    heads, *rows = csv_rows(tmp_path / "out-s.csv")
    assert heads[:3] == table.column_names[:3]
    assert [int(row[0]) for row in rows] == table["epoch"].to_pylist()
    assert [int(row[1]) for row in rows] == table["sequence"].to_pylist()
    assert all(row[2].endswith("Z") for row in rows)
    times = np.array([row[2].removesuffix("Z") for row in rows], "datetime64[ns]")
    assert (times == table["time"].to_numpy()).all()
    assert table.schema.field("level").metadata == {b"unit": b"V"}
    assert pyarrow.parquet.read_metadata(tmp_path / "out-s.parquet").metadata[b"usbcast.units"] == b'{"level": "V"}'


def test_nothing_is_overwritten_unless_it_is_wanted(tmp_path: Path, recording: Path) -> None:
    path = tmp_path / "out-s.csv"
    path.write_text("mine")
    command = ["convert", recording, "--to", "csv", "-o", tmp_path / "out"]
    assert "--force" in cli(*command, check=1)["error"]
    assert path.read_text() == "mine"
    cli(*command, "--force")
    assert len(csv_rows(path)) == len(COUNTS) + 1
    assert [found.name for found in tmp_path.glob("out*")] == ["out-s.csv"]

"""schemas/core: a library in C that needs no Python, and whose rings are those of Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from usbcast_schemas.batch import Arrivals, Encoded, decode_batch, encode_batch
from usbcast_schemas.contract import CONTRACT, MAJOR
from usbcast_schemas.ring import HEADER_BYTES, STORES_ARE_ORDERED, RingReader, RingWriter
from usbcast_schemas.ring.layout import HEAD, TAIL
from usbcast_schemas.v1 import usbcast_pb2 as pb

ROOT = Path(__file__).parents[2]
CORE = ROOT / "schemas/core"
SOURCES = sorted(CORE.glob("*.c"))
COMPILER = shutil.which("cc")
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")

needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


def test_no_file_of_it_knows_python() -> None:
    included = {
        f"{path.name}: {name}"
        for path in CORE.iterdir()
        for name in re.findall(r'#\s*include\s*[<"](.+?)[>"]', path.read_text(encoding="utf-8"))
        if "python" in name.lower() or ("/" in name and not name.startswith("sys/"))
    }
    assert SOURCES
    assert included == set()


@needs_a_compiler
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_each_file_compiles_alone_without_a_warning(source: Path, tmp_path: Path) -> None:
    subprocess.run([str(COMPILER), *STRICT, "-O2", "-c", str(source), "-o", str(tmp_path / "made.o")], check=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("core") / "core_program"
    source = Path(__file__).with_name("core_program.c")
    flags = (*STRICT, "-O1", "-g", "-D_POSIX_C_SOURCE=200809L", f"-I{CORE}", "-pthread")
    subprocess.run([str(COMPILER), *flags, str(source), *map(str, SOURCES), "-ldl", "-o", str(made)], check=True)
    return made


def run(program: Path, verb: str, ring: RingWriter, *arguments: int) -> list[list[str]]:
    command = [str(program), verb, str(ring.path), str(ring._slots), str(ring.data_bytes), *map(str, arguments)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [line.split() for line in ran.stdout.splitlines()]


def batches(transfers: tuple[int, ...], packet_size: int, most_bytes: int) -> list[tuple[int, int, bytes]]:
    """(first sequence, packets, bytes) of each batch, as Python writes it."""
    pieces = []
    most = max(packet_size, most_bytes - most_bytes % packet_size)
    for at, packets in enumerate(transfers):
        data = bytes((at + i) & 0xFF for i in range(packets * packet_size))
        pieces += [(data[begin : begin + most], at) for begin in range(0, len(data), most)]
    made: list[tuple[int, int, bytes]] = []
    sequence = 0
    while pieces:
        taken, size = 1, len(pieces[0][0])
        while taken < len(pieces) and size + len(pieces[taken][0]) <= most_bytes:
            size += len(pieces[taken][0])
            taken += 1
        arrivals = Arrivals(
            [len(data) // packet_size for data, _ in pieces[:taken]],
            [1000 + at for _, at in pieces[:taken]],
            [at for _, at in pieces[:taken]],
        )
        raw = encode_batch(
            epoch=7, number=len(made), first_sequence=sequence, packet_count=size // packet_size, packet_size=packet_size,
            payload=[data for data, _ in pieces[:taken]], arrivals=arrivals,
        )  # fmt: skip
        made.append((sequence, size // packet_size, raw))
        sequence += size // packet_size
        del pieces[:taken]
    return made


@needs_a_compiler
@pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work")
@pytest.mark.parametrize(
    ("transfers", "packet_size", "most_bytes"),
    [
        ((1,), 8, 4096),
        ((3, 1, 40, 2), 16, 256),
        ((200, 1, 1), 10, 105),
        ((700,) * 10, 100, 60_000),
        ((1,) * 600, 100, 60_000),
    ],
    ids=["one", "several", "cut", "past the caches", "joined"],
)
def test_a_program_in_c_writes_the_ring_that_python_writes(
    transfers: tuple[int, ...], packet_size: int, most_bytes: int, program: Path, tmp_path: Path
) -> None:
    """All of the table and of the data, byte by byte."""
    sizes = {"data_bytes": 2 * 1024 * 1024, "slots": 256}
    by_c, by_python = RingWriter(tmp_path, "c", 7, **sizes), RingWriter(tmp_path, "python", 7, **sizes)
    try:
        told = run(program, "write", by_c, CONTRACT, packet_size, most_bytes, 7, *transfers)
        expected = batches(transfers, packet_size, most_bytes)
        for number, (sequence, packets, raw) in enumerate(expected):
            by_python.stream_writer.append(Encoded(raw, number, sequence, packets))
        assert told == [["1", str(len(expected)), str(sum(transfers))]]
        assert bytes(by_c._map[HEADER_BYTES:]) == bytes(by_python._map[HEADER_BYTES:])
        assert [by_c._words[word] for word in (HEAD, TAIL)] == [by_python._words[word] for word in (HEAD, TAIL)]
        reader = RingReader(by_c.path, by_c.nonce)
        assert [reader.take(slot) for slot in range(len(expected))] == [decode_batch(raw) for _, _, raw in expected]
        reader.close()
    finally:
        by_c.close()
        by_python.close()


@needs_a_compiler
@pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work")
def test_a_program_in_c_reads_the_ring_that_python_wrote(program: Path, tmp_path: Path) -> None:
    """Once it has wrapped; a batch that is not plain is found and known as such."""
    ring = RingWriter(tmp_path, "s", 7, data_bytes=4096, slots=16)
    expected = []
    try:
        for number in range(40):
            odd = number % 5 == 0
            payload = bytes([number]) * 40
            raw = encode_batch(
                epoch=7, number=number, first_sequence=5 * number, packet_count=5, packet_size=8, payload=[payload],
                arrivals=Arrivals((2, 3), (1, 2), (number, number + 1)), events=[pb.DeviceEvent(detail="e")] if odd else [],
            )  # fmt: skip
            ring.stream_writer.append(Encoded(raw, number, 5 * number, 5))
            check = 0
            for byte in payload:
                check = (31 * check + byte) & 0xFFFF_FFFF
            plain = [number, 2, 5, number + 1, check]
            expected.append([str(one) for one in ([number, 0, 0, 0, 0] if odd else plain)])
        assert run(program, "read", ring, MAJOR) == expected[-16:]
    finally:
        ring.close()

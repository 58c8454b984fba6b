"""What is announced on the LAN, to bytes and back; and what a stranger may send instead."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_schemas.errors import WireError
from usbcast_schemas.lan import MAX_STREAMS_BYTES, Announced


def record(announced: Announced) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in announced.to_txt().items()}


@pytest.mark.parametrize(
    "announced",
    [
        Announced("ab12cd34", ("imu",), "0.1.0"),
        Announced("ab12cd34", (), "0.1.0"),
        Announced("ab12cd34", ("imu", "adc-2"), "0.1.0", key="00ff" * 16),
        Announced("ab12cd34", tuple(f"stream-{n}" for n in range(80)), "0.1.0"),
        Announced("ab12cd34", ("s" * 64,) * 9, "0.1.0"),
    ],
)
def test_what_is_announced_is_understood(announced: Announced) -> None:
    assert Announced.from_txt(record(announced)) == announced


def test_a_record_fits_one_packet_however_many_streams_there_are() -> None:
    announced = Announced("ab12cd34", tuple(f"{n:064d}" for n in range(500)), "0.1.0", key="ff" * 32)
    txt = announced.to_txt()
    assert all(len(key) + 1 + len(value) <= 255 for key, value in txt.items())
    assert sum(len(key) + len(value) + 2 for key, value in txt.items()) <= 1300
    told = Announced.from_txt(record(announced))
    assert not told.complete
    assert told.streams == announced.streams[: len(told.streams)]
    assert len(told.streams) == MAX_STREAMS_BYTES // 65


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {b"contract": b"1.0"},
        {b"contract": b"1.0", b"version": b"1", b"node": b"a", b"streams": b"NOT a name"},
        {b"contract": b"1.0", b"version": b"\xff\xfe", b"node": b"a"},
        {b"contract": b"1.0", b"version": b"\x1b[31m", b"node": b"a"},
        {b"contract": None, b"version": b"1", b"node": b"../.."},
    ],
)
def test_what_no_node_announces_is_refused(sent: dict[bytes, bytes | None]) -> None:
    with pytest.raises(WireError):
        Announced.from_txt(sent)


@given(st.dictionaries(st.binary(max_size=20), st.none() | st.binary(max_size=60), max_size=12))
def test_a_stranger_can_only_be_refused(sent: dict[bytes, bytes | None]) -> None:
    known: dict[bytes, bytes | None] = {b"contract": b"1.0", b"version": b"1", b"node": b"a"}
    for said in (sent, {**sent, **known}):
        with contextlib.suppress(WireError):
            Announced.from_txt(said)

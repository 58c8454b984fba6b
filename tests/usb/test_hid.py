"""Sizes of input reports from report descriptors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_broker.sources.usb.hid import input_report_sizes
from usbcast_broker.sources.usb.system import System

# Buttons and padding, two 16-bit coordinates, a wheel.
TABLET = (
    "05010902a1010901a100050919012903150025019503750181029501750581010501093009311500"
    "26ff7f350046ff7f751095028102050109381581257f350045007508950181 06c0c0"
)
# Device Class Definition for HID 1.11, appendix E.6.
KEYBOARD = (
    "05010906a101050719e029e71500250175019508810295017508810195057501050819012905910295017503910195067508150025650507"
    "190029658100c0"
)


@pytest.mark.parametrize(
    ("descriptor", "sizes"),
    [
        pytest.param(TABLET, {0: 6}, id="a tablet"),
        pytest.param(KEYBOARD, {0: 8}, id="a keyboard: what it is sent counts nothing"),
        pytest.param("8501 7508 9503 8102 8502 9506 8102", {1: 4, 2: 7}, id="two reports, each after its id"),
        pytest.param("7508 9502 a4 7510 9504 8102 b4 8102", {0: 10}, id="pushed and popped"),
        pytest.param("7501 9503 8102", {0: 1}, id="bits are rounded up"),
        pytest.param("96 0001 7508 8102", {0: 256}, id="a count of two bytes"),
        pytest.param("97 00010000 7508 8102", {0: 256}, id="a count of four bytes"),
        pytest.param("fe 02 f0 8102 7508 9501 8102", {0: 1}, id="a long item is passed over"),
        pytest.param("7508 9501 9102 b102", {}, id="no input"),
        pytest.param("", {}, id="nothing"),
        pytest.param("77ffffffff 97ffffffff 8102", {}, id="more than any report holds"),
        pytest.param("b4 b4 7508 9501 81", {0: 1}, id="popped too often, and cut off"),
    ],
)
def test_sizes(descriptor: str, sizes: dict[int, int]) -> None:
    assert input_report_sizes(bytes.fromhex(descriptor)) == sizes


@given(st.binary(max_size=200))
def test_any_bytes_end_in_sizes_of_reports(descriptor: bytes) -> None:
    assert all(0 < size <= 65537 for size in input_report_sizes(descriptor).values())


def test_linux_has_read_it(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert system.report_descriptor("1-2", 0) == b""
    directory = tmp_path / "sys/bus/usb/devices/1-2:1.0/0003:0627:0001.0001"
    directory.mkdir(parents=True)
    (directory / "report_descriptor").write_bytes(b"\x05\x01")
    assert system.report_descriptor("1-2", 0) == b"\x05\x01"
    assert system.report_descriptor("1-2", 1) == b""

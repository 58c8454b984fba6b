"""The checksums against the check values of Greg Cook's catalogue, and where they stand in a packet."""

from __future__ import annotations

from typing import Any

import pytest

from usbcast_broker.framing.checks import METHODS, Check
from usbcast_schemas.profile import CHECKSUM_WIDTHS, Checksum

CHECK_VALUES = {
    "crc32": 0xCBF43926,
    "crc32c": 0xE3069283,
    "crc32-bzip2": 0xFC891918,
    "crc32-mpeg2": 0x0376E6E7,
    "crc16-arc": 0xBB3D,
    "crc16-ccitt-false": 0x29B1,
    "crc16-dnp": 0xEA82,
    "crc16-kermit": 0x2189,
    "crc16-maxim": 0x44C2,
    "crc16-modbus": 0x4B37,
    "crc16-usb": 0xB4C8,
    "crc16-x25": 0x906E,
    "crc16-xmodem": 0x31C3,
    "crc8": 0xF4,
    "crc8-maxim": 0xA1,
    "xor8": 0x31,
    "sum8": 0xDD,
    "sum16": 0x01DD,
}


def test_every_method_of_a_profile_is_known_and_has_a_check_value() -> None:
    assert set(METHODS) == set(CHECKSUM_WIDTHS) == set(CHECK_VALUES)


@pytest.mark.parametrize("method", CHECK_VALUES)
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_check_values(method: str, byte_order: Any) -> None:
    width = CHECKSUM_WIDTHS[method]
    packet = b"123456789" + CHECK_VALUES[method].to_bytes(width, byte_order)
    check = Check(Checksum.model_validate({"method": method, "byte_order": byte_order}))
    assert check.fits(memoryview(b"__" + packet + b"__"), 2, 2 + len(packet))
    for i in range(len(packet)):
        damaged = packet[:i] + bytes([packet[i] ^ 4]) + packet[i + 1 :]
        assert not check.fits(memoryview(damaged), 0, len(damaged))


@pytest.mark.parametrize(
    ("keys", "packet", "fits"),
    [
        ({"from": 1}, b"#\x01\x02\x03", True),
        ({"from": 0}, b"#\x01\x02\x03", False),
        ({"offset": -2}, b"\x01\x02\x03!", True),
        ({"offset": 2}, b"\x01\x02\x03!!", True),
        ({"offset": 0, "from": 1}, b"\x06\x01\x02\x03", True),
        ({"offset": 1, "from": 2}, b"#\x06\x01\x02\x03", True),
        ({}, b"\x01", False),
        ({"from": 3}, b"\x01\x02\x03\x00", False),
    ],
)
def test_what_is_covered(keys: dict[str, int], packet: bytes, fits: bool) -> None:
    check = Check(Checksum.model_validate({"method": "sum8", **keys}))
    assert check.fits(memoryview(packet), 0, len(packet)) is fits

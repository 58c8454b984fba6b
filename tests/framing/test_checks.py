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


def packet(number: int, sync: bytes, *, method: str = "crc16-modbus") -> bytes:
    body = sync + number.to_bytes(3, "big")
    return body + METHODS[method](body).to_bytes(CHECKSUM_WIDTHS[method], "little")


@pytest.mark.parametrize("method", ["crc16-modbus", "crc32", "sum8"])
@pytest.mark.parametrize("sync", [b"", b"\xaa", b"\xaa\x55"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 24, 25, 60])
def test_a_run_ends_at_the_first_packet_that_is_not_valid(count: int, sync: bytes, method: str) -> None:
    """The packets of a run are checked one by one or many at once, depending on how many there are."""
    check = Check(Checksum.model_validate({"method": method, "byte_order": "little"}))
    valid = [packet(number, sync, method=method) for number in range(count)]
    size = len(packet(0, sync, method=method))
    before, after = b"??", valid[0][: size - 1] if valid else b""
    assert check.run_end(before + b"".join(valid) + after, 2, size, sync) == 2 + count * size
    for bad in range(count):
        damaged = bytearray(valid[bad])
        damaged[len(sync)] ^= 1
        others = [bytes(damaged)]
        if sync:  # its checksum is right, but it begins with something else
            others.append(packet(bad, sync[:-1] + b"\x54", method=method))
        for other in others:
            data = before + b"".join([*valid[:bad], other, *valid[bad + 1 :]]) + after
            assert check.run_end(data, 2, size, sync) == 2 + bad * size

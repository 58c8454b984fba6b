"""The profiles that come with usbcast are valid, and say what the devices they name send."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import pytest

from usbcast_broker import profiles
from usbcast_schemas.errors import ProfileError


@pytest.mark.parametrize("name", profiles.names())
def test_each_loads_by_its_name_and_by_its_path(name: str) -> None:
    profile = profiles.load(name)
    path = profiles.find(name)
    assert profile.name == name
    assert path is not None
    assert profiles.load(path) == profile
    assert profile.toml == path.read_text(encoding="utf-8")


def test_there_are_some_and_an_unknown_name_lists_them() -> None:
    assert {"first-case", "ftdi-numbered"} <= set(profiles.names())
    assert profiles.find("nope") is None
    with pytest.raises(ProfileError, match=r"there is no profile named nope; shipped profiles are .*first-case, "):
        profiles.load("nope")


def test_the_first_case_is_laid_out_as_its_packet() -> None:
    profile = profiles.load("first-case")
    values = [7, 70_000, *(i / 4 for i in range(24))]
    head = struct.pack("<IQ24f", *values)
    packet = head + struct.pack("<I", zlib.crc32(head))
    formats = {"u32": "<I", "u64": "<Q", "f32": "<f"}
    fields = profile.expanded_fields()
    assert [struct.unpack_from(formats[one.type], packet, one.offset)[0] for one in fields] == [
        *values,
        zlib.crc32(head),
    ]
    assert [one.name for one in fields] == ["counter", "device_time", *(f"ch{i}" for i in range(24)), "crc"]
    assert profile.packet_size == len(packet) == 112
    assert (profile.device.vendor_id, profile.device.product_id, profile.device.endpoint) == (0x1209, 1, 0x81)
    assert profile.stream.rate_hz == 100


def test_the_ftdi_chip_is_set_up_by_requests_that_it_has() -> None:
    profile = profiles.load("ftdi-numbered")
    assert {request.request_type for request in profile.startup} == {0x40}
    assert {request.request for request in profile.startup} <= {0, 1, 2, 3, 4, 9}
    (baud,) = [request for request in profile.startup if request.request == 3]
    eighths = {0: 0, 1: 4, 2: 2, 3: 1}[baud.value >> 14]
    assert 3_000_000 / ((baud.value & 0x3FFF) + eighths / 8) == pytest.approx(921_600, rel=0.03)


def test_only_the_profile_needs_pydantic() -> None:
    script = (
        "import sys, usbcast, usbcast_schemas.ledger, usbcast_schemas.errors\n"
        "sys.exit(' '.join({'pydantic', 'usbcast_schemas.profile'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

"""`usbcast serve --probe` on simulated devices: every transfer as it came, and what they have in common."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from usbcast.cli.probing import Summary
from usbcast_broker.sources.simulator import SimulatorConfig, make_packets


def probe(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "usbcast", "serve", "--probe", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_as_json_it_is_every_byte() -> None:
    found = probe("--simulate", "--packets", "3", "--rate", "1000", "--json")
    assert found.returncode == 0, found.stderr
    *transfers, summary = [json.loads(line) for line in found.stdout.splitlines()]
    assert "".join(one["hex"] for one in transfers) == make_packets(SimulatorConfig(rate_hz=1000), 0, 3).hex()
    assert all(one["bytes"] == len(one["hex"]) // 2 for one in transfers)
    assert [one["seconds"] for one in transfers] == sorted(one["seconds"] for one in transfers)
    assert (summary["event"], summary["transfers"], summary["bytes"]) == ("summary", 3, 336)
    assert summary["sizes"] == {"112": 3}


def test_for_people() -> None:
    found = probe("--simulate", "--packets", "2", "--rate", "1000")
    assert found.returncode == 0, found.stderr
    assert "0000  " + make_packets(SimulatorConfig(rate_hz=1000), 0, 1)[:16].hex(" ") in found.stdout
    assert "... and 48 bytes more" in found.stdout
    assert "2 transfers, 224 bytes: 112 bytes 2 times" in found.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("first-case", "ftdi-lines"), "--probe shows one device, and there are 2 profiles"),
        ((), "say which device to serve"),
    ],
)
def test_it_shows_one_device(options: tuple[str, ...], said: str) -> None:
    found = probe(*options)
    assert found.returncode == 2
    assert said in found.stderr


@pytest.mark.parametrize(
    ("transfers", "head", "tail"),
    [
        ([], b"", b""),
        ([b"abc"], b"abc", b"abc"),
        ([b"\xaa\x55\x01\n", b"", b"\xaa\x55\x02\x03\n"], b"\xaa\x55", b"\n"),
        ([b"ab", b"cd"], b"", b""),
        ([b"aa", b"aaa"], b"aa", b"aa"),
    ],
)
def test_what_transfers_have_in_common(transfers: list[bytes], head: bytes, tail: bytes) -> None:
    summary = Summary()
    for data in transfers:
        summary.add(data)
    plain = summary.as_plain()
    assert (plain["all_begin_with"], plain["all_end_with"]) == (head.hex(), tail.hex())
    assert plain["transfers"] == len(transfers)

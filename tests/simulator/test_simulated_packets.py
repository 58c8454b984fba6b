"""The bytes of a simulated device's packets."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.sources.simulator import SimulatorConfig, make_packets
from usbcast_schemas.errors import ConfigError


def test_layout_of_the_first_case() -> None:
    packet = make_packets(SimulatorConfig(), 300, 1)
    counter, time_us, *channels, crc = struct.unpack("<IQ24fI", packet)
    assert (len(packet), counter, time_us) == (112, 300, 3_000_000)
    assert crc == zlib.crc32(packet[:-4])
    assert all(-1.1 < value < 1.1 for value in channels)
    assert len(set(channels)) == 24


@pytest.mark.parametrize(
    ("size", "channels", "padding"), [(16, 0, 0), (17, 0, 1), (19, 0, 3), (20, 1, 0), (23, 1, 3), (4096, 1020, 0)]
)
def test_channels_fill_the_packet_and_zeros_the_rest(size: int, channels: int, padding: int) -> None:
    packet = make_packets(SimulatorConfig(packet_size=size), 7, 1)
    assert len(packet) == size
    assert packet[12 + 4 * channels : size - 4] == bytes(padding)
    assert struct.unpack_from("<I", packet, size - 4)[0] == zlib.crc32(packet[:-4])
    if channels:
        assert any(struct.unpack_from(f"<{channels}f", packet, 12))


@settings(max_examples=50, deadline=None)
@given(st.integers(16, 300), st.integers(0, 1 << 33), st.lists(st.integers(0, 40), max_size=8), st.integers(0, 1 << 40))
def test_packets_do_not_depend_on_how_they_are_asked_for(size: int, first: int, cuts: list[int], seed: int) -> None:
    config = SimulatorConfig(packet_size=size, seed=seed)
    pieces, at = [], first
    for cut in cuts:
        pieces.append(make_packets(config, at, cut))
        at += cut
    assert b"".join(pieces) == make_packets(config, first, sum(cuts))


def test_the_seed_changes_the_channels_only() -> None:
    one, other = (make_packets(SimulatorConfig(seed=seed), 5, 1) for seed in (1, 2))
    assert one[:12] == other[:12]
    assert one[12:] != other[12:]


def test_the_counter_wraps_at_32_bits_and_the_time_goes_on() -> None:
    counter, time_us = struct.unpack_from("<IQ", make_packets(SimulatorConfig(rate_hz=1e6), (1 << 32) + 3, 1))
    assert (counter, time_us) == (3, (1 << 32) + 3)


def test_without_a_rate_the_time_still_rises() -> None:
    packets = make_packets(SimulatorConfig(rate_hz=0), 10, 2)
    assert [struct.unpack_from("<Q", packets, at)[0] for at in (4, 116)] == [10, 11]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate_hz": -1}, "rate_hz is -1; a number from 0 to 10000000 is allowed"),
        ({"rate_hz": float("nan")}, "rate_hz is nan"),
        ({"packet_size": 15}, "packet_size is 15; a whole number from 16 to 1048576 is allowed"),
        ({"packets": 0}, "packets is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"vendor_id": 65536}, "vendor_id is 65536"),
        ({"serial": "x" * 127}, "serial is 'xxx"),
        ({"max_packet_size": 0}, "max_packet_size is 0"),
        ({"transfer_size": 0}, "transfer_size is 0"),
        (
            {"transfer_size": 1000, "fifo_bytes": 1000},
            "fifo_bytes is 1000; at least a packet and a transfer, 1112 bytes",
        ),
        ({"latency_s": -0.1}, "latency_s is -0.1"),
        ({"jitter_s": float("inf")}, "jitter_s is inf"),
        ({"fifo_bytes": 111}, "fifo_bytes is 111"),
        ({"status_prefix": b"ab", "max_packet_size": 2}, "status_prefix is b'ab'"),
    ],
)
def test_what_an_option_may_not_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SimulatorConfig(**options)  # type: ignore[arg-type]
    assert f"simulator: {said}" in str(caught.value)

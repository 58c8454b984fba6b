"""The packets of a simulated device: their bytes follow from the options and the counter alone.

Layout, little-endian: u32 counter, u64 device time in µs, float32 channels, zeros up to a multiple of four, u32 CRC-32
of all that precedes it.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from usbcast_broker.sources.simulator.config import (
    COUNTER_BYTES,
    CRC_BYTES,
    MIN_PACKET_BYTES,
    TIME_BYTES,
    SimulatorConfig,
)

_TABLE_BYTES = 1 << 20
_MAX_TABLE_ROWS = 8192


def make_packets(config: SimulatorConfig, first: int, count: int) -> bytes:
    """The packets with the counters `first` to `first + count - 1`, back to back, before `config.encode`."""
    size = config.packet_size
    channels = channel_count(size)
    layout = np.dtype(
        {
            "names": ["counter", "time_us", "channels", "crc"],
            "formats": ["<u4", "<u8", ("<f4", (channels,)), "<u4"],
            "offsets": [0, COUNTER_BYTES, COUNTER_BYTES + TIME_BYTES, size - CRC_BYTES],
            "itemsize": size,
        }
    )
    block = np.zeros(count, layout)
    numbers = np.arange(first, first + count, dtype=np.uint64)
    block["counter"] = numbers & np.uint64(0xFFFFFFFF)
    # Without a rate there is no time either; a microsecond per packet keeps it rising.
    block["time_us"] = numbers * (1e6 / config.rate_hz) if config.rate_hz else numbers
    if channels:
        waves = _waves(config.seed, channels)
        block["channels"] = waves[(numbers % np.uint64(len(waves))).astype(np.intp)]
    raw, body, crc32 = memoryview(block.view(np.uint8).data), size - CRC_BYTES, zlib.crc32
    block["crc"] = [crc32(raw[at : at + body]) for at in range(0, count * size, size)]
    return block.tobytes()


def channel_count(packet_size: int) -> int:
    """Return the number of float32 channels that fit into a packet: 24 in 112 bytes."""
    return (packet_size - MIN_PACKET_BYTES) // 4


@lru_cache(maxsize=8)
def _waves(seed: int, channels: int) -> npt.NDArray[np.float32]:
    """Return one period of every channel: a sine with a whole number of waves, plus noise."""
    rows = _MAX_TABLE_ROWS
    while rows > 8 and rows * channels * 4 > _TABLE_BYTES:
        rows //= 2
    random = np.random.default_rng([seed, 0x57415645])
    turns = np.arange(rows, dtype=np.float64)[:, None] / rows
    waves = np.sin(2 * np.pi * (turns * (1 + np.arange(channels) % 32) * 8 + random.random(channels)))
    noise = random.standard_normal((rows, channels)) * 0.01
    return (waves + noise).astype("<f4")

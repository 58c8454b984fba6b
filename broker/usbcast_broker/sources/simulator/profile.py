"""The profile that fits a simulated device: what a user would write for it."""

from __future__ import annotations

from usbcast_broker.sources.simulator.config import (
    COUNTER_BYTES,
    CRC_BYTES,
    MIN_PACKET_BYTES,
    TIME_BYTES,
    SimulatorConfig,
)
from usbcast_schemas.profile import Profile, parse_profile

MAX_CHECKED_BYTES = 16384
"""A profile allows no checksum over larger packets that nothing marks the start of."""
MAX_NAMED_CHANNELS = 4093
"""With the other three fields this is the number of values that a profile allows; further channels have no names."""


def profile_of(config: SimulatorConfig, stream: str) -> Profile:
    """The profile of a device that sends its packets as they are; `stream` is the name of the stream."""
    size = config.packet_size
    channels = min((size - MIN_PACKET_BYTES) // 4, MAX_NAMED_CHANNELS)
    checksum = f'checksum = {{ method = "crc32", offset = {size - CRC_BYTES} }}' if size <= MAX_CHECKED_BYTES else ""
    text = f"""\
# A simulated device: {size} bytes, {config.rate_hz:g} packets a second.

[stream]
name = "{stream}"
rate_hz = {config.rate_hz:g}

[device]
vendor_id = {config.vendor_id:#06x}
product_id = {config.product_id:#06x}
serial = "{config.serial}"
endpoint = 0x81

[framing]
method = "fixed"
size = {size}
{checksum}

[counter]
offset = 0
width = {COUNTER_BYTES}

[[fields]]
name = "counter"
type = "u32"
offset = 0

[[fields]]
name = "device_time"
type = "u64"
offset = {COUNTER_BYTES}
unit = "µs"
"""
    if channels:
        text += f"""
[[fields]]
name = "ch"
count = {channels}
type = "f32"
offset = {COUNTER_BYTES + TIME_BYTES}
"""
    text += f"""
[[fields]]
name = "crc"
type = "u32"
offset = {size - CRC_BYTES}
"""
    return parse_profile(text, f"the simulated device of stream {stream}")

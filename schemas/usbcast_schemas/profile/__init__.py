"""Device profiles: how to find, open, start, frame and decode a device, written in TOML; see docs/profiles.md.

Only the broker and the command line import this package: it needs pydantic, which a subscriber need not have.

Pure: no socket, thread or clock.
"""

from usbcast_schemas.profile.loading import MAX_PROFILE_BYTES, load_profile, parse_profile
from usbcast_schemas.profile.model import (
    CHECKSUM_WIDTHS,
    MAX_PACKET_BYTES,
    ByteOrder,
    Checksum,
    CobsFraming,
    ControlRequest,
    Counter,
    DelimiterFraming,
    DeviceMatch,
    FieldSpec,
    FixedFraming,
    Framing,
    LengthFraming,
    Profile,
    SyncFraming,
    TransferSettings,
)

__all__ = [
    "CHECKSUM_WIDTHS",
    "MAX_PACKET_BYTES",
    "MAX_PROFILE_BYTES",
    "ByteOrder",
    "Checksum",
    "CobsFraming",
    "ControlRequest",
    "Counter",
    "DelimiterFraming",
    "DeviceMatch",
    "FieldSpec",
    "FixedFraming",
    "Framing",
    "LengthFraming",
    "Profile",
    "SyncFraming",
    "TransferSettings",
    "load_profile",
    "parse_profile",
]

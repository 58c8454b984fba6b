"""The values that flow through a node, from a USB read to a batch.

Nothing here has a clock, a socket or a thread; times are handed in by the edge that saw them. None of it is changed once
it is made; what is made for every transfer is not frozen all the same, because freezing trebles the cost of making one.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbcast_schemas.engine.protocols import Transfer
from usbcast_schemas.v1 import usbcast_pb2 as pb


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Which device it is, as far as its descriptors say."""

    vendor_id: int
    product_id: int
    serial: str = ""
    manufacturer: str = ""
    product: str = ""
    bus_path: str = ""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """An event of the device between two transfers; it becomes a `pb.DeviceEvent` at this place in the stream."""

    kind: pb.DeviceEvent.Kind
    realtime_ns: int
    monotonic_ns: int
    detail: str = ""
    device: DeviceIdentity | None = None
    clock_step_ns: int = 0


@dataclass(slots=True)
class Packets:
    """Consecutive whole packets, back to back."""

    payload: bytes | memoryview
    count: int
    packet_size: int
    """Bytes per packet; 0 when they vary, and `ends` says where each one ends."""
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Discarded:
    """Bytes that were no packet, at this place between packets."""

    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Packets (or, where only that is known, bytes) that will never come, at this place in the stream."""

    stage: pb.Stage
    reason: str
    packets: int = 0
    size_bytes: int = 0
    at_least: bool = False


@dataclass(slots=True)
class Framed:
    """A framer's result for the bytes handed to it, in order."""

    items: tuple[Packets | Discarded, ...] = ()
    overhead_bytes: int = 0
    """Bytes taken off on purpose: headers, delimiters, stuffing."""
    packet_bytes: int = 0
    """Bytes that stand in `items` as packets."""


EMPTY = Framed()

HostItem = Transfer | DeviceEvent | Lost
StreamItem = Packets | DeviceEvent | Lost

__all__ = [
    "EMPTY",
    "DeviceEvent",
    "DeviceIdentity",
    "Discarded",
    "Framed",
    "HostItem",
    "Lost",
    "Packets",
    "StreamItem",
    "Transfer",
]

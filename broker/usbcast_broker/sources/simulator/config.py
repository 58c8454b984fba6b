"""Configuration of a simulated device: every option, its default and its allowed values.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from usbcast_broker.sources.simulator.faults import Fault
from usbcast_schemas.errors import ConfigError

COUNTER_BYTES: Final = 4
TIME_BYTES: Final = 8
CRC_BYTES: Final = 4
MIN_PACKET_BYTES: Final = COUNTER_BYTES + TIME_BYTES + CRC_BYTES
MAX_PACKET_BYTES: Final = 1 << 20
MAX_RATE_HZ: Final = 1e7
COLLECTING_LATENCY_S: Final = 0.001
"""Above `SINGLE_RATE_HZ` a device that sent each packet as a transfer of its own would outrun any host."""
SINGLE_RATE_HZ: Final = 1000.0
IDLE_STATUS_S: Final = 0.016
"""Interval of the status bytes that an FTDI chip sends without data: the default of its latency timer (AN232B-04)."""


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """Options of a simulated device. Raises ConfigError, which names the option, its value and what is allowed.

    By default it is the first case: a packet of 112 bytes every 10 ms.
    """

    rate_hz: float = 100.0
    """Packets a second; 0: as fast as it is read."""
    packet_size: int = 112
    packets: int | None = None
    """Number of packets that the device sends; None for no end."""
    seed: int = 0
    vendor_id: int = 0x1209
    product_id: int = 0x0001
    serial: str = "SIM0001"
    manufacturer: str = "usbcast"
    product: str = "simulated device"
    max_packet_size: int = 512
    interrupt: bool = False
    """Its IN endpoint is of the interrupt type instead of bulk."""
    transfer_size: int | None = None
    """Bytes after which it ends a transfer; None: after each packet, or after `latency` if it collects."""
    latency_s: float | None = None
    """Time for which it collects before it ends a transfer that is not full; None: up to 1000 packets/s, and with a
    `transfer_size`, it does not end one for that reason, else after 1 ms."""
    jitter_s: float = 0.0
    """Largest random delay of a packet; packets stay in order."""
    fifo_bytes: int = 1 << 20
    """Bytes that it stores while nobody reads; beyond that it drops the oldest packets."""
    status_prefix: bytes = b""
    """Bytes before every USB packet, like the two status bytes of an FTDI chip; also sent alone while idle."""
    faults: tuple[Fault, ...] = ()
    encode: Callable[[bytes], bytes] | None = None
    """Puts each packet into the form in which it is sent, such as COBS."""

    def __post_init__(self) -> None:
        def check(allowed: bool, key: str, what: str) -> None:
            if not allowed:
                raise ConfigError(f"simulator: {key} is {getattr(self, key)!r}; {what} is allowed")

        check(0 <= self.rate_hz <= MAX_RATE_HZ, "rate_hz", f"a number from 0 to {MAX_RATE_HZ:.0f}")
        sizes = f"a whole number from {MIN_PACKET_BYTES} to {MAX_PACKET_BYTES}"
        check(MIN_PACKET_BYTES <= self.packet_size <= MAX_PACKET_BYTES, "packet_size", sizes)
        check(self.packets is None or self.packets >= 1, "packets", "a whole number from 1, or none,")
        check(self.seed >= 0, "seed", "a whole number from 0")
        for key in ("vendor_id", "product_id"):
            check(0 <= getattr(self, key) <= 0xFFFF, key, "a number from 0x0000 to 0xffff")
        for key in ("serial", "manufacturer", "product"):
            check(len(getattr(self, key)) <= 126, key, "a text of up to 126 characters")
        check(1 <= self.max_packet_size <= 1024, "max_packet_size", "a whole number from 1 to 1024")
        check(self.transfer_size is None or 1 <= self.transfer_size <= 1 << 24, "transfer_size", "1 to 16777216")
        check(self.latency_s is None or 0 <= self.latency_s <= 10, "latency_s", "a number from 0 to 10")
        check(math.isfinite(self.jitter_s) and 0 <= self.jitter_s <= 10, "jitter_s", "a number from 0 to 10")
        least = self.packet_size + (self.transfer_size or 0)
        check(self.fifo_bytes >= least, "fifo_bytes", f"at least a packet and a transfer, {least} bytes,")
        check(len(self.status_prefix) < self.max_packet_size, "status_prefix", "fewer bytes than max_packet_size")

    @property
    def latency_ns(self) -> int:
        if self.latency_s is not None:
            return round(self.latency_s * 1e9)
        return 0 if self.rate_hz <= SINGLE_RATE_HZ or self.transfer_size else round(COLLECTING_LATENCY_S * 1e9)

    @property
    def one_packet_per_transfer(self) -> bool:
        return self.transfer_size is None and self.latency_ns == 0 and self.rate_hz > 0

    @property
    def fifo_packets(self) -> int:
        return self.fifo_bytes // self.packet_size

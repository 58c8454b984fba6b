"""What a simulated device answers on its control endpoint, and what it does with data sent to it."""

from __future__ import annotations

import struct
from typing import Final

from usbcast_broker.simulator.config import SimulatorConfig
from usbcast_broker.simulator.descriptors import ENDPOINT_IN, string_descriptor

REGISTER_BYTES: Final = 4096
VENDOR_OUT, VENDOR_IN = 0x40, 0xC0
REQUEST_REGISTERS: Final = 0x01
"""Vendor request: write to, or read from, the registers at the offset in wIndex."""
REQUEST_OUT_BYTES: Final = 0x02
"""Vendor request: read how many bytes came in on the OUT endpoint, as a u64."""

# bRequest: USB 2.0 specification, table 9-4.
_GET_STATUS, _GET_DESCRIPTOR, _GET_CONFIGURATION, _GET_INTERFACE = 0, 6, 8, 10
_STRING_TYPE: Final = 3
_DEVICE_IN, _INTERFACE_IN, _ENDPOINT_IN = 0x80, 0x81, 0x82


class ControlPipe:
    """Registers that can be written and read back; everything else is refused, as a device does, by a stall."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self.registers = bytearray(REGISTER_BYTES)
        self.out_bytes = 0

    def read(
        self, request_type: int, request: int, value: int, index: int, length: int, *, halted: bool
    ) -> bytes | None:
        """The answer to a request that reads, or None if there is no such request."""
        answer: bytes | None = None
        match request_type, request:
            case (0x80, 6) if value >> 8 == _STRING_TYPE:
                answer = string_descriptor(self._config, value & 0xFF)
            case (0x80 | 0x81, 0):
                answer = b"\0\0"
            case (0x82, 0):
                answer = struct.pack("<H", halted and index == ENDPOINT_IN)
            case (0x80, 8):
                answer = b"\x01"
            case (0x81, 10):
                answer = b"\0"
            case (0xC0, 1) if index + length <= REGISTER_BYTES:
                answer = bytes(self.registers[index : index + length])
            case (0xC0, 2):
                answer = struct.pack("<Q", self.out_bytes)
        return None if answer is None else answer[:length]

    def write(self, request_type: int, request: int, index: int, data: bytes) -> bool:
        """Take a request that writes; False if there is no such request."""
        if (request_type, request) != (VENDOR_OUT, REQUEST_REGISTERS) or index + len(data) > REGISTER_BYTES:
            return False
        self.registers[index : index + len(data)] = data
        return True

    def take(self, data: bytes) -> None:
        """Data on the OUT endpoint: counted, and its first bytes kept in the registers from offset 0 on."""
        self.out_bytes += len(data)
        kept = data[:REGISTER_BYTES]
        self.registers[: len(kept)] = kept

"""Control endpoint of a simulated device: its answers, and the effect of data sent to it."""

from __future__ import annotations

import struct
from typing import Final

from usbcast_broker.sources.simulator.config import SimulatorConfig
from usbcast_broker.sources.simulator.descriptors import CONFIGURATION_VALUE, ENDPOINT_IN, string_descriptor

REGISTER_BYTES: Final = 4096

# Standard requests, with the recipient in the low bits of bmRequestType: USB 2.0 specification, table 9-4.
_DEVICE, _INTERFACE, _ENDPOINT = 0x80, 0x81, 0x82
_GET_STATUS, _GET_DESCRIPTOR, _GET_CONFIGURATION, _GET_INTERFACE = 0, 6, 8, 10
_STRING_TYPE: Final = 3

VENDOR_WRITE: Final = 0x40
VENDOR_READ: Final = 0xC0
REGISTERS: Final = 1
OUT_COUNT: Final = 2


class ControlPipe:
    """Answers the standard requests, and two vendor requests.

    Request `REGISTERS` writes to, and reads from, the registers at the offset in wIndex; `OUT_COUNT` reads, as a u64,
    how many bytes came in on the OUT endpoint. Everything else is refused.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self.registers = bytearray(REGISTER_BYTES)
        self.out_bytes = 0

    def read(
        self, request_type: int, request: int, value: int, index: int, length: int, *, halted: bool
    ) -> bytes | None:
        """Return the answer to a request that reads; None if there is no such request."""
        setup = (request_type, request)
        answer: bytes | None = None
        if setup == (_DEVICE, _GET_DESCRIPTOR) and value >> 8 == _STRING_TYPE:
            answer = string_descriptor(self._config, value & 0xFF)
        elif setup in ((_DEVICE, _GET_STATUS), (_INTERFACE, _GET_STATUS)):
            answer = b"\0\0"
        elif setup == (_ENDPOINT, _GET_STATUS):
            answer = struct.pack("<H", halted and index == ENDPOINT_IN)
        elif setup == (_DEVICE, _GET_CONFIGURATION):
            answer = bytes((CONFIGURATION_VALUE,))
        elif setup == (_INTERFACE, _GET_INTERFACE):
            answer = b"\0"
        elif setup == (VENDOR_READ, REGISTERS) and index + length <= REGISTER_BYTES:
            answer = bytes(self.registers[index : index + length])
        elif setup == (VENDOR_READ, OUT_COUNT):
            answer = struct.pack("<Q", self.out_bytes)
        return None if answer is None else answer[:length]

    def write(self, request_type: int, request: int, index: int, data: bytes) -> bool:
        """Take a request that writes; False if there is no such request."""
        if (request_type, request) != (VENDOR_WRITE, REGISTERS) or index + len(data) > REGISTER_BYTES:
            return False
        self.registers[index : index + len(data)] = data
        return True

    def take(self, data: bytes) -> None:
        """Data on the OUT endpoint: counted, and its first bytes kept in the registers from offset 0 on."""
        self.out_bytes += len(data)
        kept = data[:REGISTER_BYTES]
        self.registers[: len(kept)] = kept

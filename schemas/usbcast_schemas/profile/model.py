"""The shape of a profile: its tables, their keys, and the values that each key allows on its own.

What the keys must be to one another is checked in `contradictions`.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_PACKET_BYTES: Final = 1 << 20
MAX_QUEUED_BYTES: Final = 8 << 20
"""Half of what Linux grants all USB devices of a machine together, unless it is configured otherwise (usbfs_memory_mb)."""

ByteOrder = Literal["little", "big"]

ChecksumMethod = Literal[
    "crc32",
    "crc32c",
    "crc32-bzip2",
    "crc32-mpeg2",
    "crc16-arc",
    "crc16-ccitt-false",
    "crc16-dnp",
    "crc16-kermit",
    "crc16-maxim",
    "crc16-modbus",
    "crc16-usb",
    "crc16-x25",
    "crc16-xmodem",
    "crc8",
    "crc8-maxim",
    "xor8",
    "sum8",
    "sum16",
]

CHECKSUM_WIDTHS: Final[dict[str, int]] = {
    "crc32": 4,
    "crc32c": 4,
    "crc32-bzip2": 4,
    "crc32-mpeg2": 4,
    "crc16-arc": 2,
    "crc16-ccitt-false": 2,
    "crc16-dnp": 2,
    "crc16-kermit": 2,
    "crc16-maxim": 2,
    "crc16-modbus": 2,
    "crc16-usb": 2,
    "crc16-x25": 2,
    "crc16-xmodem": 2,
    "crc8": 1,
    "crc8-maxim": 1,
    "xor8": 1,
    "sum8": 1,
    "sum16": 2,
}

FieldType = Literal["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"]


def _from_hex(value: Any) -> Any:
    return bytes.fromhex(value) if isinstance(value, str) else value


HexBytes = Annotated[bytes, BeforeValidator(_from_hex)]


class _Table(BaseModel):
    # Strict: TOML has types of its own, and a "1" where a 1 belongs is a mistake to be told, not to be guessed at.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamSettings(_Table):
    """The stream's name, and the device's nominal rate in packets per second."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="a name of 1 to 64 of a-z, 0-9, _ and -, that begins with a letter or a digit",
    )
    rate_hz: float = Field(default=0.0, ge=0, le=1_000_000_000)


class DeviceMatch(_Table):
    """Which device it is, and which of its endpoints to read."""

    vendor_id: int = Field(ge=0, le=0xFFFF, description="a number from 0x0000 to 0xffff")
    product_id: int = Field(ge=0, le=0xFFFF, description="a number from 0x0000 to 0xffff")
    serial: str | None = Field(default=None, min_length=1, max_length=126, description="a text of 1 to 126 characters")
    bus_path: str | None = Field(
        default=None, pattern=r"^[0-9]+-[0-9]+(\.[0-9]+)*$", description='a bus and its ports, such as "1-4.2",'
    )
    product: str | None = Field(default=None, min_length=1, max_length=126, description="a text of 1 to 126 characters")
    strict: bool = False
    configuration: int | None = Field(default=None, ge=1, le=255)
    interface: int = Field(default=0, ge=0, le=255)
    alternate: int = Field(default=0, ge=0, le=255)
    endpoint: int = Field(default=0x81, ge=0x81, le=0x8F, description="an IN endpoint, from 0x81 to 0x8f,")


class TransferSettings(_Table):
    """Reading of the endpoint, and the bytes to strip from the head of each transfer."""

    size: int = Field(default=16384, ge=1, le=1 << 20)
    queue: int = Field(default=8, ge=1, le=64)
    timeout_ms: int = Field(default=500, ge=10, le=5000)
    latency_ms: int = Field(default=10, ge=0, le=1000)
    strip_prefix: int = Field(default=0, ge=0, le=64)
    strip_every: int = Field(default=0, ge=0, le=65536)


class ControlRequest(_Table):
    """A control transfer. With bit 7 of `request_type` set it reads `length` bytes, otherwise it writes `data`."""

    request_type: int = Field(ge=0, le=0xFF, description="a number from 0x00 to 0xff")
    request: int = Field(ge=0, le=0xFF, description="a number from 0x00 to 0xff")
    value: int = Field(default=0, ge=0, le=0xFFFF, description="a number from 0x0000 to 0xffff")
    index: int = Field(default=0, ge=0, le=0xFFFF, description="a number from 0x0000 to 0xffff")
    data: HexBytes = Field(default=b"", max_length=4096, description='up to 4096 bytes in hex, such as "00ff",')
    length: int = Field(default=0, ge=0, le=4096)


class Checksum(_Table):
    """A packet's checksum. It covers `start` up to itself or, if it is placed before `start`, up to the end."""

    method: ChecksumMethod
    start: int = Field(default=0, alias="from", ge=0, le=MAX_PACKET_BYTES - 1)
    offset: int | None = Field(default=None, ge=-MAX_PACKET_BYTES, le=MAX_PACKET_BYTES - 1)
    byte_order: ByteOrder = "little"

    @property
    def width(self) -> int:
        """Bytes that it takes in the packet."""
        return CHECKSUM_WIDTHS[self.method]

    def position(self, packet_size: int) -> int:
        """Return its offset in a packet of this size; outside [0, packet_size - width] the packet has no room for it."""
        offset = -self.width if self.offset is None else self.offset
        return offset if offset >= 0 else packet_size + offset

    @property
    def precedes(self) -> bool:
        """True if it is placed before the bytes that it covers."""
        return self.offset is not None and self.offset >= 0 and self.offset + self.width <= self.start

    @property
    def smallest_packet(self) -> int:
        """Bytes of the smallest packet that has room for it and for one byte that it covers."""
        if self.precedes:
            return self.start + 1
        if self.offset is not None and self.offset >= 0:
            return self.offset + self.width
        return self.start + 1 + (self.width if self.offset is None else -self.offset)


class FixedFraming(_Table):
    """Packets of one size, back to back."""

    method: Literal["fixed"]
    size: int = Field(ge=1, le=MAX_PACKET_BYTES)
    checksum: Checksum | None = None

    @property
    def packet_size(self) -> int:
        return self.size


class LengthFraming(_Table):
    """Packets that say how long they are: the number at `length_offset`, plus `length_adjust`, is the whole size."""

    method: Literal["length"]
    length_offset: int = Field(ge=0, le=4096)
    length_width: Literal[1, 2, 4]
    length_adjust: int = Field(default=0, ge=-MAX_PACKET_BYTES, le=MAX_PACKET_BYTES)
    byte_order: ByteOrder = "little"
    max_size: int = Field(default=65536, ge=1, le=MAX_PACKET_BYTES)
    checksum: Checksum | None = None

    @property
    def packet_size(self) -> int:
        return 0


class DelimiterFraming(_Table):
    """Packets that end in a pattern which does not occur inside them."""

    method: Literal["delimiter"]
    delimiter: HexBytes = Field(min_length=1, max_length=16, description='1 to 16 bytes in hex, such as "0d0a",')
    keep: bool = False
    size: int | None = Field(default=None, ge=1, le=MAX_PACKET_BYTES)
    max_size: int = Field(default=65536, ge=1, le=MAX_PACKET_BYTES)
    checksum: Checksum | None = None

    @property
    def packet_size(self) -> int:
        return self.size or 0


class CobsFraming(_Table):
    """Packets in COBS (Cheshire and Baker, 1999), each ended by a zero byte. Sizes are those of the decoded packet."""

    method: Literal["cobs"]
    size: int | None = Field(default=None, ge=1, le=MAX_PACKET_BYTES)
    max_size: int = Field(default=65536, ge=1, le=MAX_PACKET_BYTES)
    checksum: Checksum | None = None

    @property
    def packet_size(self) -> int:
        return self.size or 0


class SyncFraming(_Table):
    """Packets that begin with a pattern, and are of one size or say how long they are."""

    method: Literal["sync"]
    sync: HexBytes = Field(min_length=1, max_length=16, description='1 to 16 bytes in hex, such as "aa55",')
    size: int | None = Field(default=None, ge=1, le=MAX_PACKET_BYTES)
    length_offset: int | None = Field(default=None, ge=0, le=4096)
    length_width: Literal[1, 2, 4] | None = None
    length_adjust: int = Field(default=0, ge=-MAX_PACKET_BYTES, le=MAX_PACKET_BYTES)
    byte_order: ByteOrder = "little"
    max_size: int = Field(default=65536, ge=1, le=MAX_PACKET_BYTES)
    checksum: Checksum | None = None

    @property
    def packet_size(self) -> int:
        return self.size or 0


Framing = FixedFraming | LengthFraming | DelimiterFraming | CobsFraming | SyncFraming


class Counter(_Table):
    """The device's own packet counter, inside each packet."""

    offset: int = Field(default=0, ge=0, le=MAX_PACKET_BYTES - 1)
    width: Literal[1, 2, 4, 8] = 4
    byte_order: ByteOrder = "little"
    wrap: int | None = Field(default=None, ge=2, le=1 << 64)

    @property
    def modulus(self) -> int:
        """The counter's values are 0 to modulus - 1."""
        return self.wrap or 1 << (8 * self.width)


class FieldSpec(_Table):
    """A value inside a packet, or `count` of them one after the other: physical value = raw * scale + zero."""

    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$",
        description="a name of 1 to 64 of A-Z, a-z, 0-9 and _, that does not begin with a digit",
    )
    type: FieldType
    offset: int = Field(ge=0, le=MAX_PACKET_BYTES - 1)
    count: int | None = Field(default=None, ge=1, le=4096)
    byte_order: ByteOrder = "little"
    unit: str = Field(default="", max_length=32, description="a text of up to 32 characters")
    scale: float = Field(default=1.0, allow_inf_nan=False)
    zero: float = Field(default=0.0, allow_inf_nan=False)

    @property
    def width(self) -> int:
        """Bytes of one value."""
        return int(self.type[1:]) // 8

    @property
    def end(self) -> int:
        """Offset behind the last byte of all `count` values."""
        return self.offset + self.width * (self.count or 1)

    def expanded(self) -> tuple[FieldSpec, ...]:
        """Return the single values name0, name1, … if there is a `count`; else this field."""
        if self.count is None:
            return (self,)
        return tuple(
            self.model_copy(update={"name": f"{self.name}{i}", "count": None, "offset": self.offset + i * self.width})
            for i in range(self.count)
        )

    def to_proto(self) -> pb.Field:
        return pb.Field(
            name=self.name,
            type=self.type,
            offset=self.offset,
            big_endian=self.byte_order == "big",
            unit=self.unit,
            scale=self.scale,
            zero=self.zero,
        )


class Profile(_Table):
    """A device profile that has been checked. Make one with `parse_profile` or `load_profile`."""

    stream: StreamSettings
    device: DeviceMatch
    transfer: TransferSettings = TransferSettings()
    startup: tuple[ControlRequest, ...] = Field(default=(), strict=False, max_length=256)
    shutdown: tuple[ControlRequest, ...] = Field(default=(), strict=False, max_length=256)
    framing: Framing = Field(discriminator="method")
    counter: Counter | None = None
    fields: tuple[FieldSpec, ...] = Field(default=(), strict=False, max_length=4096)

    _toml: str = PrivateAttr(default="")

    def model_post_init(self, context: Any, /) -> None:
        self._toml = context["toml"]

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.stream.name

    @property
    def toml(self) -> str:
        """The text that this was read from."""
        return self._toml

    @property
    def packet_size(self) -> int:
        """Bytes of every packet; 0 when they vary."""
        return self.framing.packet_size

    @property
    def largest_packet(self) -> int:
        """Bytes that a packet can have at the most."""
        return self.packet_size or (0 if isinstance(self.framing, FixedFraming) else self.framing.max_size)

    def expanded_fields(self) -> tuple[FieldSpec, ...]:
        """Every single value of a packet, those of a field with a `count` as name0, name1, …"""
        return tuple(one for spec in self.fields for one in spec.expanded())

    def to_field_protos(self) -> list[pb.Field]:
        """The layout as StreamInfo carries it."""
        return [one.to_proto() for one in self.expanded_fields()]

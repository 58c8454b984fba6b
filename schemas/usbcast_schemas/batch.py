"""The bytes of a PacketBatch: written once with a few struct calls and one join, read in place.

The layout is fixed by field order (docs/wire.md). What was written here equals what the protobuf library writes, and what
has another layout, say from another implementation, is read by the library.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from struct import Struct, unpack_from
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from usbcast_schemas import engine
from usbcast_schemas.contract import CONTRACT, MAJOR, check_contract
from usbcast_schemas.errors import WireError
from usbcast_schemas.parsing import parse, read_varint
from usbcast_schemas.v1 import usbcast_pb2 as pb

if TYPE_CHECKING:
    from usbcast_schemas._native import Maker

Buffer = bytes | memoryview

# contract, packet_count, epoch, number, first_sequence, packet_size, each behind its tag
_HEAD = Struct("<BIBIBQBQBQBI")
_TAGS = (0x0D, 0x15, 0x19, 0x21, 0x29, 0x35)
_ONE_ARRIVAL = Struct("<BBIBBqBBq")
_PLAIN_BYTES = _HEAD.size + _ONE_ARRIVAL.size + 2
"""No plain batch has fewer."""

_ENDS, _COUNTS, _REALTIMES, _MONOTONICS, _LOSS, _EVENT, _END = 0x3A, 0x42, 0x4A, 0x52, 0x5A, 0x62, 0x6A
_HOLE, _PAYLOAD = 0x72, 0x7A
_AMOUNTS, _REMARKS = "packets or arrivals", "losses and events"

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""No batch is larger: `decode_batch`, which everything from outside goes through, refuses one that is."""

MAX_PACKETS = 65_536
"""Packets of a batch, and USB transfers that they arrived in."""

MAX_REMARKS = 1_000
"""Losses and events of a batch together."""

MAX_HOLES = 1_000
"""Where there are more, those behind are told as one."""

MAX_COUNT = 2**64 - 1
"""The largest sequence and the largest number that may come next: both are sent as 64 bits."""


engine.agree(
    **{
        f"TAG_{name}": tag
        for name, tag in zip(("CONTRACT", "COUNT", "EPOCH", "NUMBER", "FIRST", "SIZE"), _TAGS, strict=True)
    },
    TAG_COUNTS=_COUNTS,
    TAG_REALTIMES=_REALTIMES,
    TAG_MONOTONICS=_MONOTONICS,
    TAG_PAYLOAD=_PAYLOAD,
    MAX_PACKETS=MAX_PACKETS,
)


class Arrivals(NamedTuple):
    """When the packets of a batch arrived, per USB transfer. Three columns of equal length."""

    packets: Sequence[int] = ()
    realtime_ns: Sequence[int] = ()
    monotonic_ns: Sequence[int] = ()


NO_ARRIVALS = Arrivals()


@dataclass(slots=True)
class EncodedBatch:
    """A decoded header over bytes that stay as they came. Not frozen: that would double the cost of making one."""

    raw: Buffer
    epoch: int
    number: int
    first_sequence: int
    packet_count: int
    packet_size: int
    packet_ends: Sequence[int]
    arrivals: Arrivals
    losses: Sequence[pb.Loss]
    events: Sequence[pb.DeviceEvent]
    end: pb.StreamEnd | None
    payload: memoryview
    holes: Sequence[pb.LostRange] = ()

    @property
    def intact(self) -> bool:
        """Whether the bytes are still what they were; always, unless they are another's memory (`usbcast_schemas.ring`)."""
        return True

    @property
    def first_number(self) -> int:
        """The first of the batch numbers that this batch stands for: those that its holes swallowed, and its own."""
        return self.number - sum(hole.batches for hole in self.holes) if self.holes else self.number

    @property
    def end_sequence(self) -> int:
        """One past the last packet."""
        return self.first_sequence + self.packet_count


_Batch = TypeVar("_Batch", bound=EncodedBatch)

GIVEN = ("raw", "epoch", "number", "first_sequence", "packet_count", "packet_size", "arrivals", "payload")
"""The attributes for which the native core has values in a plain batch, in the order in which it gives them."""

_PLAIN = {"packet_ends": (), "losses": (), "events": (), "end": None}
"""The others, and what they are in a plain batch."""


def native_maker(kind: type[_Batch], given: tuple[str, ...] = GIVEN, **others: object) -> Maker[_Batch]:
    """Return what makes plain batches of class `kind` for the native core, which has to be there.

    The core does not call `__init__`, which would take longer than all else that it does for a batch. It sets each field of the
    dataclass instead, as it is listed here: to a value of its own if it is `given`, else to what `others` say or to the
    field's default. A new field needs a default and no change in C.
    """
    assert engine.native is not None
    values = _PLAIN | others
    for one in fields(kind):
        if one.name not in given and one.name not in values:
            if one.default is MISSING:
                raise TypeError(f"{kind.__name__}.{one.name} needs a default, which all plain batches can share")
            values[one.name] = one.default
    return engine.native.Maker(kind, given, values)


MAKER = engine.chosen(None, lambda _: native_maker(EncodedBatch))
"""What makes plain batches for the native core; None without it."""


def encode_batch(
    *,
    epoch: int,
    number: int,
    first_sequence: int,
    packet_count: int,
    packet_size: int,
    payload: Sequence[Buffer],
    packet_ends: Sequence[int] = (),
    arrivals: Arrivals = NO_ARRIVALS,
    losses: Sequence[pb.Loss] = (),
    events: Sequence[pb.DeviceEvent] = (),
    end: pb.StreamEnd | None = None,
    holes: Sequence[pb.LostRange] = (),
) -> bytes:
    """Write a PacketBatch. `payload` is the packets' bytes in as many pieces as they come in."""
    return b"".join(
        encode_parts(
            epoch=epoch, number=number, first_sequence=first_sequence, packet_count=packet_count,
            packet_size=packet_size, payload=payload, packet_ends=packet_ends, arrivals=arrivals,
            losses=losses, events=events, end=end, holes=holes,
        )
    )  # fmt: skip


def encode_parts(
    *,
    epoch: int,
    number: int,
    first_sequence: int,
    packet_count: int,
    packet_size: int,
    payload: Sequence[Buffer],
    packet_ends: Sequence[int] = (),
    arrivals: Arrivals = NO_ARRIVALS,
    losses: Sequence[pb.Loss] = (),
    events: Sequence[pb.DeviceEvent] = (),
    end: pb.StreamEnd | None = None,
    holes: Sequence[pb.LostRange] = (),
) -> list[Buffer]:
    """As `encode_batch`, not joined: what stands before the payload, then the pieces of the payload as they were given."""
    t = _TAGS
    parts: list[Buffer] = [
        _HEAD.pack(
            t[0], CONTRACT, t[1], packet_count, t[2], epoch, t[3], number, t[4], first_sequence, t[5], packet_size
        )
    ]
    if packet_ends:
        parts.append(_column(_ENDS, "I", 4, packet_ends))
    if len(arrivals.packets) == 1:
        parts.append(
            _ONE_ARRIVAL.pack(
                _COUNTS, 4, arrivals.packets[0],
                _REALTIMES, 8, arrivals.realtime_ns[0],
                _MONOTONICS, 8, arrivals.monotonic_ns[0],
            )
        )  # fmt: skip
    elif arrivals.packets:
        parts.append(_column(_COUNTS, "I", 4, arrivals.packets))
        parts.append(_column(_REALTIMES, "q", 8, arrivals.realtime_ns))
        parts.append(_column(_MONOTONICS, "q", 8, arrivals.monotonic_ns))
    if losses or events or end is not None or holes:
        ended = () if end is None else (end,)
        for tag, messages in ((_LOSS, losses), (_EVENT, events), (_END, ended), (_HOLE, _bounded(holes))):
            for message in messages:
                body = message.SerializeToString(deterministic=True)
                parts.append(bytes((tag,)) + _varint(len(body)) + body)
    parts.append(_payload_head(sum(map(len, payload))))
    parts += payload
    return parts


def _bounded(holes: Sequence[pb.LostRange]) -> Sequence[pb.LostRange]:
    """`holes`; where they are more than a batch may have, the last ones joined to one."""
    if len(holes) <= MAX_HOLES:
        return holes
    joined = pb.LostRange()
    joined.CopyFrom(holes[MAX_HOLES - 1])
    rest, last = holes[MAX_HOLES - 1 :], holes[-1]
    joined.count = last.first_sequence + last.count - joined.first_sequence
    joined.batches = sum(hole.batches for hole in rest)
    joined.on_purpose = all(hole.on_purpose for hole in rest)
    return [*holes[: MAX_HOLES - 1], joined]


JOINED_BYTES = 4096
"""Pieces that are smaller than this on average cost less to join than to copy into the ring one by one."""


class Encoded:
    """One batch, ready for ring, sockets and files. Made in parts, which only those join who need them in one piece."""

    __slots__ = ("first_sequence", "number", "packet_count", "parts", "size_bytes")

    def __init__(self, raw: Buffer, number: int, first_sequence: int, packet_count: int) -> None:
        self.parts: tuple[Buffer, ...] = (raw,)
        self.size_bytes = len(raw)
        self.number = number
        self.first_sequence = first_sequence
        self.packet_count = packet_count

    @classmethod
    def in_parts(cls, parts: tuple[Buffer, ...], number: int, first_sequence: int, packet_count: int) -> Encoded:
        """Return a batch that is given in several pieces."""
        encoded = cls(parts[0], number, first_sequence, packet_count)
        encoded.parts = parts
        encoded.size_bytes = sum(map(len, parts))
        return encoded

    @property
    def raw(self) -> Buffer:
        """The batch in one piece."""
        if len(self.parts) > 1:
            self.parts = (b"".join(self.parts),)
        return self.parts[0]


def join_if_small(parts: list[Buffer], pieces: int, payload_bytes: int) -> tuple[Buffer, ...]:
    """Join the parts of a batch, which end in so many pieces of payload: all of them if the pieces are small, else the head."""
    if payload_bytes < JOINED_BYTES * max(1, pieces):
        return (b"".join(parts),)
    return (b"".join(parts[:-pieces]), *parts[-pieces:])


def bears_remarks(raw: Buffer) -> bool:
    """Whether a batch may say something beside its packets (losses, events, the end), from its first fields alone."""
    try:
        if tuple(raw[at] for at in (0, 5, 10, 19, 28, 37)) != _TAGS:
            return True  # another layout: who decodes it will see
        at = _HEAD.size
        while (tag := raw[at]) in (_ENDS, _COUNTS, _REALTIMES, _MONOTONICS):
            length, at = read_varint(raw, at + 1)
            at += length
    except IndexError:
        return True
    return tag != _PAYLOAD


def decode_batch(raw: Buffer) -> EncodedBatch:
    """Read a PacketBatch in place; raise WireError or VersionMismatch, never anything else."""
    if len(raw) > MAX_BATCH_BYTES:
        raise WireError(f"a batch has {len(raw)} bytes: at most {MAX_BATCH_BYTES} are allowed")
    return _read_plain(raw) or _in_place(raw) or _by_library(raw)


def decode_plain(raw: Buffer) -> EncodedBatch | None:
    """Read a plain batch that has exactly the layout that `encode_batch` writes; return None for anything else.

    The bytes may be those of a ring, and change meanwhile: that leads to other figures, and never astray.
    """
    size = len(raw)
    if not _PLAIN_BYTES <= size <= MAX_BATCH_BYTES:
        return None
    t0, contract, t1, count, t2, epoch, t3, number, t4, first, t5, packet_size = _HEAD.unpack_from(raw)
    if (t0, t1, t2, t3, t4, t5) != _TAGS or contract >> 16 != MAJOR or not packet_size:
        return None
    if not 0 < count <= MAX_PACKETS or first > MAX_COUNT - count or number == MAX_COUNT:
        return None
    length = raw[_HEAD.size + 1]
    if length > 0x7F:  # a varint, of at most three bytes where there are at most MAX_PACKETS arrivals
        second = raw[_HEAD.size + 2]
        length = length & 0x7F | (second & 0x7F) << 7
        if second > 0x7F:
            length |= (raw[_HEAD.size + 3] & 0x7F) << 14
    if not 4 <= length <= 4 * count:
        return None
    columns = _arrival_columns(length // 4)
    begin = _HEAD.size + columns.size_bytes
    head = _payload_head(count * packet_size)
    payload_at = begin + len(head)
    if payload_at + count * packet_size != size or raw[begin:payload_at] != head:
        return None
    values = columns.struct.unpack_from(raw, _HEAD.size)
    realtimes_at, monotonics_at = columns.realtimes_at, columns.monotonics_at
    packets = values[1:realtimes_at]
    if (values[0], values[realtimes_at], values[monotonics_at]) != columns.heads or sum(packets) != count:
        return None
    arrivals = Arrivals(packets, values[realtimes_at + 1 : monotonics_at], values[monotonics_at + 1 :])
    payload = memoryview(raw)[payload_at:]
    return EncodedBatch(raw, epoch, number, first, count, packet_size, (), arrivals, (), (), None, payload)


def _native_plain(core: ModuleType) -> Callable[[Buffer], EncodedBatch | None]:
    decode, maker = core.decode, MAKER

    def read(raw: Buffer) -> EncodedBatch | None:
        made: EncodedBatch | None = decode(raw, MAJOR, maker, Arrivals) if type(raw) is bytes else decode_plain(raw)
        return made

    return read


_read_plain: Callable[[Buffer], EncodedBatch | None] = engine.chosen(decode_plain, _native_plain)


class _ArrivalColumns(NamedTuple):
    """The three columns of arrivals, one behind the other, each with its tag and its length before it."""

    struct: Struct
    heads: tuple[bytes, bytes, bytes]
    size_bytes: int
    realtimes_at: int
    """Where that head stands among what the struct unpacks."""
    monotonics_at: int


@lru_cache(maxsize=256)
def _arrival_columns(count: int) -> _ArrivalColumns:
    """The layout of the columns of `count` arrivals; batches under one load have few counts."""
    heads = tuple(
        bytes((tag,)) + _varint(count * width) for tag, width in ((_COUNTS, 4), (_REALTIMES, 8), (_MONOTONICS, 8))
    )
    codes = zip(map(len, heads), "Iqq", strict=True)
    struct = Struct("<" + "".join(f"{head}s{count}{code}" for head, code in codes))
    return _ArrivalColumns(struct, (heads[0], heads[1], heads[2]), struct.size, count + 1, 2 * count + 2)


def _in_place(raw: Buffer) -> EncodedBatch | None:
    """The batch, if it has exactly the layout that `encode_batch` writes; else None."""
    size = len(raw)
    if size < _HEAD.size + 2:
        return None
    t0, contract, t1, count, t2, epoch, t3, number, t4, first, t5, packet_size = _HEAD.unpack_from(raw)
    if (t0, t1, t2, t3, t4, t5) != _TAGS:
        return None
    if contract >> 16 != MAJOR:
        check_contract(contract, "a batch")
    at = _HEAD.size
    arrivals = NO_ARRIVALS
    if size >= at + _ONE_ARRIVAL.size:
        c, c_len, packets, r, r_len, realtime, m, m_len, monotonic = _ONE_ARRIVAL.unpack_from(raw, at)
        if (c, c_len, r, r_len, m, m_len) == (_COUNTS, 4, _REALTIMES, 8, _MONOTONICS, 8):
            arrivals = Arrivals((packets,), (realtime,), (monotonic,))
            at += _ONE_ARRIVAL.size
    rest = _Rest(arrivals)
    try:
        begin = _walk(raw, at, rest)
    except (IndexError, DecodeError):
        return None
    if begin is None:
        return None
    payload = memoryview(raw)[begin:]
    return _checked(
        EncodedBatch(
            raw, epoch, number, first, count, packet_size, rest.ends, rest.arrivals,
            tuple(rest.losses), tuple(rest.events), rest.end, payload, tuple(rest.holes),
        )
    )  # fmt: skip


@dataclass(slots=True)
class _Rest:
    """What may stand between the head and the payload."""

    arrivals: Arrivals = NO_ARRIVALS
    ends: Sequence[int] = ()
    losses: list[pb.Loss] = field(default_factory=list)
    events: list[pb.DeviceEvent] = field(default_factory=list)
    end: pb.StreamEnd | None = None
    holes: list[pb.LostRange] = field(default_factory=list)


def _walk(raw: Buffer, at: int, rest: _Rest) -> int | None:
    """Read the fields from `at` to the payload into `rest`; return where the payload begins, None if the layout is another."""
    columns: dict[int, Sequence[int]] = {}
    last_tag = _ENDS
    while True:
        tag = raw[at]
        length, at = read_varint(raw, at + 1)
        if tag < last_tag or at + length > len(raw):
            return None
        last_tag = tag
        if tag == _PAYLOAD:
            break
        if tag in (_ENDS, _COUNTS, _REALTIMES, _MONOTONICS):
            code, width = ("I", 4) if tag in (_ENDS, _COUNTS) else ("q", 8)
            if tag in columns or length % width:
                return None
            _check_amount(length // width, MAX_PACKETS, _AMOUNTS)
            columns[tag] = unpack_from(f"<{length // width}{code}", raw, at)
        elif tag == _LOSS:
            _check_amount(len(rest.losses) + 1, MAX_REMARKS, _REMARKS)
            rest.losses.append(pb.Loss.FromString(bytes(raw[at : at + length])))
        elif tag == _EVENT:
            _check_amount(len(rest.losses) + len(rest.events) + 1, MAX_REMARKS, _REMARKS)
            rest.events.append(pb.DeviceEvent.FromString(bytes(raw[at : at + length])))
        elif tag == _END and rest.end is None:
            rest.end = pb.StreamEnd.FromString(bytes(raw[at : at + length]))
        elif tag == _HOLE:
            _check_amount(len(rest.holes) + 1, MAX_HOLES, "holes")
            rest.holes.append(pb.LostRange.FromString(bytes(raw[at : at + length])))
        else:
            return None
        at += length
    if at + length != len(raw):
        return None
    rest.ends = columns.pop(_ENDS, ())
    if columns:
        if rest.arrivals is not NO_ARRIVALS:
            return None
        rest.arrivals = Arrivals(columns.get(_COUNTS, ()), columns.get(_REALTIMES, ()), columns.get(_MONOTONICS, ()))
    return at


def _by_library(raw: Buffer) -> EncodedBatch:
    """The batch as the protobuf library reads it, whatever the order of its fields."""
    message = parse(pb.PacketBatch, raw, "a PacketBatch")
    if not message.HasField("contract"):
        raise WireError(f"a PacketBatch of {len(raw)} bytes has no contract version")
    check_contract(message.contract, "a batch")
    _check_amount(len(message.lost_before) + len(message.events), MAX_REMARKS, _REMARKS)
    _check_amount(len(message.holes), MAX_HOLES, "holes")
    for column in (
        message.packet_ends, message.arrival_packets, message.arrival_realtime_ns, message.arrival_monotonic_ns
    ):  # fmt: skip
        _check_amount(len(column), MAX_PACKETS, _AMOUNTS)
    return _checked(
        EncodedBatch(
            raw,
            message.epoch,
            message.number,
            message.first_sequence,
            message.packet_count,
            message.packet_size,
            tuple(message.packet_ends),
            Arrivals(
                tuple(message.arrival_packets),
                tuple(message.arrival_realtime_ns),
                tuple(message.arrival_monotonic_ns),
            ),
            tuple(message.lost_before),
            tuple(message.events),
            message.end if message.HasField("end") else None,
            memoryview(message.payload),
            tuple(message.holes),
        )
    )


def _checked(batch: EncodedBatch) -> EncodedBatch:
    """The same batch, if its figures agree with each other; else WireError."""
    count, size, ends, arrivals = batch.packet_count, batch.packet_size, batch.packet_ends, batch.arrivals
    _check_amount(count, MAX_PACKETS, _AMOUNTS)
    if batch.end_sequence > MAX_COUNT or batch.number >= MAX_COUNT:
        raise WireError(
            f"batch {batch.number} holds {count} packets from sequence {batch.first_sequence} on: the next number or "
            "sequence would exceed 64 bits"
        )
    if size:
        if ends or count * size != len(batch.payload):
            raise WireError(f"a batch of {count} packets of {size} bytes has a payload of {len(batch.payload)} bytes")
    else:
        if len(ends) != count or (ends[-1] if ends else 0) != len(batch.payload):
            raise WireError(
                f"a batch of {count} packets of varying size has {len(ends)} end offsets, "
                f"the last of them {ends[-1] if ends else 0}, and a payload of {len(batch.payload)} bytes"
            )
        if any(a > b for a, b in pairwise(ends)):
            raise WireError("the end offsets of a batch do not increase")
    if not len(arrivals.packets) == len(arrivals.realtime_ns) == len(arrivals.monotonic_ns):
        raise WireError(
            f"the arrival columns of a batch differ in length: {len(arrivals.packets)}, "
            f"{len(arrivals.realtime_ns)} and {len(arrivals.monotonic_ns)}"
        )
    if sum(arrivals.packets) != count:
        raise WireError(f"the arrivals of a batch count {sum(arrivals.packets)} packets and it holds {count}")
    if batch.holes:
        _check_holes(batch)
    return batch


def _check_amount(there: int, most: int, what: str) -> None:
    if there > most:
        raise WireError(f"a batch has more than {most} {what}, the most that is allowed")


def _check_holes(batch: EncodedBatch) -> None:
    until = 0
    for hole in batch.holes:
        if hole.first_sequence < until:
            raise WireError(f"the holes of batch {batch.number} overlap at sequence {hole.first_sequence}")
        until = hole.first_sequence + hole.count
    if until > batch.first_sequence or batch.first_number < 0:
        raise WireError(
            f"the holes of batch {batch.number} reach up to sequence {until} and down to batch {batch.first_number}, "
            f"and it begins at {batch.first_sequence}"
        )


def _column(tag: int, code: str, width: int, values: Sequence[int]) -> bytes:
    size = len(values) * width
    return bytes((tag,)) + _varint(size) + Struct(f"<{len(values)}{code}").pack(*values)


@lru_cache(maxsize=256)
def _payload_head(size: int) -> bytes:
    """The payload's tag and length; batches under one load are of few sizes."""
    return bytes((_PAYLOAD,)) + _varint(size)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

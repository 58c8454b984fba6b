"""Parse protobuf messages from outside with a bounded number of fields.

An empty submessage takes two bytes on the wire and up to 400 in memory, so a bound on bytes is no bound on memory. The
fields are counted over the raw bytes before anything is allocated. How deep they nest is given by the schema, which has no
recursion: what it does not know is skipped, not entered.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from usbcast_schemas.errors import WireError

if TYPE_CHECKING:
    from google._upb._message import Descriptor as NativeDescriptor
    from google.protobuf.descriptor import Descriptor

MAX_FIELDS = 300_000
"""Most fields of a message, over all its levels: about 130 MB of memory in the worst case."""

_M = TypeVar("_M", bound=Message)

_MAX_VARINT_BITS = 70


class _Submessages(dict[int, "_Submessages"]):
    """The fields of a message that are messages themselves, by number, each with its own."""


def parse(kind: type[_M], body: bytes | memoryview, what: str, most_fields: int = MAX_FIELDS) -> _M:
    """Read `body` as a message of `kind`; raise WireError if it is not one, or has more fields than `most_fields`."""
    if len(body) > 2 * most_fields and not _has_at_most(most_fields, body, kind.DESCRIPTOR):
        raise WireError(f"{what} of {len(body)} bytes has more than {most_fields} fields, the most that is allowed")
    try:
        return kind.FromString(bytes(body))
    except DecodeError as error:
        raise WireError(f"{len(body)} bytes are not {what}: the protobuf library says {error}") from None


def _has_at_most(most: int, body: bytes | memoryview, descriptor: Descriptor | NativeDescriptor) -> bool:
    """Return True if `body` has at most `most` fields. Malformed bytes end the count: the library refuses them."""
    try:
        return _left(body, 0, len(body), _submessages(descriptor), most) >= 0
    except IndexError:
        return True


def _left(body: bytes | memoryview, at: int, end: int, submessages: _Submessages, left: int) -> int:
    """`left` less the fields in [at, end); negative as soon as there are more."""
    while at < end and left >= 0:
        left -= 1
        tag, at = read_varint(body, at)
        match tag & 7:
            case 0:  # varint
                _, at = read_varint(body, at)
            case 1:  # 64 bits
                at += 8
            case 2:  # bytes, text or a message
                length, at = read_varint(body, at)
                inside = submessages.get(tag >> 3)
                if inside is not None:
                    left = _left(body, at, min(end, at + length), inside, left)
                at += length
            case 5:  # 32 bits
                at += 4
    return left


def read_varint(body: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at` and the offset behind it. Raises IndexError if there is none."""
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= _MAX_VARINT_BITS:
            raise IndexError


@lru_cache(maxsize=64)
def _submessages(descriptor: Descriptor | NativeDescriptor) -> _Submessages:
    return _Submessages(
        (field.number, _submessages(field.message_type))
        for field in descriptor.fields
        if field.message_type is not None
    )


__all__ = ["MAX_FIELDS", "parse", "read_varint"]

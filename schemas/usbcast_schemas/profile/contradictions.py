"""Contradictions between the keys of a profile, each of which is valid on its own.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from usbcast_schemas.profile.model import (
    MAX_QUEUED_BYTES,
    CobsFraming,
    ControlRequest,
    DelimiterFraming,
    FixedFraming,
    LengthFraming,
    Profile,
    SyncFraming,
)

# Sliding over garbage costs one checksum of a whole packet per byte; docs/profiles.md gives the figures.
MAX_UNMARKED_BYTES = 16384
MAX_EXPANDED_FIELDS = 4096


def contradictions(profile: Profile) -> Iterator[str]:
    """Yield one sentence per contradiction, without the origin."""
    yield from _transfer(profile)
    for table, requests in (("startup", profile.startup), ("shutdown", profile.shutdown)):
        for i, request in enumerate(requests):
            yield from _control(f"{table}[{i}]", request)
    yield from _framing(profile)
    yield from _checksum(profile)
    yield from _counter(profile)
    yield from _fields(profile)


def _transfer(profile: Profile) -> Iterator[str]:
    size, queue = profile.transfer.size, profile.transfer.queue
    if queue > 1 and size * queue > MAX_QUEUED_BYTES:
        yield (
            f"transfer.queue is {queue}: with transfer.size {size}, up to {max(1, MAX_QUEUED_BYTES // size)} is allowed, "
            f"so that no more than {MAX_QUEUED_BYTES >> 20} MiB are queued"
        )
    prefix, every = profile.transfer.strip_prefix, profile.transfer.strip_every
    if every and not prefix:
        yield f"transfer.strip_every is {every}: it needs transfer.strip_prefix, the bytes to take off"
    if every and prefix >= every:
        yield f"transfer.strip_prefix is {prefix}: fewer than the {every} bytes of transfer.strip_every are allowed"


def _control(path: str, request: ControlRequest) -> Iterator[str]:
    reads = bool(request.request_type & 0x80)
    if reads and request.data:
        yield (
            f'{path}.data is "{request.data.hex()}": request_type {request.request_type:#04x} reads (bit 7 is set), '
            "so only length is allowed"
        )
    if not reads and request.length:
        yield (
            f"{path}.length is {request.length}: request_type {request.request_type:#04x} writes (bit 7 is clear), "
            "so only data is allowed"
        )


def _framing(profile: Profile) -> Iterator[str]:
    framing = profile.framing
    if isinstance(framing, FixedFraming) and framing.checksum and framing.size > MAX_UNMARKED_BYTES:
        yield (
            f"framing.size is {framing.size}: with a checksum and nothing that marks the start, up to "
            f'{MAX_UNMARKED_BYTES} is allowed; use method "sync" for larger packets'
        )
    if isinstance(framing, DelimiterFraming | CobsFraming) and framing.size and framing.size > framing.max_size:
        yield f"framing.size is {framing.size}: up to framing.max_size, {framing.max_size}, is allowed"
    if isinstance(framing, DelimiterFraming) and framing.keep and framing.max_size <= len(framing.delimiter):
        yield (
            f"framing.max_size is {framing.max_size}: more than the {len(framing.delimiter)} bytes of "
            "framing.delimiter, which are kept, is allowed"
        )
    if isinstance(framing, SyncFraming):
        yield from _sync(framing)
    if isinstance(framing, LengthFraming):
        yield from _length(framing.length_offset, framing.length_width, framing.length_adjust, framing.max_size)


def _sync(framing: SyncFraming) -> Iterator[str]:
    length_keys = {
        "length_offset",
        "length_width",
        "length_adjust",
        "byte_order",
        "max_size",
    } & framing.model_fields_set
    if framing.size is not None:
        if framing.size <= len(framing.sync):
            yield f"framing.size is {framing.size}: more than the {len(framing.sync)} bytes of framing.sync is allowed"
        for key in sorted(length_keys):
            yield f"framing.{key} is given beside framing.size: one of them is allowed, the size or a length field"
    elif framing.length_offset is None or framing.length_width is None:
        yield 'framing.size is missing: a size, or length_offset and length_width, is needed with method "sync"'
    else:
        if framing.length_offset < len(framing.sync):
            yield (
                f"framing.length_offset is {framing.length_offset}: from {len(framing.sync)} on, "
                "behind framing.sync, is allowed"
            )
        yield from _length(framing.length_offset, framing.length_width, framing.length_adjust, framing.max_size)


def _length(offset: int, width: int, adjust: int, max_size: int) -> Iterator[str]:
    if max_size < offset + width:
        yield f"framing.max_size is {max_size}: at least {offset + width}, up to the length field's end, is allowed"
    elif not adjust + 1 <= max_size or (1 << 8 * width) - 1 + adjust < offset + width:
        yield f"framing.length_adjust is {adjust}: no length then gives a size from {offset + width} to {max_size}"


def _checksum(profile: Profile) -> Iterator[str]:
    checksum, size = profile.framing.checksum, profile.packet_size
    if checksum is None:
        return
    if checksum.offset is not None and -checksum.width < checksum.offset < 0:
        yield (
            f"framing.checksum.offset is {checksum.offset}: at most {-checksum.width}, so that the "
            f"{checksum.width} bytes of {checksum.method} fit, is allowed"
        )
    elif checksum.offset is not None and 0 <= checksum.offset <= checksum.start and not checksum.precedes:
        yield (
            f"framing.checksum.from is {checksum.start}: before framing.checksum.offset, {checksum.offset}, "
            f"or from {checksum.offset + checksum.width} on is allowed"
        )
    elif size and size < checksum.smallest_packet:
        yield f"framing.size is {size}: at least {checksum.smallest_packet}, so that the checksum fits, is allowed"


def _counter(profile: Profile) -> Iterator[str]:
    counter, size = profile.counter, profile.packet_size
    if counter is None:
        return
    unsigned, most = f"u{8 * counter.width}", 1 << (8 * counter.width)
    if size and counter.offset + counter.width > size:
        yield f"counter.offset is {counter.offset}: with width {counter.width}, 0 to {size - counter.width} is allowed"
    if counter.modulus > most:
        yield f"counter.wrap is {counter.wrap}: from 2 to {most}, for width {counter.width}, is allowed"
    for i, field in enumerate(profile.fields):
        if field.offset != counter.offset:
            continue
        if field.type != unsigned:
            yield f'fields[{i}].type is "{field.type}": "{unsigned}", as the counter there, is allowed'
        elif field.width > 1 and field.byte_order != counter.byte_order:
            order = counter.byte_order
            yield f'fields[{i}].byte_order is "{field.byte_order}": "{order}", as the counter there, is allowed'


def _fields(profile: Profile) -> Iterator[str]:
    size = profile.packet_size
    if profile.fields and not size:
        yield (
            f'fields are given, but packets with framing.method "{profile.framing.method}" vary in size: '
            "fields need a framing.size"
        )
        return
    for i, field in enumerate(profile.fields):
        if field.end > size:
            yield f"fields[{i}].offset is {field.offset}: {field.name} would end at byte {field.end} of {size}"
    total = sum(field.count or 1 for field in profile.fields)
    if total > MAX_EXPANDED_FIELDS:
        yield f"fields come to {total} values in all: up to {MAX_EXPANDED_FIELDS} is allowed"
        return
    seen: set[str] = set()
    for field in profile.expanded_fields():
        if field.name in seen:
            yield f'fields contain the name "{field.name}" twice: each name is allowed once'
        seen.add(field.name)

"""Decoded MCAP: one protobuf message per packet, with the profile's field names, so that viewers plot it directly.

Every field has a fixed width on the wire and is always written, so all messages of a stream have one size and numpy lays
out a whole batch at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from mcap.writer import CompressionType, Writer

from usbcast.batch import Batch
from usbcast.recording.columns import Column, Columns
from usbcast_schemas.errors import UsageError

_FIXED64, _FIXED32 = 1, 5
_KINDS: Final = {
    "u": {
        4: (FieldDescriptorProto.TYPE_FIXED32, "<u4", _FIXED32),
        8: (FieldDescriptorProto.TYPE_FIXED64, "<u8", _FIXED64),
    },
    "i": {
        4: (FieldDescriptorProto.TYPE_SFIXED32, "<i4", _FIXED32),
        8: (FieldDescriptorProto.TYPE_SFIXED64, "<i8", _FIXED64),
    },
    "f": {
        4: (FieldDescriptorProto.TYPE_FLOAT, "<f4", _FIXED32),
        8: (FieldDescriptorProto.TYPE_DOUBLE, "<f8", _FIXED64),
    },
}
SEQUENCE: Final = "usbcast_sequence"


class DecodedWriter:
    """Writes one stream into `writer`. Raises UsageError if the stream has no fields to decode."""

    def __init__(self, writer: Writer, columns: Columns) -> None:
        if not columns.has_fields:
            raise UsageError(
                f"stream {columns.stream!r} has no field layout, so there is nothing to decode: its profile has no [[fields]], "
                "or its packets vary in size"
            )
        self._writer = writer
        self._columns = columns
        shown = [Column(SEQUENCE, np.dtype(np.uint64)), *columns.fields]
        files, name = _schema(columns.stream, shown)
        self._dtype, self._tags = _layout(shown)
        schema = writer.register_schema(name, "protobuf", files)
        units = {column.name: column.unit for column in columns.fields if column.unit}
        self._channel = writer.register_channel(
            columns.stream, "protobuf", schema, {f"unit.{n}": u for n, u in units.items()}
        )

    def write(self, batch: Batch) -> None:
        rows = np.empty(len(batch), self._dtype)
        for name, tag in self._tags:
            rows[name] = tag
        sequences = self._columns.sequences(batch)
        for number, values in enumerate([sequences, *self._columns.values(batch)], 1):
            rows[f"v{number}"] = values
        raw, size = rows.tobytes(), self._dtype.itemsize
        times, add = self._columns.times_ns(batch).tolist(), self._writer.add_message
        for at, (time_ns, sequence) in enumerate(zip(times, sequences.tolist(), strict=True)):
            add(self._channel, time_ns, raw[at * size : at * size + size], time_ns, sequence & 0xFFFFFFFF)


class DecodedFile:
    """An MCAP file of decoded streams."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = Writer(self._file, compression=CompressionType.ZSTD, enable_data_crcs=True)
        self._writer.start("", "usbcast convert")

    def stream(self, columns: Columns) -> DecodedWriter:
        return DecodedWriter(self._writer, columns)

    def close(self) -> None:
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.close()


def _schema(stream: str, columns: list[Column]) -> tuple[bytes, str]:
    """Return a FileDescriptorSet with one message, and the message's full name."""
    message = "".join(part.capitalize() for part in stream.replace("-", "_").split("_")) or "Packet"
    message = message if message[0].isalpha() else f"S{message}"
    file = FileDescriptorProto(name=f"usbcast_decoded/{stream}.proto", package="usbcast_decoded", syntax="proto3")
    made = file.message_type.add(name=message)
    for number, column in enumerate(columns, 1):
        kind = _kind(column)[0]
        made.field.add(name=column.name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
    return FileDescriptorSet(file=[file]).SerializeToString(deterministic=True), f"usbcast_decoded.{message}"


def _layout(columns: list[Column]) -> tuple[np.dtype[Any], list[tuple[str, Any]]]:
    """Return one message as a structured dtype, and the values of its tags."""
    parts: list[tuple[str, Any]] = []
    tags: list[tuple[str, Any]] = []
    for number, column in enumerate(columns, 1):
        _, code, wire = _kind(column)
        tag = number << 3 | wire
        if tag < 0x80:
            parts.append((f"t{number}", "u1"))
            tags.append((f"t{number}", tag))
        else:
            parts.append((f"t{number}", "<u2"))
            tags.append((f"t{number}", (tag & 0x7F) | 0x80 | (tag >> 7) << 8))
        parts.append((f"v{number}", code))
    return np.dtype(parts), tags


def _kind(column: Column) -> tuple[Any, str, int]:
    dtype = column.dtype
    return _KINDS[dtype.kind][max(4, dtype.itemsize)]

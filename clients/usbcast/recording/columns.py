"""A batch as columns of a table: epoch, sequence, time and fields, each in the unit that the profile gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usbcast.batch import Batch
from usbcast.layout import check_fields
from usbcast_schemas.errors import UsageError
from usbcast_schemas.v1 import usbcast_pb2 as pb

TIMES = ("arrival", "dejittered")


@dataclass(frozen=True, slots=True)
class Column:
    """One value of each packet."""

    name: str
    dtype: np.dtype[Any]
    unit: str = ""
    scaled: bool = False


class Columns:
    """Columns of a stream, and their values in a batch.

    Raises UsageError for unknown `times`, and for fields that its packets cannot have.
    """

    def __init__(self, info: pb.StreamInfo, times: str = "arrival") -> None:
        if times not in TIMES:
            raise UsageError(f"times are {times!r}: {' or '.join(TIMES)} is allowed")
        self._dejittered = times == "dejittered"
        self.stream = info.stream
        if info.packet_size:
            check_fields(info.fields, info.packet_size)
        self.fields = [_column(field) for field in info.fields] if info.packet_size else []

    @property
    def has_fields(self) -> bool:
        """True if packets have fields; else the packet itself, as bytes, is the only value."""
        return bool(self.fields)

    def times_ns(self, batch: Batch) -> NDArray[np.int64]:
        return batch.times_ns_dejittered() if self._dejittered else batch.times_ns

    def sequences(self, batch: Batch) -> NDArray[np.uint64]:
        return np.arange(batch.first_sequence, batch.last_sequence + 1, dtype=np.uint64)

    def values(self, batch: Batch) -> list[NDArray[Any]]:
        """Return one array per field, contiguous and in native byte order."""
        views = batch.fields
        return [
            batch.scaled(column.name)
            if column.scaled
            else np.ascontiguousarray(views[column.name], views[column.name].dtype.newbyteorder("="))
            for column in self.fields
        ]


def _column(field: pb.Field) -> Column:
    scaled = (field.HasField("scale") and field.scale != 1.0) or field.zero != 0.0
    kind, bits = field.type[0], int(field.type[1:])
    return Column(field.name, np.dtype(np.float64 if scaled else f"{kind}{bits // 8}"), field.unit, scaled)

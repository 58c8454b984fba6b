"""The field layout of a stream: names and types inside a packet, as numpy structured views.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usbcast_schemas.errors import UsageError
from usbcast_schemas.v1 import usbcast_pb2 as pb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_TYPE = re.compile(r"[ui](8|16|32|64)|f(32|64)")
_MOST_PACKET_BYTES = 16 * 1024 * 1024
_MOST_FIELDS = 10_000


class FieldViews(Mapping[str, "NDArray[Any]"]):
    """The fields of one batch by name; each value is a view."""

    __slots__ = ("_structured",)

    def __init__(self, structured: NDArray[np.void]) -> None:
        self._structured = structured

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._structured[name]
        except ValueError:
            raise UsageError(f"there is no field {name!r}; the fields are {', '.join(self)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._structured.dtype.names or ())

    def __len__(self) -> int:
        return len(self._structured.dtype.names or ())

    def __repr__(self) -> str:
        kinds = self._structured.dtype
        return f"<{len(self._structured)} packets of {', '.join(f'{name} {kinds[name].str}' for name in self)}>"

    @property
    def structured(self) -> NDArray[np.void]:
        """All fields at once: a structured array (n,)."""
        return self._structured


class Layout:
    """Where the fields are, by what the node said of the stream."""

    def __init__(self, fields: Sequence[pb.Field], packet_size: int) -> None:
        self._described = tuple(fields)
        self._fields = {field.name: field for field in fields}
        self._packet_size = packet_size
        self._dtype: np.dtype[np.void] | None = None

    @property
    def units(self) -> dict[str, str]:
        return {name: field.unit for name, field in self._fields.items()}

    def view(self, payload: memoryview) -> FieldViews:
        """The fields of the packets in `payload`; raise UsageError if the stream has no layout."""
        import numpy as np

        return FieldViews(np.frombuffer(payload, self._structure()))

    def scaled(self, payload: memoryview, name: str) -> NDArray[np.float64]:
        import numpy as np

        raw = self.view(payload)[name].astype(np.float64)
        field = self._fields[name]
        scaled: NDArray[np.float64] = raw * (field.scale if field.HasField("scale") else 1.0) + field.zero
        return scaled

    def _structure(self) -> np.dtype[np.void]:
        if self._dtype is None:
            import numpy as np

            if not self._fields or not self._packet_size:
                raise UsageError(
                    "this stream has no field layout: its profile has no [[fields]], or its packets vary in size"
                )
            fields = self._fields.values()
            check_fields(self._described, self._packet_size)
            self._dtype = np.dtype(
                {
                    "names": [field.name for field in fields],
                    "formats": [_format(field) for field in fields],
                    "offsets": [field.offset for field in fields],
                    "itemsize": self._packet_size,
                }
            )
        return self._dtype


def check_fields(fields: Sequence[pb.Field], packet_size: int) -> None:
    """Raise UsageError if these cannot be the fields of packets of that size: anybody may have described them."""
    names = [field.name for field in fields]
    if packet_size > _MOST_PACKET_BYTES or len(fields) > _MOST_FIELDS or len(set(names)) < len(names):
        raise UsageError(
            f"the description of this stream is invalid: {len(names)} fields with {len(set(names))} different names, "
            f"in packets of {packet_size} bytes; read its packets as bytes"
        )
    for field in fields:
        known = field.name and _TYPE.fullmatch(field.type)
        if not known or field.offset + int(field.type[1:]) // 8 > packet_size:
            raise UsageError(
                f"the description of this stream is invalid: its field {field.name[:80]!r} of type {field.type[:20]!r} at "
                f"offset {field.offset} does not fit into packets of {packet_size} bytes; read its packets as bytes"
            )


def _format(field: pb.Field) -> str:
    """`f32` as numpy writes it: `<f4`."""
    kind, bits = field.type[0], int(field.type[1:])
    return f"{'>' if field.big_endian else '<'}{kind}{bits // 8}"

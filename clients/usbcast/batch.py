"""A batch as an application sees it: consecutive packets, as views on the bytes that were received."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from usbcast.clock.dejitter import Dejitter
from usbcast.clock.offset import KnownClock
from usbcast.events import Gap
from usbcast_schemas.batch import EncodedBatch, decode_batch
from usbcast_schemas.engine.making import maker
from usbcast_schemas.errors import ClockUnknown, UsageError
from usbcast_schemas.extras import missing

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import pyarrow
    from numpy.typing import NDArray

    from usbcast.clock.offset import Clock, ClockOffset
    from usbcast.layout import Layout


class DecodeContext(NamedTuple):
    """What else than its bytes there is to know of a batch: the same for many."""

    layout: Layout
    dejitter: Dejitter | None = None
    clock: Clock | None = None

    def as_of_now(self) -> DecodeContext:
        """The same, which changes no more."""
        clock = KnownClock(self.clock()) if self.clock is not None else None
        return DecodeContext(self.layout, copy(self.dejitter), clock)


class Batch:
    """Consecutive packets of one epoch. Iterating gives the bytes of each packet, `len` their number.

    Everything is read-only and stays valid for as long as it is referred to; but with `copy=False`, until the next is asked for.
    It can be pickled and copied; a copy has bytes of its own, and knows of clocks and smoothed times what was known then.
    """

    __slots__ = ("_context", "_encoded", "_skip", "gaps")

    def __init__(
        self, encoded: EncodedBatch, context: DecodeContext, gaps: tuple[Gap, ...] = (), skip: int = 0
    ) -> None:
        self._encoded = encoded
        self._context = context
        self._skip = skip
        self.gaps = gaps
        """All gaps between the batch before and this one, in order; after a restart those of the epoch before too."""

    def __reduce__(self) -> tuple[Any, ...]:
        raw = bytes(self._encoded.raw)
        if not self.intact:
            raise UsageError(
                f"{self!r} was overwritten in the ring before it was copied: copy it sooner, or subscribe with copy=True"
            )
        return _restored, (raw, self._context.as_of_now(), self.gaps, self._skip)

    @property
    def intact(self) -> bool:
        """Whether its bytes are still what they were: false only for one that was not copied and has been overwritten."""
        return self._encoded.intact

    @property
    def gap(self) -> Gap | None:
        """The gap just before this batch, or None; the first one where there are several (`gaps` has all)."""
        return self.gaps[0] if self.gaps else None

    @property
    def epoch(self) -> int:
        return self._encoded.epoch

    @property
    def number(self) -> int:
        """Number of the batch in its epoch, as published."""
        return self._encoded.number

    @property
    def first_sequence(self) -> int:
        return self._encoded.first_sequence + self._skip

    @property
    def last_sequence(self) -> int:
        return self._encoded.end_sequence - 1

    @property
    def packet_size(self) -> int:
        """Bytes per packet; 0 if they vary."""
        return self._encoded.packet_size

    def __len__(self) -> int:
        return self._encoded.packet_count - self._skip

    def __iter__(self) -> Iterator[bytes]:
        payload, size = self._encoded.payload, self._encoded.packet_size
        if size:
            for at in range(self._skip * size, len(payload), size):
                yield bytes(payload[at : at + size])
            return
        ends = self._encoded.packet_ends
        start = ends[self._skip - 1] if self._skip else 0
        for end in ends[self._skip :]:
            yield bytes(payload[start:end])
            start = end

    def __repr__(self) -> str:
        return f"<Batch {self.first_sequence}..{self.last_sequence} of epoch {self.epoch:016x}>"

    @property
    def payload(self) -> memoryview:
        """The packets' bytes, back to back."""
        encoded = self._encoded
        if not self._skip:
            return encoded.payload if encoded.payload.readonly else encoded.payload.toreadonly()
        start = self._skip * encoded.packet_size if encoded.packet_size else encoded.packet_ends[self._skip - 1]
        return encoded.payload[start:].toreadonly()

    @property
    def packets(self) -> NDArray[np.uint8]:
        """uint8 (n, packet_size), a view; raise UsageError if the packets vary in size (then iterate)."""
        import numpy as np

        size = self._encoded.packet_size
        if not size:
            raise UsageError(
                "the packets of this stream vary in size, so they do not form an array: iterate over the batch"
            )
        return np.frombuffer(self.payload, np.uint8).reshape(-1, size)

    @property
    def fields(self) -> Mapping[str, NDArray[Any]]:
        """Each field of the profile's layout by name: (n,) of its own dtype, a strided view without a copy.

        Raises UsageError on access to a name that the layout does not have.
        """
        return self._context.layout.view(self.payload)

    def scaled(self, name: str) -> NDArray[np.float64]:
        """One field in its physical unit: float64 (n,), raw * scale + zero as the profile says."""
        return self._context.layout.scaled(self.payload, name)

    @property
    def times_ns(self) -> NDArray[np.int64]:
        """int64 (n,): when the reading host had each packet, nanoseconds since 1970; all packets of one transfer alike."""
        return self._per_packet(self._encoded.arrivals.realtime_ns)

    @property
    def monotonic_ns(self) -> NDArray[np.int64]:
        """int64 (n,): the same on the reading host's monotonic clock, which is never set back."""
        return self._per_packet(self._encoded.arrivals.monotonic_ns)

    @property
    def times_local_ns(self) -> NDArray[np.int64]:
        """int64 (n,): `times_ns` on this host's clock, or on that of the host that recorded; computed when asked for.

        Equal to `times_ns` on the reading host itself. Raises ClockUnknown before its clock has been compared with ours.
        """
        return self._offset().local_ns(self.times_ns)

    @property
    def times_local_error_ns(self) -> NDArray[np.int64]:
        """int64 (n,): how wrong each of `times_local_ns` may be at the most. Raises ClockUnknown."""
        return self._offset().error_ns(self.times_ns)

    def times_ns_dejittered(self) -> NDArray[np.int64]:
        """int64 (n,): arrival times freed from the jitter of transfer and scheduling; see usbcast.clock.dejitter for the method.

        Raises UsageError if the profile gives no nominal rate.
        """
        if self._context.dejitter is None:
            raise UsageError("the profile gives no nominal rate (stream.rate_hz), so arrival times cannot be smoothed")
        return self._context.dejitter.times_ns(self.first_sequence, len(self))

    def to_pandas(self) -> pandas.DataFrame:
        """One row per packet: a column `sequence`, one per field, indexed by arrival time (UTC). Needs the extra `pandas`.

        Raises UsageError if the stream has no field layout, or pandas is not installed.
        """
        tables = _optional("pandas")
        columns = {"sequence": self._sequences(), **self.fields}
        index = tables.to_datetime(self.times_ns, unit="ns", utc=True).rename("time")
        frame: pandas.DataFrame = tables.DataFrame(columns, index=index)
        return frame

    def to_arrow(self) -> pyarrow.RecordBatch:
        """Columns `time` (timestamp[ns, UTC]), `sequence` (uint64) and one per field. Needs the extra `arrow`.

        Raises UsageError if the stream has no field layout, or pyarrow is not installed.
        """
        import numpy as np

        arrow = _optional("pyarrow")
        time = arrow.array(self.times_ns, arrow.timestamp("ns", tz="UTC"))
        # Arrow takes neither strided nor foreign-endian columns, so this one copies.
        fields = {name: np.ascontiguousarray(v, v.dtype.newbyteorder("=")) for name, v in self.fields.items()}
        batch: pyarrow.RecordBatch = arrow.RecordBatch.from_pydict(
            {"time": time, "sequence": self._sequences(), **fields}
        )
        return batch

    def _offset(self) -> ClockOffset:
        known = self._context.clock() if self._context.clock is not None else None
        if known is None:
            raise ClockUnknown(
                "the clock of the host that reads this stream has not been compared with this host's yet: wait until "
                "the subscription's `clock` is not None, or use times_ns, which are on that host's clock"
            )
        return known

    def _sequences(self) -> NDArray[np.uint64]:
        import numpy as np

        return np.arange(self.first_sequence, self.last_sequence + 1, dtype=np.uint64)

    def _per_packet(self, column: Any) -> NDArray[np.int64]:
        import numpy as np

        packets = self._encoded.arrivals.packets
        if len(packets) == 1:
            return np.full(len(self), column[0], np.int64)
        return np.repeat(np.asarray(column, np.int64), packets)[self._skip :]

    @property
    def encoded(self) -> EncodedBatch:
        """The batch as it was published."""
        return self._encoded


def batch_maker(context: DecodeContext) -> Callable[[EncodedBatch], Batch]:
    """Return a function that makes of a plain batch `Batch(encoded, context)`, in the time of a single call."""
    return maker(Batch, "_encoded", {"_context": context, "_skip": 0, "gaps": ()})


def _restored(raw: bytes, context: DecodeContext, gaps: tuple[Gap, ...], skip: int) -> Batch:
    return Batch(decode_batch(raw), context, gaps, skip)


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise UsageError(missing(module)) from None

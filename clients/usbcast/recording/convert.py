"""Conversion of recordings to the formats of other tools: Parquet, Arrow, CSV, and MCAP with decoded messages.

It works batch by batch, so memory does not grow with the recording. The formats hold packets only; missing packets show in
the sequence column, and the result counts gaps.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from usbcast.batch import Batch
from usbcast.events import Gap, Restart
from usbcast.recording.columns import Columns
from usbcast.recording.files import DECODED
from usbcast.recording.reader import Recording
from usbcast.recording.segment import PART
from usbcast_schemas.errors import RecordingError, UsageError
from usbcast_schemas.printable import file_name_part, spreadsheet_head

FORMS = ("parquet", "arrow", "csv", "mcap")
SUFFIXES = {"parquet": ".parquet", "arrow": ".arrow", "csv": ".csv", "mcap": DECODED}
ROWS_AT_ONCE = 65_536
"""Packets in one row group."""


@dataclass(slots=True)
class Converted:
    """One stream, converted."""

    stream: str
    path: Path
    packets: int = 0
    lost: int = 0
    gaps: int = 0
    restarts: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "stream": self.stream, "file": str(self.path), "packets": self.packets,
            "lost": self.lost, "gaps": self.gaps, "restarts": self.restarts,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Format and options of a conversion."""

    form: str
    times: str = "arrival"
    force: bool = False
    """Replace existing files."""
    bounds: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of Recording.events."""


class Sink(Protocol):
    """Takes the batches of one stream."""

    def write(self, batch: Batch) -> None: ...

    def close(self) -> None: ...


def convert(
    recording: Recording,
    base: Path,
    streams: tuple[str, ...],
    options: ConvertOptions,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Converted]:
    """Write each stream to a file of its own, `<base>-<stream>` with the suffix of the format.

    `progress` is called with the number of bytes read from the recording, which is read once per stream. A file gets its name
    when it is complete. Raises UsageError for an unknown stream or format, RecordingError if the disk refuses or a file
    already exists.
    """
    if options.form not in FORMS:
        raise UsageError(
            f"--to is {options.form!r}: {', '.join(FORMS)} are allowed; there is no maintained writer of XDF"
        )
    chosen = streams or tuple(recording.streams)
    if not chosen:
        raise RecordingError(
            f"there is nothing to convert: {recording.segments[0].path.name} holds no stream "
            "(`usbcast verify` says what is wrong with it)"
        )
    paths = {stream: _path(base, stream, options.form) for stream in chosen}
    for path in paths.values():
        if path.exists() and not options.force:
            raise RecordingError(f"{path} already exists: --force replaces it, --output names another place")
    try:
        return [_convert_one(recording, path, stream, options, progress) for stream, path in paths.items()]
    except OSError as error:
        raise RecordingError(f"cannot write {base}: {error.strerror}") from None


def _path(base: Path, stream: str, form: str) -> Path:
    return base.with_name(f"{base.name}-{file_name_part(stream)}{SUFFIXES[form]}")


def _convert_one(
    recording: Recording,
    path: Path,
    stream: str,
    options: ConvertOptions,
    progress: Callable[[int], object],
) -> Converted:
    columns = Columns(recording.info(stream), options.times)
    unfinished = path.with_name(path.name + PART)
    done = Converted(stream, path)
    try:
        with contextlib.closing(_sink(options.form, unfinished, columns)) as sink:
            for event in recording.events(stream, **options.bounds, progress=progress):
                if isinstance(event, Batch):
                    sink.write(event)
                    done.packets += len(event)
                elif isinstance(event, Gap):
                    done.gaps += 1
                    done.lost += event.count
                elif isinstance(event, Restart):
                    done.restarts += 1
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)
    return done


def _sink(form: str, path: Path, columns: Columns) -> Sink:
    if form == "csv":
        return _CsvSink(path, columns)
    if form == "mcap":
        return _McapSink(path, columns)
    return _ArrowSink(path, columns, parquet=form == "parquet")


class _CsvSink:
    """One line per packet; times in UTC as ISO 8601 to the nanosecond, packets without fields in hex."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._columns = columns
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        heads = [spreadsheet_head(f"{c.name} [{c.unit}]" if c.unit else c.name) for c in columns.fields] or ["packet"]
        self._writer.writerow(["epoch", "sequence", "time", *heads])

    def write(self, batch: Batch) -> None:
        columns = self._columns
        epoch = batch.epoch
        times = np.datetime_as_string(columns.times_ns(batch).astype("datetime64[ns]"), timezone="UTC").tolist()
        heads = zip(columns.sequences(batch).tolist(), times, strict=True)
        if columns.has_fields:
            values = zip(*(column.tolist() for column in columns.values(batch)), strict=True)
            self._writer.writerows([epoch, *head, *row] for head, row in zip(heads, values, strict=True))
        else:
            self._writer.writerows([epoch, *head, packet.hex()] for head, packet in zip(heads, batch, strict=True))

    def close(self) -> None:
        self._file.close()


class _ArrowSink:
    """Parquet or an Arrow file; units stand in the fields' metadata. Raises UsageError if pyarrow is not installed."""

    def __init__(self, path: Path, columns: Columns, *, parquet: bool) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise UsageError("pyarrow is not installed: pip install 'usbcast[arrow]'") from None
        self._arrow = pyarrow
        self._columns = columns
        fields = [
            pyarrow.field("epoch", pyarrow.uint64()),
            pyarrow.field("sequence", pyarrow.uint64()),
            pyarrow.field("time", pyarrow.timestamp("ns", tz="UTC")),
        ]
        for column in columns.fields:
            unit = {"unit": column.unit} if column.unit else None
            fields.append(pyarrow.field(column.name, pyarrow.from_numpy_dtype(column.dtype), metadata=unit))
        if not columns.has_fields:
            fields.append(pyarrow.field("packet", pyarrow.binary()))
        # Repeated for readers that know Parquet but not Arrow: they see only the metadata of the file.
        units = json.dumps({column.name: column.unit for column in columns.fields if column.unit})
        self._schema = pyarrow.schema(fields, metadata={"usbcast.stream": columns.stream, "usbcast.units": units})
        if parquet:
            self._writer: Any = pyarrow.parquet.ParquetWriter(str(path), self._schema, compression="zstd")
        else:
            self._writer = pyarrow.ipc.new_file(str(path), self._schema)
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, batch: Batch) -> None:
        arrow, columns = self._arrow, self._columns
        times = arrow.array(columns.times_ns(batch), arrow.timestamp("ns", tz="UTC"))
        heads = [arrow.array([batch.epoch] * len(batch), arrow.uint64()), arrow.array(columns.sequences(batch)), times]
        values = (
            [arrow.array(v) for v in columns.values(batch)]
            if columns.has_fields
            else [arrow.array(list(batch), arrow.binary())]
        )
        self._waiting.append(arrow.record_batch([*heads, *values], schema=self._schema))
        self._rows += len(batch)
        if self._rows >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        """Write the waiting batches as one row group; a row group per batch would be mostly overhead."""
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_batches(self._waiting).combine_chunks())
            self._waiting, self._rows = [], 0


class _McapSink:
    def __init__(self, path: Path, columns: Columns) -> None:
        from usbcast.recording.decoded import DecodedFile

        self._file = DecodedFile(path)
        try:
            self._stream = self._file.stream(columns)
        except UsageError:
            self._file.close()
            path.unlink()
            raise

    def write(self, batch: Batch) -> None:
        self._stream.write(batch)

    def close(self) -> None:
        self._file.close()

"""`open_recording`: a recording as an application reads it, across all its segments, including unfinished and cut ones.

It delivers what the subscription delivered while recording: batches, gaps, restarts, device events, silence, ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from usbcast.batch import Batch, DecodeContext
from usbcast.clock.dejitter import Dejitter, dejitter_of
from usbcast.clock.offset import ClockOffset
from usbcast.events import End, Gap, Silence, device_event, gap_of_loss
from usbcast.layout import Layout
from usbcast.receiving.event_builder import Event
from usbcast.recording.entries import BATCH_SCHEMA, Annotation, Item, clock_of, gap_of, restart_of
from usbcast.recording.files import Damage, SegmentFile, Stored, resolve, walk
from usbcast.recording.holes import Holes
from usbcast.recording.ledgers import RecordingLedger
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.errors import RecordingError, UsageError
from usbcast_schemas.v1 import usbcast_pb2 as pb

if TYPE_CHECKING:
    import pandas
    import pyarrow


def open_recording(path: str | Path | Sequence[str | Path]) -> Recording:
    """Open a file, several, a directory, or the base name of a recording's segments.

    Raises RecordingError if there is no recording, or the files belong to different ones.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    return Recording([walk(found) for found in resolve([Path(p) for p in paths])])


class Recording:
    """Read-only; holds no file open between calls. A context manager, for symmetry with `subscribe`."""

    def __init__(self, segments: Sequence[SegmentFile]) -> None:
        names = {segment.head.recording for segment in segments}
        if len(names) > 1:
            raise RecordingError(
                f"{len(segments)} files belong to {len(names)} recordings ({', '.join(sorted(names))}): open one at a time"
            )
        self.segments = sorted(segments, key=lambda segment: segment.head.index)
        self.damages: list[tuple[Path, Damage]] = [(s.path, damage) for s in self.segments for damage in s.damages]
        """Damage found so far, with its file."""
        self._infos: dict[str, pb.StreamInfo] | None = None

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """No-op: no file is open."""

    @property
    def streams(self) -> list[str]:
        """The names of the streams that are described in the recording."""
        return sorted(self._described())

    def info(self, stream: str) -> pb.StreamInfo:
        """Return the last description of `stream`. Raises UsageError if the recording does not have the stream."""
        try:
            return self._described()[stream]
        except KeyError:
            raise UsageError(
                f"this recording has no stream {stream!r}; it has {', '.join(self.streams) or 'no stream at all'}"
            ) from None

    @property
    def start_ns(self) -> int:
        """Time of the first entry; 0 if the recording is empty."""
        return min((chunk.start_ns for s in self.segments for chunk in s.chunks[:1]), default=0)

    @property
    def end_ns(self) -> int:
        return max((chunk.end_ns for s in self.segments for chunk in s.chunks[-1:]), default=0)

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments)

    def books(self) -> RecordingLedger:
        """Read everything and balance it: what is recorded, declared lost, and missing. `verify` also checks whole files."""
        ledger = RecordingLedger()
        for segment in self.segments:
            ledger.segment(segment.head.index, segment.path.name)
            for stored in self._stored_of(segment, 0):
                ledger.add(stored.stream, stored.item)
        ledger.finish()
        return ledger

    def stored(self, *, start_ns: int | None = None, until_ns: int | None = None) -> Iterator[Stored]:
        """Entries of all streams, in order, with times from `start_ns` to before `until_ns`."""
        for segment in self.segments:
            for stored in self._stored_of(segment, _first_chunk(segment, start_ns)):
                if until_ns is not None and stored.log_time_ns >= until_ns:
                    return
                if start_ns is None or stored.log_time_ns >= start_ns:
                    yield stored

    def events(
        self,
        stream: str,
        *,
        start_ns: int | None = None,
        until_ns: int | None = None,
        start_sequence: int | None = None,
        until_sequence: int | None = None,
        epoch: int | None = None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Iterator[Event]:
        """Events that a subscription to `stream` yielded. Bounds by time never split a batch.

        Packets lost to damage are a Gap of stage "recording" between the batches; `damages` lists the places. Sequences belong
        to `epoch`, by default the first one of the stream in this recording. `progress` is called with the number of bytes
        that are read.
        """
        reading = _Reading(self.info(stream))
        if start_ns is not None:
            for annotation in self._clock_before(stream, start_ns):
                list(reading.annotation(annotation))
        by_sequence = start_sequence is not None or until_sequence is not None
        for of, item in self._mended(start_ns, until_ns, progress):
            if of != stream:
                continue
            if isinstance(item, EncodedBatch):
                epoch = item.epoch if epoch is None else epoch
                if by_sequence:
                    if item.epoch != epoch:
                        continue
                    if until_sequence is not None and item.first_sequence >= until_sequence:
                        return
                    if start_sequence is not None and item.end_sequence <= start_sequence:
                        continue
                yield from reading.batch(item, start_sequence or 0)
            elif isinstance(item, pb.StreamInfo):
                reading.info(item)
            elif not by_sequence:
                yield from reading.annotation(item)

    def batches(self, stream: str, **bounds: Any) -> Iterator[Batch]:
        """Batches only; losses between them are in their `gaps`. Bounds as for `events`."""
        return (event for event in self.events(stream, **bounds) if isinstance(event, Batch))

    def to_pandas(self, stream: str, **bounds: Any) -> pandas.DataFrame:
        """Return all packets within the bounds, one row each, as Batch.to_pandas does. Needs the extra `pandas`."""
        frames = [batch.to_pandas() for batch in self.batches(stream, **bounds)]
        if not frames:
            raise UsageError(f"the recording has no packets of stream {stream!r} within these bounds")
        import pandas

        frame: pandas.DataFrame = pandas.concat(frames)
        return frame

    def to_arrow(self, stream: str, **bounds: Any) -> pyarrow.Table:
        """Return the same as an Arrow table. Needs the extra `arrow`."""
        batches = [batch.to_arrow() for batch in self.batches(stream, **bounds)]
        if not batches:
            raise UsageError(f"the recording has no packets of stream {stream!r} within these bounds")
        import pyarrow

        table: pyarrow.Table = pyarrow.Table.from_batches(batches)
        return table

    def _clock_before(self, stream: str, start_ns: int) -> Iterator[Annotation]:
        """Clock annotations at the head of the segment that holds `start_ns`, as reading begins after them."""
        before = [s for s in self.segments if s.chunks and s.chunks[0].start_ns < start_ns]
        for stored in before[-1].first_stored(0) if before else ():
            if stored.stream == stream and isinstance(stored.item, Annotation) and stored.item.kind == "clock":
                yield stored.item

    def _mended(
        self, start_ns: int | None, until_ns: int | None, progress: Callable[[int], object]
    ) -> Iterator[tuple[str, Item]]:
        """Entries with their streams, as `stored` yields them, and between them annotations for what is missing."""
        holes = Holes(anywhere=start_ns is not None)
        at_ns = 0
        for segment in self.segments:
            told = 0
            before = len(self.damages)
            holes.segment(segment.contents)
            for damage in segment.damages:
                holes.damage(_near(segment, damage))
            for stored in self._stored_of(segment, _first_chunk(segment, start_ns), progress):
                if until_ns is not None and stored.log_time_ns >= until_ns:
                    return
                for _, damage in self.damages[before + told :]:
                    told += 1
                    holes.damage(_near(segment, damage))
                for annotation in holes.before(stored.stream, stored.item, at_ns):
                    yield annotation.stream, annotation
                at_ns = stored.log_time_ns
                holes.add(stored.stream, stored.item)
                if start_ns is None or at_ns >= start_ns:
                    yield stored.stream, stored.item
            for _, damage in self.damages[before + told :]:
                holes.damage(_near(segment, damage))
            for annotation in holes.rest(at_ns):
                yield annotation.stream, annotation

    def _stored_of(
        self, segment: SegmentFile, first_chunk: int, progress: Callable[[int], object] = lambda _: None
    ) -> Iterator[Stored]:
        damages: list[Damage] = []
        for stored in segment.stored(first_chunk, damages, progress):
            self._note(segment, damages)
            yield stored
        self._note(segment, damages)

    def _note(self, segment: SegmentFile, damages: list[Damage]) -> None:
        self.damages += [(segment.path, damage) for damage in damages]
        damages.clear()

    def _described(self) -> dict[str, pb.StreamInfo]:
        """Return the last description of each stream; that of a new stream may be anywhere in a segment."""
        if self._infos is None:
            self._infos = {}
            with_batches: set[str] = set()
            for segment in self.segments:
                heads = segment.first_stored(0) if segment.chunks else ()
                found = {s.item.stream: s.item for s in heads if isinstance(s.item, pb.StreamInfo)}
                names = {channel.stream for channel in segment.known_channels()} - {""}
                if not names or names - found.keys():
                    for stored in segment.stored():
                        if isinstance(stored.item, pb.StreamInfo):
                            found[stored.item.stream] = stored.item
                with_batches |= {c.stream for c in segment.known_channels() if c.stream and c.schema == BATCH_SCHEMA}
                copies = {info.stream: info for info in segment.copies.descriptions}
                self._infos |= copies | found
            for stream in with_batches - self._infos.keys():
                self._infos[stream] = pb.StreamInfo(stream=stream)
                self._undescribed(stream)
        return self._infos

    def _undescribed(self, stream: str) -> None:
        sentence = f"the description of stream {stream!r} is gone: its packets are read as bytes without fields"
        self.damages.append((self.segments[0].path, Damage(0, sentence)))


def _first_chunk(segment: SegmentFile, start_ns: int | None) -> int:
    """Return the chunk to begin with: one earlier than the times of the chunks say, as a damaged one may have a wrong time."""
    if start_ns is None:
        return 0
    ends = (at for at, chunk in enumerate(segment.chunks) if chunk.end_ns >= start_ns)
    return max(0, next(ends, len(segment.chunks)) - 1)


def _near(segment: SegmentFile, damage: Damage) -> str:
    return f"{segment.path.name} was damaged near byte {damage.offset:,}"


class _Reading:
    """Turns the entries of one stream into events, as the receiver did."""

    def __init__(self, info: pb.StreamInfo) -> None:
        self._gaps: list[Gap] = []
        self._dejitter: Dejitter | None = None
        self._clock: ClockOffset | None = None
        self.info(info)

    def info(self, info: pb.StreamInfo) -> None:
        self._layout = Layout(info.fields, info.packet_size)
        if self._dejitter is None:
            self._dejitter = dejitter_of(info.nominal_rate_hz)

    def batch(self, batch: EncodedBatch, start_sequence: int) -> Iterator[Event]:
        skip = min(max(0, start_sequence - batch.first_sequence), batch.packet_count)
        if not skip:
            for loss in batch.losses:
                yield self._gap(gap_of_loss(loss, batch.first_sequence, batch.epoch))
            for event in batch.events:
                yield device_event(event)
        if batch.packet_count > skip:
            if self._dejitter is not None:
                last = batch.first_sequence - 1
                for count, realtime_ns in zip(batch.arrivals.packets, batch.arrivals.realtime_ns, strict=True):
                    last += count
                    self._dejitter.update(last, realtime_ns)
            known = self._clock  # the offset at this time, whatever is learnt later
            yield Batch(batch, DecodeContext(self._layout, self._dejitter, lambda: known), tuple(self._gaps), skip)
            self._gaps.clear()
        if batch.end is not None:
            yield End(batch.end.reason, batch.end.packets)

    def annotation(self, annotation: Annotation) -> Iterator[Event]:
        if annotation.kind == "gap":
            yield self._gap(gap_of(annotation))
        elif annotation.kind == "clock":
            self._clock = clock_of(annotation) or self._clock
        elif annotation.kind == "restart":
            if self._dejitter is not None:
                self._dejitter.restart()
            yield restart_of(annotation)
        elif annotation.kind == "silence":
            yield Silence(int(annotation.fields["duration_ns"]), bool(annotation.fields.get("upstream")))

    def _gap(self, gap: Gap) -> Gap:
        self._gaps.append(gap)
        return gap

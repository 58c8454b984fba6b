"""Entries of a recording: batches as they were published, descriptions of streams, and annotations; and their MCAP form.

One channel per stream and epoch carries batches, one per stream the descriptions, one per stream the annotations about it;
the channel `recording` carries annotations about the recording as a whole. Everything needed to read a file is in that file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from usbcast.clock.offset import ClockOffset
from usbcast.events import Gap, Restart, Silence
from usbcast.receiving.continuity import Position
from usbcast.recording.annotation_fields import read_annotation
from usbcast.recording.contents import Contents, Run
from usbcast_schemas.batch import EncodedBatch, decode_batch
from usbcast_schemas.contract import is_stream_name
from usbcast_schemas.errors import WireError
from usbcast_schemas.parsing import parse
from usbcast_schemas.v1 import usbcast_pb2 as pb

PROFILE = "usbcast"
"""The `profile` of the file's header."""

SEGMENT = "usbcast.segment"
"""Name of the metadata record at the beginning of each segment."""

RECORDING = "recording"
"""Topic of the annotations about the recording as a whole."""

BATCH_SCHEMA = "usbcast_schemas.v1.PacketBatch"
INFO_SCHEMA = "usbcast_schemas.v1.StreamInfo"
ANNOTATION_SCHEMA_NAME = "usbcast.Remark"

STAGE = "recording"
"""Stage of losses between the subscription and the file."""

ANNOTATION_SCHEMA = {
    "title": "usbcast.Remark",
    "type": "object",
    "required": ["kind", "time_ns"],
    "properties": {
        "kind": {"type": "string"},
        "time_ns": {"type": "integer", "description": "when it was noticed, nanoseconds since 1970"},
        "stream": {"type": "string"},
        "epoch": {"type": "string", "description": "16 hex digits"},
        "first": {"type": "integer"},
        "last": {"type": "integer"},
        "count": {"type": "integer"},
        "stage": {"type": "string"},
        "reason": {"type": "string"},
    },
}


@dataclass(frozen=True, slots=True)
class Annotation:
    """An event beside the batches, in order with them. docs/recording.md lists the kinds."""

    kind: str
    time_ns: int
    stream: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        head = {"kind": self.kind, "time_ns": self.time_ns, **({"stream": self.stream} if self.stream else {})}
        return json.dumps({**head, **self.fields}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Annotation:
        """Decode an annotation. Raises WireError for anything else."""
        try:
            return cls(*read_annotation(data))
        except (ValueError, WireError) as error:
            raise WireError(f"{data[:80]!r} is not an annotation of a recording: {error}") from None


@lru_cache(maxsize=1024)
def _stream_in(metadata: tuple[tuple[str, str], ...]) -> str:
    said = dict(metadata).get("stream", "")
    return said if is_stream_name(said) else ""


@dataclass(frozen=True, slots=True)
class Channel:
    """An MCAP channel, identified by its content instead of its number."""

    topic: str
    encoding: str
    schema: str
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def stream(self) -> str:
        """Name of the stream that it belongs to; empty if it belongs to the whole recording, or if the name is invalid."""
        return _stream_in(self.metadata)

    @property
    def misnamed(self) -> str:
        """The name that it gives its stream, if that is not a valid stream name; else empty."""
        said = dict(self.metadata).get("stream", "")
        return said if said and not is_stream_name(said) else ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a recording, ready to be written."""

    channel: Channel
    time_ns: int
    sequence: int
    data: bytes | memoryview
    run: Run | None = None
    """The run that it adds to the contents of the file."""
    info: pb.StreamInfo | None = None
    """The description, if the entry is one."""


Item = EncodedBatch | pb.StreamInfo | Annotation
"""An entry, decoded."""


def batch_entry(stream: str, batch: EncodedBatch) -> Entry:
    """Entry with the batch as it was published. Its time is that of its last packet, device event or end; else 0."""
    channel = Channel(f"{stream}/batches", "protobuf", BATCH_SCHEMA, stream_epoch(stream, batch.epoch))
    if batch.arrivals.realtime_ns:
        time_ns = batch.arrivals.realtime_ns[-1]
    elif batch.events:
        time_ns = batch.events[-1].realtime_ns
    else:
        time_ns = batch.end.realtime_ns if batch.end is not None else 0
    raw = batch.raw if isinstance(batch.raw, bytes) else bytes(batch.raw)
    return Entry(channel, time_ns, batch.number & 0xFFFFFFFF, raw, run_of(batch))


def info_entry(info: pb.StreamInfo, time_ns: int) -> Entry:
    channel = Channel(f"{info.stream}/info", "protobuf", INFO_SCHEMA, (("stream", info.stream),))
    return Entry(channel, time_ns, 0, info.SerializeToString(deterministic=True), None, info)


def annotation_entry(annotation: Annotation) -> Entry:
    topic = f"{annotation.stream}/remarks" if annotation.stream else RECORDING
    channel = Channel(
        topic, "json", ANNOTATION_SCHEMA_NAME, (("stream", annotation.stream),) if annotation.stream else ()
    )
    return Entry(channel, annotation.time_ns, 0, annotation.encode(), run_of(annotation))


def run_of(item: Item) -> Run | None:
    """Return the sequences and batch numbers that an item covers; None if it covers nothing."""
    if isinstance(item, EncodedBatch):
        return Run(item.epoch, item.first_sequence, item.end_sequence, item.first_number, item.number + 1)
    if not isinstance(item, Annotation):
        return None
    fields = item.fields
    if item.kind == "gap":
        gap = gap_of(item)
        return Run(int(fields["epoch"], 16), gap.first, gap.last + 1)
    if item.kind == "restart":
        return Run(int(fields["epoch"], 16), 0, 0, 0, 0)
    if item.kind == "begin" and "epoch" in fields:
        sequence, number = int(fields["next_sequence"]), int(fields["next_number"])
        return Run(int(fields["epoch"], 16), sequence, sequence, number, number)
    return None


def stream_epoch(stream: str, epoch: int) -> tuple[tuple[str, str], ...]:
    return (("stream", stream), ("epoch", hex_epoch(epoch)))


def decode_entry(schema: str, data: bytes) -> Item | None:
    """Decode a message by the name of its schema; return None for a schema of another program. Raises WireError."""
    if schema == BATCH_SCHEMA:
        return decode_batch(data)
    if schema == ANNOTATION_SCHEMA_NAME:
        return Annotation.decode(data)
    if schema == INFO_SCHEMA:
        return decode_info(data)
    return None


def decode_info(data: bytes) -> pb.StreamInfo:
    """Decode the description of a stream. Raises WireError."""
    info = parse(pb.StreamInfo, data, "a description")
    if not is_stream_name(info.stream):
        raise WireError(f"a description names {info.stream[:80]!r}, which is not a valid stream name")
    return info


def schema_of(name: str) -> tuple[str, bytes]:
    """Return encoding and data of a schema by its name, as MCAP's registry defines them."""
    if name == ANNOTATION_SCHEMA_NAME:
        return "jsonschema", json.dumps(ANNOTATION_SCHEMA).encode()
    files = FileDescriptorSet()
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    return "protobuf", files.SerializeToString(deterministic=True)


def hex_epoch(epoch: int) -> str:
    return f"{epoch:016x}"


# Annotations about a file


def contents_annotation(contents: Contents, recording: str, segment: int, time_ns: int) -> Annotation:
    """Annotation that says what the file covers up to here, and which file it is."""
    return Annotation("contents", time_ns, "", {"recording": recording, "segment": segment, **contents.to_fields()})


def damaged_annotation(reason: str, time_ns: int) -> Annotation:
    """Annotation that the file was recovered, and what could not be read."""
    return Annotation("damaged", time_ns, "", {"reason": reason})


def unknown_annotation(stream: str, epoch: int, first: int, reason: str, time_ns: int) -> Annotation:
    """Annotation that damage took an unknown amount of `stream` before sequence `first`."""
    return Annotation("unknown", time_ns, stream, {"epoch": hex_epoch(epoch), "first": first, "reason": reason})


# Annotations about streams


def begin_annotation(stream: str, position: Position | None, time_ns: int) -> Annotation:
    """Annotation with the position of `stream` at the beginning of a segment; None if it has no position yet."""
    fields: dict[str, Any] = {}
    if position is not None:
        fields = {
            "epoch": hex_epoch(position.epoch),
            "next_sequence": position.next_sequence,
            "next_number": position.next_number,
        }
    return Annotation("begin", time_ns, stream, fields)


def gap_annotation(stream: str, epoch: int, gap: Gap, time_ns: int) -> Annotation:
    fields: dict[str, Any] = {
        "epoch": hex_epoch(epoch),
        "first": gap.first,
        "last": gap.last,
        "count": gap.count,
        "stage": gap.stage,
        "reason": gap.reason,
        **({"on_purpose": True} if gap.on_purpose else {}),
    }
    return Annotation("gap", time_ns, stream, fields)


def restart_annotation(stream: str, restart: Restart, time_ns: int) -> Annotation:
    return Annotation(
        "restart",
        time_ns,
        stream,
        {
            "epoch": hex_epoch(restart.new_epoch),
            "old_epoch": hex_epoch(restart.old_epoch),
            "delivered_until": restart.delivered_until,
            "known_until": restart.known_until,
        },
    )


def silence_annotation(stream: str, silence: Silence, time_ns: int) -> Annotation:
    fields: dict[str, Any] = {"duration_ns": silence.duration_ns}
    return Annotation("silence", time_ns, stream, fields | ({"upstream": True} if silence.upstream else {}))


def clock_annotation(stream: str, known: ClockOffset | None, time_ns: int) -> Annotation:
    """Annotation with the clock offset of the host that reads `stream` against the recording host; None if it is unknown."""
    fields: dict[str, Any] = {}
    if known is not None:
        fields = {
            "realtime_ns": known.at_ns,
            "node_ahead_ns": known.offset_ns,
            "uncertainty_ns": known.uncertainty_ns,
            "drift_ppm": known.drift_ppm,
            "drift_uncertainty_ppm": known.drift_uncertainty_ppm,
        }
    return Annotation("clock", time_ns, stream, fields)


def clock_of(annotation: Annotation) -> ClockOffset | None:
    """Return the clock offset in an annotation of kind "clock"; None if it was unknown."""
    f = annotation.fields
    if "node_ahead_ns" not in f:
        return None
    return ClockOffset(
        offset_ns=int(f["node_ahead_ns"]),
        uncertainty_ns=int(f["uncertainty_ns"]),
        drift_ppm=float(f["drift_ppm"]),
        drift_uncertainty_ppm=float(f["drift_uncertainty_ppm"]),
        at_ns=int(f["realtime_ns"]),
    )


def gap_of(annotation: Annotation) -> Gap:
    """Return the Gap in an annotation of kind "gap"."""
    f = annotation.fields
    on_purpose = f.get("on_purpose", False)
    epoch = int(f["epoch"], 16)
    return Gap(f["first"], f["last"], f["count"], f["stage"], f["reason"], on_purpose=on_purpose, epoch=epoch)


def restart_of(annotation: Annotation) -> Restart:
    f = annotation.fields
    return Restart(int(f["old_epoch"], 16), int(f["epoch"], 16), f["delivered_until"], f["known_until"])

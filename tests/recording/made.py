"""A recording made without a node: known batches in known chunks, so that every byte of it can be damaged."""

from __future__ import annotations

from pathlib import Path

from usbcast.events import Gap
from usbcast.receiving.continuity import Position
from usbcast.recording.entries import (
    Annotation,
    annotation_entry,
    batch_entry,
    begin_annotation,
    gap_annotation,
    hex_epoch,
    info_entry,
)
from usbcast.recording.segment import Head, Segment
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

EPOCH = 0xE
PER_BATCH = 10
BATCHES_PER_CHUNK = 4
SIZE = 16


def batch(number: int, *, epoch: int = EPOCH, first: int | None = None, count: int = PER_BATCH) -> EncodedBatch:
    """Batch `number`; each packet holds its own sequence."""
    begin = number * PER_BATCH if first is None else first
    payload = b"".join((begin + i).to_bytes(SIZE, "little") for i in range(count))
    at = 1_700_000_000_000_000_000 + number * 1_000_000
    return decode_batch(
        encode_batch(
            epoch=epoch, number=number, first_sequence=begin, packet_count=count, packet_size=SIZE if count else 0,
            payload=[payload], arrivals=Arrivals((count,), (at,), (at,)) if count else Arrivals(),
        )
    )  # fmt: skip


def info() -> pb.StreamInfo:
    fields = [
        pb.Field(name="count", type="u32", offset=0),
        pb.Field(name="level", type="i16", offset=0, scale=0.5, zero=1.0, unit="V"),
    ]
    return pb.StreamInfo(
        stream="s", epoch=EPOCH, packet_size=SIZE, fields=fields, profile_name="made", nominal_rate_hz=1e4
    )


def make(directory: Path, *, segments: int = 3, chunks: int = 3, gap_at: int | None = None) -> list[Path]:
    """Write a whole recording; `gap_at` is the number of a batch that is declared lost instead."""
    made = []
    number = 0
    position = None
    for index in range(segments):
        segment = Segment(directory / f"r-{index:05d}.mcap", Head("aa", index, 1, "host"), "zstd")
        segment.add(info_entry(info(), 1))
        segment.add(annotation_entry(begin_annotation("s", position, 1)))
        for _ in range(chunks):
            for _ in range(BATCHES_PER_CHUNK):
                if number == gap_at:
                    first = number * PER_BATCH
                    gap = Gap(first, first + PER_BATCH - 1, PER_BATCH, "ring", "overwritten in the ring")
                    segment.add(annotation_entry(gap_annotation("s", EPOCH, gap, 1)))
                else:
                    segment.add(batch_entry("s", batch(number)))
                number += 1
            segment.sync()
        position = Position(EPOCH, number * PER_BATCH, number)
        said = {"epoch": hex_epoch(EPOCH), "next_sequence": position.next_sequence, "next_number": number}
        final = index == segments - 1
        close = Annotation("close", 2, "", {"reason": "enough", "final": final, "streams": {"s": said}})
        segment.add(annotation_entry(close))
        made.append(segment.finish())
    return made


def total(segments: int = 3, chunks: int = 3) -> int:
    return segments * chunks * BATCHES_PER_CHUNK * PER_BATCH

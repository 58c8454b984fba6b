"""Messages as they are stored: made from the records of a subscription, and read back. Batches keep their bytes.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbcast.events import STAGES, Gap, stage_of
from usbcast.jetstream.names import Names
from usbcast.receiving.continuity import Position
from usbcast_schemas.batch import MAX_COUNT, EncodedBatch, decode_batch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_REQUEST_FIELDS, check_level, decode_message

EPOCH_OVER = 2**64 - 1
"""The number behind the last batch of an epoch whose end nobody saw."""

_STAGE_OF = {name: stage for stage, name in STAGES.items()}


@dataclass(slots=True)
class Outgoing:
    """A message to be stored."""

    subject: str
    message_id: str
    body: bytes
    after: Position
    """Position of the stream once this is stored."""
    packets: int = 0
    gap: Gap | None = None
    realtime_ns: int = 0
    monotonic_ns: int = 0
    """Time at which the last packet was read from the device; 0 without packets."""


@dataclass(slots=True)
class StoredGap:
    """A gap read back."""

    epoch: int
    gap: Gap
    next_number: int | None


def batch_message(names: Names, batch: EncodedBatch) -> Outgoing:
    """The batch's own bytes, under an id that no other batch of the stream ever has."""
    arrivals = batch.arrivals
    return Outgoing(
        names.batch,
        f"{names.stream}/{batch.epoch:016x}/{batch.first_sequence}/{batch.number}",
        bytes(batch.raw),
        Position(batch.epoch, batch.end_sequence, batch.number + 1),
        batch.packet_count,
        None,
        arrivals.realtime_ns[-1] if arrivals.packets else 0,
        arrivals.monotonic_ns[-1] if arrivals.packets else 0,
    )


def gap_message(names: Names, epoch: int, gap: Gap, next_number: int | None) -> Outgoing:
    """A gap of `epoch`, before the batch `next_number`; None if nothing follows in the epoch."""
    lost = pb.LostRange(first_sequence=gap.first, count=gap.count, stage=_STAGE_OF[gap.stage], reason=gap.reason)
    message = pb.Gap(contract=CONTRACT, epoch=epoch, lost=lost)
    if next_number is not None:
        message.next_number = next_number
    return Outgoing(
        names.gap,
        f"{names.stream}/{epoch:016x}/{gap.first}/gap/{gap.count}/{'end' if next_number is None else next_number}",
        message.SerializeToString(deterministic=True),
        Position(epoch, gap.last + 1, EPOCH_OVER if next_number is None else next_number),
        0,
        gap,
    )


def read(subject: str, body: bytes) -> EncodedBatch | StoredGap:
    """A stored message; raise WireError or VersionMismatch if it is not one of ours."""
    kind = subject.rpartition(".")[2]
    if kind == "batch":
        return decode_batch(body)
    if kind != "gap":
        raise WireError(f"a message on the subject {subject[:100]!r} is neither a batch nor a gap")
    message = decode_message(pb.Gap, body, "a gap", MAX_REQUEST_FIELDS)
    lost = message.lost
    if lost.first_sequence + lost.count > MAX_COUNT:
        raise WireError(
            f"a gap of {lost.count} packets from sequence {lost.first_sequence} on does not fit into 64 bits"
        )
    gap = Gap(
        lost.first_sequence,
        lost.first_sequence + lost.count - 1,
        lost.count,
        stage_of(lost.stage),
        lost.reason,
        epoch=message.epoch,
    )
    return StoredGap(message.epoch, gap, message.next_number if message.HasField("next_number") else None)


def read_info(body: bytes) -> pb.StreamInfo:
    """A stored description; raise WireError or VersionMismatch."""
    info = decode_message(pb.StreamInfo, body, "a description")
    check_level(info)
    return info


def position_after(item: EncodedBatch | StoredGap) -> Position:
    """Return the position of the stream behind a stored message."""
    if isinstance(item, StoredGap):
        return Position(item.epoch, item.gap.last + 1, EPOCH_OVER if item.next_number is None else item.next_number)
    return Position(item.epoch, item.end_sequence, item.number + 1)

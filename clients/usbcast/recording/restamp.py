"""Restamping of played batches: recorded packets get the epoch, numbers and times of a live stream.

Holes stay holes. The epochs of the recording, and the passes of a loop, are joined into one epoch, as of one device.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbcast_schemas.batch import MAX_COUNT, Arrivals, Encoded, EncodedBatch, encode_batch
from usbcast_schemas.errors import RecordingError
from usbcast_schemas.v1 import usbcast_pb2 as pb

_MOST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Shift:
    """Mapping from recorded times to the present: `recorded_ns` becomes `realtime_ns` and `monotonic_ns`."""

    recorded_ns: int
    realtime_ns: int
    monotonic_ns: int
    speed: float = 1.0

    def elapsed_ns(self, recorded_ns: int) -> int:
        return int((recorded_ns - self.recorded_ns) / self.speed)


class Restamper:
    """Numbers one stream. `join` begins a new epoch of the recording, or a new pass."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.next_sequence = 0
        self.next_number = 0
        self._from: tuple[int, int, int] | None = None
        """Recorded epoch, and the sequence and number that follow its last batch."""

    def join(self) -> None:
        """Let the next batch follow without a hole."""
        self._from = None

    def restamp(self, batch: EncodedBatch, shift: Shift | None) -> Encoded | None:
        """Return the batch as it is played; None if it would be empty. Without a `shift` its times stay as they were."""
        if not batch.packet_count and not batch.events and not batch.losses:
            return None  # the end of a recorded epoch is not the end of the played stream
        if self._from is None or self._from[0] != batch.epoch:
            missing = skipped = 0
        else:
            missing = max(0, batch.first_sequence - self._from[1])
            skipped = max(0, batch.number - self._from[2])
        first, number = self.next_sequence + missing, self.next_number + skipped
        if max(first + batch.packet_count, number + 1) > MAX_COUNT:
            raise RecordingError(
                f"the recording would play as {first + batch.packet_count:,} packets in {number + 1:,} batches, more than 64 "
                "bits can number, so no device sent them: play a part of it with --from and --to"
            )
        raw = encode_batch(
            epoch=self.epoch,
            number=number,
            first_sequence=first,
            packet_count=batch.packet_count,
            packet_size=batch.packet_size,
            payload=[batch.payload],
            packet_ends=batch.packet_ends,
            arrivals=batch.arrivals if shift is None else _arrivals(batch.arrivals, shift),
            losses=batch.losses,
            events=batch.events if shift is None else [_event(event, shift) for event in batch.events],
        )
        self._from = (batch.epoch, batch.end_sequence, batch.number + 1)
        self.next_sequence, self.next_number = first + batch.packet_count, number + 1
        return Encoded(raw, number, first, batch.packet_count)


def _arrivals(arrivals: Arrivals, shift: Shift) -> Arrivals:
    elapsed = [shift.elapsed_ns(at) for at in arrivals.realtime_ns]
    return Arrivals(
        arrivals.packets,
        [_time(shift.realtime_ns + ns) for ns in elapsed],
        [_time(shift.monotonic_ns + ns) for ns in elapsed],
    )


def _event(event: pb.DeviceEvent, shift: Shift) -> pb.DeviceEvent:
    elapsed = shift.elapsed_ns(event.realtime_ns)
    made = pb.DeviceEvent()
    made.CopyFrom(event)
    made.realtime_ns, made.monotonic_ns = _time(shift.realtime_ns + elapsed), _time(shift.monotonic_ns + elapsed)
    return made


def _time(ns: int) -> int:
    """Return the time, clamped to 64 bits, whatever was recorded."""
    return min(max(-_MOST_NS, ns), _MOST_NS)

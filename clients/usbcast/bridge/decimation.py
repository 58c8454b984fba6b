"""Decimation: carries one of n packets, each in a batch of its own, under its own sequence, with a hole before it.

The result is another stream: its batches are not those of the upstream, so it has another epoch, derived from the upstream's
and from n. Epoch, numbers and content follow from the input and its position alone: two bridges that carry one of n packets
of the same stream make the same batches, and so does a bridge that was restarted.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from usbcast.bridge.carrier import hole_of
from usbcast.events import Gap
from usbcast.receiving.continuity import Delivery
from usbcast_schemas.batch import MAX_COUNT, NO_ARRIVALS, Arrivals, Encoded, EncodedBatch, encode_batch
from usbcast_schemas.errors import WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb

EMPTY_BATCH_BITS = 16
"""Between two carried packets, 2 to the power of this batch numbers are reserved for batches without packets."""


def epoch_of_every(epoch: int, every: int) -> int:
    """Return the epoch of the stream that carries one of `every` packets of `epoch`."""
    digest = hashlib.blake2b(epoch.to_bytes(8, "little") + every.to_bytes(8, "little"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


class EveryNth:
    """Makes the batches of one epoch."""

    def __init__(self, upstream_epoch: int, every: int, reason: str) -> None:
        self.epoch = epoch_of_every(upstream_epoch, every)
        self._every = every
        self._reason = reason
        self._next: int | None = None
        """Everything before this sequence is carried or declared."""
        self._last = 0
        """Number of the last batch made."""
        self._lost: list[pb.LostRange] = []
        """Losses from `_next` on that are not declared yet."""

    def deliver(self, delivery: Delivery) -> list[Encoded]:
        batch = delivery.batch
        self._begin_at(batch.first_sequence if not delivery.gaps else delivery.gaps[0].first)
        self._lost += [hole_of(gap) for gap in delivery.gaps if gap not in delivery.told]
        self._lost += batch.holes
        self._lost.sort(key=lambda lost: lost.first_sequence)
        made = []
        if batch.losses or batch.events or batch.end is not None or self._lost:
            made.append(self._empty_batch(batch.first_sequence, batch))
        first = batch.first_sequence + -batch.first_sequence % self._every
        for sequence in range(first, batch.end_sequence, self._every):
            made.append(self._packet(batch, sequence))
        return made

    def lose(self, gap: Gap, until_number: int | None = None) -> list[Encoded]:  # noqa: ARG002 - numbers here are its own
        self._begin_at(gap.first)
        self._lost.append(hole_of(gap))
        return [self._empty_batch(gap.last + 1, None)]

    def _begin_at(self, sequence: int) -> None:
        if self._next is None:
            # As if everything since the previous carried packet had been received and left out.
            self._next = max(0, sequence - 1) // self._every * self._every + 1 if sequence else 0
            self._last = self._numbered_from(sequence) - 1

    def _numbered_from(self, sequence: int) -> int:
        """Return the first number after the last packet that is carried before `sequence`; 0 if `sequence` is 0."""
        return (-(-sequence // self._every) << EMPTY_BATCH_BITS) + (1 if sequence else 0)

    def _empty_batch(self, at: int, batch: EncodedBatch | None) -> Encoded:
        """Return a batch without packets at sequence `at`, with the losses, events and end of `batch`."""
        number = max(self._last + 1, self._numbered_from(at))
        if batch is None:
            return self._encode(number, at, b"", NO_ARRIVALS, 0, (), (), None)
        return self._encode(number, at, b"", NO_ARRIVALS, 0, batch.losses, batch.events, batch.end)

    def _packet(self, batch: EncodedBatch, sequence: int) -> Encoded:
        at = sequence - batch.first_sequence
        size, ends = batch.packet_size, batch.packet_ends
        begin, end = (at * size, (at + 1) * size) if size else (ends[at - 1] if at else 0, ends[at])
        number = max(self._last + 1, (sequence // self._every + 1) << EMPTY_BATCH_BITS)
        return self._encode(
            number, sequence, bytes(batch.payload[begin:end]), _arrival(batch.arrivals, at), size, (), (), None
        )

    def _encode(
        self, number: int, first: int, packet: bytes, arrivals: Arrivals, size: int,
        losses: Sequence[pb.Loss], events: Sequence[pb.DeviceEvent], end: pb.StreamEnd | None,
    ) -> Encoded:  # fmt: skip
        count = len(arrivals.packets)
        if number >= MAX_COUNT:
            raise WireError(
                f"packet {first} is too far from the first one to be numbered when one of {self._every} packets is carried"
            )
        holes = self._holes_until(first)
        skipped = number - self._last - 1
        if skipped > 0:
            if not holes:
                holes = [self._left_out(first, first)]
            holes[0].batches = skipped
        raw = encode_batch(
            epoch=self.epoch, number=number, first_sequence=first, packet_count=count, packet_size=size,
            payload=(packet,), packet_ends=(len(packet),) if count and not size else (), arrivals=arrivals,
            losses=losses, events=events, end=end, holes=holes,
        )  # fmt: skip
        self._last = number
        self._next = first + count
        return Encoded(raw, number, first, count)

    def _holes_until(self, until: int) -> list[pb.LostRange]:
        """Return the losses, and the packets left out between them, from `_next` to before `until`."""
        here = self._next or 0
        holes = []
        for lost in self._lost:
            begin, end = max(here, lost.first_sequence), lost.first_sequence + lost.count
            if end < here or (lost.count and end == here):
                continue
            if begin > here:
                holes.append(self._left_out(here, begin))
            part = pb.LostRange(
                first_sequence=begin,
                count=end - begin,
                stage=lost.stage,
                reason=lost.reason,
                on_purpose=lost.on_purpose,
            )
            holes.append(part)
            here = end
        self._lost.clear()
        if until > here:
            holes.append(self._left_out(here, until))
        return holes

    def _left_out(self, begin: int, until: int) -> pb.LostRange:
        return pb.LostRange(
            first_sequence=begin, count=until - begin, stage=pb.STAGE_BRIDGE, reason=self._reason, on_purpose=True
        )


def _arrival(arrivals: Arrivals, at: int) -> Arrivals:
    """Return the arrival of packet `at` of a batch."""
    passed = 0
    for packets, realtime_ns, monotonic_ns in zip(*arrivals, strict=True):
        passed += packets
        if at < passed:
            return Arrivals((1,), (realtime_ns,), (monotonic_ns,))
    raise AssertionError("the arrivals of a batch speak of all its packets")

"""What a bridge passes on: the batches of its upstream as they are, and in the place of what it cannot have, why.

A hole is told in a batch without packets that takes the numbers of the batches which are gone. So it stands in the ring, is
sent and fetched like any other, and every subscriber learns the same of it, whenever it joins.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from usbcast.bridge.choice import LEFT_OUT
from usbcast.events import Gap
from usbcast.receiving.continuity import Delivery
from usbcast_broker.stream.batcher import Encoded
from usbcast_schemas.batch import EncodedBatch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb


class Level(NamedTuple):
    """How far a stream has come: the sequence and the number of the batch that come next."""

    next_sequence: int
    next_number: int


class Carrier(Protocol):
    """Makes of one epoch of an upstream what the bridge publishes."""

    epoch: int
    """Of what it makes."""

    def deliver(self, delivery: Delivery) -> list[Encoded]:
        """A batch came, with the gaps before it."""

    def lose(self, gap: Gap, until_number: int | None = None) -> list[Encoded]:
        """Packets will not come, in batches up to `until_number`, if that is known."""


class Whole:
    """Every batch as it is.

    `level` is the sequence up to which the stream had come when this bridge began to serve it: whoever joined then is owed all
    from there on. What the first batch shows to have come before the bridge had any is told with `before` as its reason.
    """

    def __init__(self, epoch: int, level: Level | None = None, before: str = "", *, on_purpose: bool = True) -> None:
        self.epoch = epoch
        self._level = level
        self._before = before
        self._before_on_purpose = on_purpose
        self._next_number: int | None = None
        self._told_until = 0
        """Up to where all is carried or told of."""
        self._untold: Gap | None = None
        """What there was no number for yet."""

    def deliver(self, delivery: Delivery) -> list[Encoded]:
        batch = delivery.batch
        made = []
        first = delivery.gaps[0].first if delivery.gaps else batch.first_sequence + delivery.skip
        missed = [*self._since_level(first), *(gap for gap in delivery.gaps if gap not in delivery.told)]
        if self._untold is not None:
            missed.insert(0, self._untold)
            self._untold = None
        if not missed and self._next_number is not None and batch.first_number > self._next_number:
            # Its packets were told of; only its number is free still.
            here = batch.holes[0].first_sequence if batch.holes else batch.first_sequence
            missed = [Gap(here, here - 1, 0, "bridge", "told of before", on_purpose=True, epoch=self.epoch)]
        if missed:
            made = self._hole(missed, batch.first_number)
        self._next_number = batch.number + 1
        self._told_until = batch.end_sequence
        if delivery.skip and delivery.skip == batch.packet_count:
            return [*made, _remarks_of(batch)]
        return [*made, Encoded(batch.raw, batch.number, batch.first_sequence, batch.packet_count)]

    def lose(self, gap: Gap, until_number: int | None = None) -> list[Encoded]:
        if gap.count and gap.last < self._told_until:
            return []  # what a batch says was kept when its packets were skipped, and that told of them
        gaps = self._since_level(gap.first)
        if self._untold is not None:
            first = self._untold.first
            gap = replace(gap, first=first, count=gap.last + 1 - first)
        if until_number is None:  # the epoch is over, and nothing follows that could tell
            until_number = (self._next_number or 0) + 1
        else:
            until_number -= 1  # the number of the last one stays free: it may be the end
        made = self._hole([*gaps, gap], until_number)
        self._untold = None if made else _joined([*gaps, gap])
        return made

    def _since_level(self, first: int) -> list[Gap]:
        """What lies between the level and `first`, where the bridge begins; once."""
        level, self._level = self._level, None
        if level is None or first <= level.next_sequence:
            return []
        self._next_number = level.next_number
        begin = level.next_sequence
        on_purpose = self._before_on_purpose
        return [Gap(begin, first - 1, first - begin, "bridge", self._before, on_purpose=on_purpose, epoch=self.epoch)]

    def _hole(self, gaps: Sequence[Gap], until_number: int) -> list[Encoded]:
        """A batch that tells of `gaps` and stands for the numbers from the next one up to `until_number`."""
        number = until_number - 1
        first_number = number if self._next_number is None else self._next_number
        if number < first_number:
            return []  # no number is free for it: then the upstream has told of them itself
        self._next_number = until_number
        return [hole_batch(self.epoch, number, number - first_number, gaps)]


def _joined(gaps: Sequence[Gap]) -> Gap:
    """One gap for adjoining ones; on purpose only if all of them are."""
    first, last = gaps[0].first, gaps[-1].last
    on_purpose = all(gap.on_purpose for gap in gaps)
    return replace(gaps[-1], first=first, count=last + 1 - first, on_purpose=on_purpose)


def _remarks_of(batch: EncodedBatch) -> Encoded:
    """A batch whose packets were skipped for newer ones: what it says beside them."""
    skipped = pb.LostRange(
        first_sequence=batch.first_sequence, count=batch.packet_count, stage=pb.STAGE_BRIDGE,
        reason=f"{LEFT_OUT}: newer packets are carried", on_purpose=True,
    )  # fmt: skip
    raw = encode_batch(
        epoch=batch.epoch, number=batch.number, first_sequence=batch.end_sequence, packet_count=0, packet_size=0,
        payload=(), losses=batch.losses, events=batch.events, end=batch.end, holes=[*batch.holes, skipped],
    )  # fmt: skip
    return Encoded(raw, batch.number, batch.end_sequence, 0)


def hole_batch(epoch: int, number: int, batches: int, gaps: Sequence[Gap]) -> Encoded:
    """A batch without packets in the place of those that are gone, `batches` of them beside its own number."""
    holes = [hole_of(gap) for gap in gaps]
    holes[0].batches = batches
    until = gaps[-1].last + 1
    raw = encode_batch(
        epoch=epoch, number=number, first_sequence=until, packet_count=0, packet_size=0, payload=(), holes=holes
    )
    return Encoded(raw, number, until, 0)


def hole_of(gap: Gap) -> pb.LostRange:
    """What subscribers are told of a gap that this bridge has."""
    reason = gap.reason if gap.on_purpose else f"upstream: {gap.reason}"
    return pb.LostRange(
        first_sequence=gap.first, count=gap.count, stage=pb.STAGE_BRIDGE, reason=reason, on_purpose=gap.on_purpose
    )

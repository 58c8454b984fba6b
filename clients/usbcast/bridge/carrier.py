"""Carriers of a bridge: the upstream's batches unchanged, and for batches that it did not get, the reason.

A batch without packets takes the numbers of the missing batches and declares the hole. It is stored in the ring, sent and
fetched like any other batch, so every subscriber learns the same about it, whenever it joins.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from usbcast.bridge.choice import LEFT_OUT
from usbcast.events import Gap
from usbcast.receiving.continuity import Delivery
from usbcast_schemas.batch import Encoded, EncodedBatch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb


class Level(NamedTuple):
    """Position of a stream: the next sequence and the number of the next batch."""

    next_sequence: int
    next_number: int


class Carrier(Protocol):
    """Turns one epoch of an upstream into the batches that the bridge publishes."""

    epoch: int
    """The epoch that is published."""

    def deliver(self, delivery: Delivery) -> list[Encoded]:
        """Return the batches to publish for a batch and the gaps before it."""

    def lose(self, gap: Gap, until_number: int | None = None) -> list[Encoded]:
        """Return the batches to publish for packets that will not arrive; they end before batch `until_number`, if known."""


class Whole:
    """Carries every batch unchanged.

    `level` is the position of the stream when this bridge began to serve it: a subscriber that joined then is owed everything
    from there on. What lies between `level` and the first batch is declared, with `before` as the reason.
    """

    def __init__(self, epoch: int, level: Level | None = None, before: str = "", *, on_purpose: bool = True) -> None:
        self.epoch = epoch
        self._level = level
        self._before = before
        self._before_on_purpose = on_purpose
        self._next_number: int | None = None
        self._declared_until = 0
        """Everything before this sequence is carried or declared."""
        self._undeclared: Gap | None = None
        """A gap that waits for a free batch number."""

    def deliver(self, delivery: Delivery) -> list[Encoded]:
        batch = delivery.batch
        made = []
        first = delivery.gaps[0].first if delivery.gaps else batch.first_sequence + delivery.skip
        missed = [*self._since_level(first), *(gap for gap in delivery.gaps if gap not in delivery.told)]
        if self._undeclared is not None:
            missed.insert(0, self._undeclared)
            self._undeclared = None
        if not missed and self._next_number is not None and batch.first_number > self._next_number:
            # The packets were declared before; only the batch number is still free.
            here = batch.holes[0].first_sequence if batch.holes else batch.first_sequence
            missed = [Gap(here, here - 1, 0, "bridge", "told of before", on_purpose=True, epoch=self.epoch)]
        if missed:
            made = self._hole(missed, batch.first_number)
        self._next_number = batch.number + 1
        self._declared_until = batch.end_sequence
        if delivery.skip and delivery.skip == batch.packet_count:
            return [*made, _without_packets(batch)]
        return [*made, Encoded(batch.raw, batch.number, batch.first_sequence, batch.packet_count)]

    def lose(self, gap: Gap, until_number: int | None = None) -> list[Encoded]:
        if gap.count and gap.last < self._declared_until:
            return []  # already declared by the batch whose packets were skipped
        gaps = self._since_level(gap.first)
        if self._undeclared is not None:
            first = self._undeclared.first
            gap = replace(gap, first=first, count=gap.last + 1 - first)
        if until_number is None:  # the epoch is over, and no later batch could declare it
            until_number = (self._next_number or 0) + 1
        else:
            until_number -= 1  # the last number stays free: that batch may be the end
        made = self._hole([*gaps, gap], until_number)
        self._undeclared = None if made else _joined([*gaps, gap])
        return made

    def _since_level(self, first: int) -> list[Gap]:
        """Return the gap between `level` and `first`, where the bridge begins; only the first time."""
        level, self._level = self._level, None
        if level is None or first <= level.next_sequence:
            return []
        self._next_number = level.next_number
        begin = level.next_sequence
        on_purpose = self._before_on_purpose
        return [Gap(begin, first - 1, first - begin, "bridge", self._before, on_purpose=on_purpose, epoch=self.epoch)]

    def _hole(self, gaps: Sequence[Gap], until_number: int) -> list[Encoded]:
        """Return a batch that declares `gaps` and takes the numbers from the next one to before `until_number`."""
        number = until_number - 1
        first_number = number if self._next_number is None else self._next_number
        if number < first_number:
            return []  # no number is free, so the upstream has declared them itself
        self._next_number = until_number
        return [hole_batch(self.epoch, number, number - first_number, gaps)]


def _joined(gaps: Sequence[Gap]) -> Gap:
    """Join adjacent gaps into one, which is on purpose only if all of them are."""
    first, last = gaps[0].first, gaps[-1].last
    on_purpose = all(gap.on_purpose for gap in gaps)
    return replace(gaps[-1], first=first, count=last + 1 - first, on_purpose=on_purpose)


def _without_packets(batch: EncodedBatch) -> Encoded:
    """Return a batch without its packets, which were skipped for newer ones."""
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
    """Return a batch without packets that replaces missing ones: `batches` of them besides its own number."""
    holes = [hole_of(gap) for gap in gaps]
    holes[0].batches = batches
    until = gaps[-1].last + 1
    raw = encode_batch(
        epoch=epoch, number=number, first_sequence=until, packet_count=0, packet_size=0, payload=(), holes=holes
    )
    return Encoded(raw, number, until, 0)


def hole_of(gap: Gap) -> pb.LostRange:
    """Return a gap of this bridge as subscribers see it."""
    reason = gap.reason if gap.on_purpose else f"upstream: {gap.reason}"
    return pb.LostRange(
        first_sequence=gap.first, count=gap.count, stage=pb.STAGE_BRIDGE, reason=reason, on_purpose=gap.on_purpose
    )

"""What a bridge makes of the first that it gets: who joined before that is told of all that it is owed."""

from __future__ import annotations

import pytest

from usbcast.bridge.carrier import Level, Whole
from usbcast.events import Gap
from usbcast.receiving.continuity import Delivery
from usbcast_schemas.batch import Arrivals, Encoded, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

EPOCH = 5
LEVEL = Level(100, 10)
WHY = "from before"


def batch(number: int, first: int, count: int = 10) -> EncodedBatch:
    raw = encode_batch(
        epoch=EPOCH, number=number, first_sequence=first, packet_count=count, packet_size=1, payload=[bytes(count)],
        arrivals=Arrivals((count,), (1,), (1,)),
    )  # fmt: skip
    return decode_batch(raw)


def told(made: list[Encoded]) -> list[tuple[int, int, str, bool, int, int]]:
    """The holes: first, count, reason, whether on purpose, and the numbers that they stand for."""
    return [
        (hole.first_sequence, hole.count, hole.reason, hole.on_purpose, said.first_number, said.number)
        for said in (decode_batch(one.raw) for one in made)
        for hole in said.holes
    ]


@pytest.mark.parametrize("on_purpose", [True, False])
def test_what_came_between_the_level_and_the_first_batch_is_told(on_purpose: bool) -> None:
    carrier = Whole(EPOCH, LEVEL, WHY, on_purpose=on_purpose)
    made = carrier.deliver(Delivery(batch(14, 140)))
    reason = WHY if on_purpose else f"upstream: {WHY}"
    assert told(made) == [(100, 40, reason, on_purpose, 10, 13)]
    assert (made[0].number, made[0].packet_count, made[1].number, made[1].packet_count) == (13, 0, 14, 10)
    assert told(carrier.deliver(Delivery(batch(15, 150)))) == [], "once"


@pytest.mark.parametrize(("number", "first"), [(10, 100), (7, 70)])
def test_who_has_had_all_since_the_level_is_told_of_nothing(number: int, first: int) -> None:
    made = Whole(EPOCH, LEVEL, WHY).deliver(Delivery(batch(number, first)))
    assert ([one.number for one in made], told(made)) == ([number], [])


def test_without_a_level_nothing_is_owed() -> None:
    assert told(Whole(EPOCH).deliver(Delivery(batch(14, 140)))) == []


def test_a_gap_before_the_first_batch_stands_behind_what_came_before_it() -> None:
    gap = Gap(120, 139, 20, "ring", "overwritten")
    made = Whole(EPOCH, LEVEL, WHY).deliver(Delivery(batch(14, 140), (gap,)))
    assert told(made) == [(100, 20, WHY, True, 10, 13), (120, 20, "upstream: overwritten", False, 10, 13)]


def test_a_gap_that_comes_first_stands_behind_it_too() -> None:
    made = Whole(EPOCH, LEVEL, WHY).lose(Gap(120, 139, 20, "bridge", "chosen", on_purpose=True), 15)
    assert told(made) == [(100, 20, WHY, True, 10, 13), (120, 20, "chosen", True, 10, 13)]


def test_what_there_is_no_number_for_yet_is_told_with_the_next_batch() -> None:
    carrier = Whole(EPOCH, LEVEL, WHY, on_purpose=False)
    assert carrier.lose(Gap(105, 109, 5, "bridge", "chosen", on_purpose=True), 11) == []
    made = carrier.deliver(Delivery(batch(11, 110)))
    assert told(made) == [(100, 10, "upstream: chosen", False, 10, 10)], "lost, as a part of it was"
    assert pb.STAGE_BRIDGE in {hole.stage for hole in decode_batch(made[0].raw).holes}

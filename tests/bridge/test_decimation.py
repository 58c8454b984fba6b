"""One of n packets: every one accounted for, under its own sequence, and the same whoever makes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast.bridge.decimation import EveryNth, epoch_of_every
from usbcast.events import Gap
from usbcast.receiving.continuity import Continuity, Delivery
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.errors import WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb

EPOCH = 7


def batch(number: int, first: int, count: int, *, event: bool = False, varying: bool = False) -> EncodedBatch:
    """Packets that say their sequence; two transfers where there are two packets or more."""
    packets = [(first + i).to_bytes(4, "little") for i in range(count)]
    transfers = [1, count - 1] if count > 1 else [count] if count else []
    return decode_batch(
        encode_batch(
            epoch=EPOCH, number=number, first_sequence=first, packet_count=count,
            packet_size=0 if varying or not count else 4, payload=packets,
            packet_ends=[4 * (i + 1) for i in range(count)] if varying else (),
            arrivals=Arrivals(transfers, [first + n for n in range(len(transfers))], [0] * len(transfers)),
            events=[pb.DeviceEvent(detail=f"before {first}")] if event or not count else (),
        )
    )  # fmt: skip


parts = st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.booleans()), min_size=1, max_size=30)


def delivered(counts: list[tuple[int, bool, bool]]) -> list[Delivery]:
    """What a receiver gives of a stream of which some batches are lost."""
    core = Continuity(can_fetch=False)
    core.start(EPOCH, 0, 0)
    first = 0
    for number, (count, lost, event) in enumerate(counts):
        if not lost:
            core.live(batch(number, first, count, event=event, varying=bool(number % 2)))
        first += count
    return [item for item in core.out if isinstance(item, Delivery)]


@settings(max_examples=60, deadline=None)
@given(counts=parts, every=st.integers(2, 12))
def test_every_packet_is_carried_left_out_or_lost(counts: list[tuple[int, bool, bool]], every: int) -> None:
    items = delivered(counts)
    carrier = EveryNth(EPOCH, every, "left out")
    made = [decode_batch(one.raw) for item in items for one in carrier.deliver(item)]
    core = Continuity()
    core.start(carrier.epoch, 0, 0)
    for one in made:
        core.live(one)
        assert core.wanted() is None, "what is left out is not asked for"
    out = [item for item in core.out if isinstance(item, Delivery)]
    assert len(out) == len(made)
    carried = [item.batch.first_sequence for item in out if item.batch.packet_count]
    left_out = {s for item in out for gap in item.gaps if gap.on_purpose for s in range(gap.first, gap.last + 1)}
    lost = {s for item in out for gap in item.gaps if not gap.on_purpose for s in range(gap.first, gap.last + 1)}
    came = {s for item in items for s in range(item.batch.first_sequence, item.batch.end_sequence)}
    assert carried == sorted(s for s in came if s % every == 0)
    until = made[-1].end_sequence if made else 0
    assert sorted([*carried, *left_out, *lost]) == list(range(until))
    assert {s for s in left_out if s % every == 0} == set(), "what is to be carried is never left out on purpose"
    assert lost == set(range(until)) - came
    for item in out:
        if item.batch.packet_count:
            assert int.from_bytes(item.batch.payload, "little") == item.batch.first_sequence
    events = [event.detail for item in items for event in item.batch.events]
    assert [event.detail for item in out for event in item.batch.events] == events


@settings(max_examples=40, deadline=None)
@given(counts=parts, every=st.integers(2, 5), data=st.data())
def test_one_that_began_later_makes_the_same_batches(
    counts: list[tuple[int, bool, bool]], every: int, data: st.DataObject
) -> None:
    whole = delivered([(count, False, event) for count, _, event in counts])
    first, second = EveryNth(EPOCH, every, "r"), EveryNth(EPOCH, every, "r")
    made = [one for item in whole for one in first.deliver(item)]
    begin = data.draw(st.integers(0, len(whole) - 1))
    again = [one for item in whole[begin:] for one in second.deliver(Delivery(item.batch))]
    kept = [at for at, one in enumerate(again) if one.packet_count]
    if len(kept) > 1:  # from the second packet on, all that stands between packets was seen by both
        tail = again[kept[1] :]
        assert [one.raw for one in made[-len(tail) :]] == [one.raw for one in tail]


def test_its_epoch_is_another_and_always_the_same() -> None:
    epochs = {epoch_of_every(epoch, every) for epoch in (1, 2) for every in (1, 2, 10)}
    assert len(epochs) == 6
    assert epoch_of_every(1, 10) == EveryNth(1, 10, "x").epoch == epoch_of_every(1, 10)


def test_what_the_upstream_lost_is_lost_and_not_left_out() -> None:
    carrier = EveryNth(EPOCH, 10, "left out")
    carrier.deliver(Delivery(batch(0, 0, 5)))
    gap = Gap(5, 24, 20, "ring", "overwritten in the ring")
    (hole, carried) = carrier.deliver(Delivery(batch(9, 25, 6), (gap,)))
    told = decode_batch(hole.raw).holes
    assert [(hole.first_sequence, hole.count, hole.on_purpose) for hole in told] == [(1, 4, True), (5, 20, False)]
    assert carried.first_sequence == 30


def test_what_cannot_be_numbered_any_more_is_refused_in_words() -> None:
    carrier = EveryNth(EPOCH, 3, "left out")
    with pytest.raises(
        WireError, match="is too far from the first one to be numbered when one of 3 packets is carried"
    ):
        carrier.deliver(Delivery(batch_at(2**64 - 4)))


def batch_at(first: int) -> EncodedBatch:
    return decode_batch(
        encode_batch(
            epoch=EPOCH, number=1, first_sequence=first, packet_count=3, packet_size=1, payload=[b"abc"],
            arrivals=Arrivals((3,), (0,), (0,)),
        )
    )  # fmt: skip

"""The batcher: what is handed in comes out once, in order and numbered, within every bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.flow import DeviceEvent, DeviceIdentity, Lost, Packets, StreamItem
from usbcast_broker.stream import batcher as module
from usbcast_broker.stream.batcher import Batcher
from usbcast_schemas.batch import Encoded, EncodedBatch, decode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

STALLED = pb.DeviceEvent.KIND_STALLED


def fixed(*packets: bytes) -> Packets:
    return Packets(b"".join(packets), len(packets), len(packets[0]))


def varying(*packets: bytes) -> Packets:
    ends, at = [], 0
    for packet in packets:
        at += len(packet)
        ends.append(at)
    return Packets(b"".join(packets), len(packets), 0, tuple(ends))


def decoded(batches: list[Encoded]) -> list[EncodedBatch]:
    """The batches as a receiver reads them; what is said of them beside their bytes is the same."""
    found = [decode_batch(batch.raw) for batch in batches]
    for batch, told in zip(found, batches, strict=True):
        assert (batch.number, batch.first_sequence, batch.packet_count) == (
            told.number,
            told.first_sequence,
            told.packet_count,
        )
    return found


def packets_of(batch: EncodedBatch) -> list[bytes]:
    size = batch.packet_size
    ends = list(batch.packet_ends) or [size * (i + 1) for i in range(batch.packet_count)]
    return [bytes(batch.payload[a:b]) for a, b in pairwise([0, *ends])]


def run(batcher: Batcher, items: list[tuple[StreamItem, int]]) -> list[EncodedBatch]:
    """Hand in all items at their times, and flush."""
    made: list[Encoded] = []
    for item, ns in items:
        made += batcher.add(item, realtime_ns=1000 + ns, monotonic_ns=ns)
    rest = batcher.flush()
    return decoded([*made, rest] if rest else made)


def test_what_accumulated_goes_as_one_batch() -> None:
    (batch,) = run(Batcher(epoch=7), [(fixed(b"aa", b"bb"), 1), (fixed(b"cc"), 2), (fixed(b"dd"), 2)])
    assert (batch.epoch, batch.number, batch.first_sequence, batch.packet_count) == (7, 0, 0, 4)
    assert packets_of(batch) == [b"aa", b"bb", b"cc", b"dd"]
    arrivals = batch.arrivals
    assert (arrivals.packets, arrivals.realtime_ns, arrivals.monotonic_ns) == ((2, 2), (1001, 1002), (1, 2))


@pytest.mark.parametrize(
    "remark", [Lost(pb.STAGE_HOST, "queue full", size_bytes=5), DeviceEvent(STALLED, 5, 6, "halted")]
)
def test_a_remark_stands_before_the_first_packet_behind_it(remark: Lost | DeviceEvent) -> None:
    first, second = run(Batcher(1), [(fixed(b"a", b"b"), 1), (remark, 2), (fixed(b"c"), 3)])
    assert (first.packet_count, len(first.losses), len(first.events)) == (2, 0, 0)
    assert (second.number, second.first_sequence, packets_of(second)) == (1, 2, [b"c"])
    assert len(second.losses) + len(second.events) == 1


def test_remarks_without_packets_between_them_share_a_batch() -> None:
    detached = DeviceEvent(pb.DeviceEvent.KIND_DETACHED, 1, 2, "gone")
    attached = DeviceEvent(
        pb.DeviceEvent.KIND_ATTACHED, 3, 4, "back", DeviceIdentity(0x1209, 1, "S", "m", "p", "1-2.3")
    )
    lost = Lost(pb.STAGE_DEVICE, "counter", packets=3, size_bytes=0, at_least=True)
    (batch,) = run(Batcher(1), [(detached, 2), (lost, 3), (attached, 4), (fixed(b"x"), 5)])
    gone, back = batch.events
    assert (gone.kind, gone.detail, gone.HasField("device")) == (pb.DeviceEvent.KIND_DETACHED, "gone", False)
    assert (back.device.vendor_id, back.device.serial, back.device.bus_path) == (0x1209, "S", "1-2.3")
    assert (back.realtime_ns, back.monotonic_ns) == (3, 4)
    (loss,) = batch.losses
    assert (loss.stage, loss.reason, loss.packets, loss.bytes, loss.at_least) == (
        pb.STAGE_DEVICE, "counter", 3, 0, True,
    )  # fmt: skip


def test_remarks_alone_make_a_batch_of_the_sequence_that_comes_next() -> None:
    batcher = Batcher(1)
    batcher.add(fixed(b"a", b"b"), realtime_ns=0, monotonic_ns=0)
    made = batcher.add(DeviceEvent(STALLED, 5, 6), realtime_ns=0, monotonic_ns=1)
    rest = batcher.flush()
    assert rest is not None
    _, batch = decoded([*made, rest])
    assert (batch.number, batch.first_sequence, batch.packet_count, len(batch.payload)) == (1, 2, 0, 0)
    assert not batcher.pending
    assert batcher.flush() is None


def test_remarks_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMARKS", 3)
    made = run(Batcher(1), [(DeviceEvent(STALLED, n, n, str(n)), n) for n in range(8)])
    assert [[event.detail for event in batch.events] for batch in made] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7"],
    ]


def test_packets_of_another_size_begin_another_batch() -> None:
    made = run(Batcher(1), [(fixed(b"aa"), 0), (fixed(b"bbb"), 0), (varying(b"c", b"", b"dd"), 0), (fixed(b"e"), 0)])
    assert [batch.packet_size for batch in made] == [2, 3, 0, 1]
    assert [packets_of(batch) for batch in made] == [[b"aa"], [b"bbb"], [b"c", b"", b"dd"], [b"e"]]
    assert [batch.first_sequence for batch in made] == [0, 1, 2, 5]


def test_varying_packets_of_several_transfers_share_a_batch() -> None:
    (batch,) = run(Batcher(1), [(varying(b"a", b"bb"), 1), (varying(b"", b"ccc"), 2)])
    assert tuple(batch.packet_ends) == (1, 3, 3, 6)
    assert packets_of(batch) == [b"a", b"bb", b"", b"ccc"]


@pytest.mark.parametrize(
    ("item", "sizes"),
    [
        (fixed(*[b"x" * 10] * 10), [30, 30, 30, 10]),
        (fixed(b"x" * 100), [100]),
        (varying(b"x" * 5, b"y" * 30, b"z" * 40, b"", b"w" * 2), [35, 40, 2]),
        (varying(*[b""] * 5), [0]),
    ],
    ids=["cut between packets", "one packet larger than a batch", "varying", "empty packets"],
)
def test_what_is_larger_than_a_batch_is_cut_between_packets(item: Packets, sizes: list[int]) -> None:
    made = run(Batcher(1, max_bytes=36), [(item, 0)])
    assert [len(batch.payload) for batch in made] == sizes
    assert sum(batch.packet_count for batch in made) == item.count


def test_packets_in_a_batch_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PACKETS", 4)
    made = run(Batcher(1), [(fixed(*[b"x"] * 3), 0), (fixed(*[b"x"] * 9), 1), (varying(*[b""] * 9), 2)])
    assert [batch.packet_count for batch in made] == [3, 4, 4, 1, 4, 4, 1]


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        pytest.param([fixed(b"x" * 18), fixed(b"y" * 18)], [36], id="two that fill a batch"),
        pytest.param([fixed(b"x" * 18), fixed(b"y" * 19)], [18, 19], id="one byte more"),
        pytest.param([varying(b"x" * 18), varying(b"y" * 18)], [36], id="varying, two that fill a batch"),
        pytest.param([varying(b"x" * 18), varying(b"y" * 19)], [18, 19], id="varying, one byte more"),
        pytest.param([fixed(b"x" * 36)], [36], id="one that fills a batch"),
        pytest.param([fixed(*[b"x" * 12] * 3)], [36], id="three packets that fill a batch"),
        pytest.param([fixed(*[b"x" * 12] * 4)], [36, 12], id="cut where the batch is full"),
        pytest.param([fixed(*[b"x" * 37] * 2)], [37, 37], id="packets one byte larger than a batch"),
        pytest.param([varying(b"x" * 12, b"y" * 24, b"z")], [36, 1], id="varying, cut where the batch is full"),
        pytest.param([varying(b"x" * 12, b"y" * 25)], [12, 25], id="varying, cut before it would be too full"),
        pytest.param([fixed(*[b"x" * 10] * 10), fixed(b"y" * 10)], [30, 30, 30, 20], id="the rest is filled up"),
    ],
)
def test_a_batch_is_filled_to_the_last_byte_and_no_further(items: list[Packets], sizes: list[int]) -> None:
    batcher = Batcher(1, max_bytes=36)
    made = run(batcher, [(item, 0) for item in items])
    assert [len(batch.payload) for batch in made] == sizes
    assert b"".join(bytes(batch.payload) for batch in made) == b"".join(bytes(item.payload) for item in items)
    assert batcher.next_sequence == sum(item.count for item in items)


@pytest.mark.parametrize(
    ("counts", "expected"), [([2, 2], [4]), ([2, 3], [2, 3]), ([4], [4]), ([5], [4, 1]), ([5, 3], [4, 4])]
)
@pytest.mark.parametrize("kind", [fixed, varying])
def test_a_batch_is_filled_to_the_last_packet(
    kind, counts: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PACKETS", 4)
    made = run(Batcher(1), [(kind(*[b"x"] * count), 0) for count in counts])
    assert [batch.packet_count for batch in made] == expected


def test_the_payload_of_the_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PACKETS", 4)
    batcher = Batcher(1, max_bytes=36)
    assert [batcher.max_payload_bytes(size) for size in (1, 8, 9, 10)] == [4, 32, 36, 36]


def test_what_bypassed_the_batcher_is_left_out_of_its_numbers() -> None:
    batcher = Batcher(1)
    batcher.skip(3, 20)
    (batch,) = run(batcher, [(fixed(b"a"), 0)])
    assert (batch.number, batch.first_sequence) == (3, 20)
    batcher.skip(1, 2)
    assert (batcher.next_number, batcher.next_sequence) == (5, 23)


def test_what_is_held_holds_back_what_comes() -> None:
    batcher = Batcher(1)
    assert not batcher.holds_back
    for item in (fixed(b"a"), Lost(pb.STAGE_HOST, "queue full"), DeviceEvent(STALLED, 5, 6)):
        batcher.add(item, realtime_ns=0, monotonic_ns=0)
        assert batcher.holds_back
        assert batcher.pending
        batcher.flush()
        assert not batcher.holds_back
        assert not batcher.pending
    assert Batcher(1, max_age_ns=1).holds_back


@pytest.mark.parametrize("remark", [Lost(pb.STAGE_HOST, "queue full"), DeviceEvent(STALLED, 5, 6)])
def test_the_age_of_a_remark_counts_too(remark: Lost | DeviceEvent) -> None:
    batcher = Batcher(1, max_age_ns=100)
    batcher.add(remark, realtime_ns=0, monotonic_ns=7)
    batcher.add(remark, realtime_ns=0, monotonic_ns=8)
    batcher.add(fixed(b"a"), realtime_ns=0, monotonic_ns=9)
    assert [batcher.due(ns) for ns in (7, 106, 107, 200)] == [False, False, True, True]
    batcher.add(remark, realtime_ns=0, monotonic_ns=50)
    assert batcher.due_at_ns == 150, "behind the packets, in a batch of its own"


def test_an_event_is_told_as_it_was() -> None:
    identity = DeviceIdentity(0x1209, 1, "S", "m", "p", "1-2.3")
    stepped = DeviceEvent(pb.DeviceEvent.KIND_CLOCK_STEPPED, 5, 6, "set", identity, clock_step_ns=-3)
    (batch,) = run(Batcher(1), [(stepped, 1)])
    (told,) = batch.events
    assert (told.detail, told.clock_step_ns, told.device.product_id) == ("set", -3, 1)
    assert (told.device.manufacturer, told.device.product) == ("m", "p")


def test_age_counts_from_the_first_that_is_held() -> None:
    batcher = Batcher(1, max_age_ns=100)
    assert not batcher.due(10**9), "nothing is held, so nothing is due"
    batcher.add(fixed(b"a"), realtime_ns=0, monotonic_ns=50)
    batcher.add(fixed(b"b"), realtime_ns=0, monotonic_ns=149)
    assert (batcher.due(149), batcher.due_at_ns, batcher.due(150)) == (False, 150, True)
    batcher.flush()
    batcher.add(DeviceEvent(STALLED, 0, 0), realtime_ns=0, monotonic_ns=300)
    batcher.add(fixed(b"c"), realtime_ns=0, monotonic_ns=390)
    assert batcher.due_at_ns == 400


def test_without_an_age_everything_is_due_at_once() -> None:
    batcher = Batcher(1)
    batcher.add(fixed(b"a"), realtime_ns=0, monotonic_ns=50)
    assert batcher.due(50)


@pytest.mark.parametrize("held", [[], [fixed(b"a", b"b")]], ids=["nothing held", "packets held"])
def test_the_end_is_a_batch_of_its_own(held: list[Packets]) -> None:
    batcher = Batcher(1)
    for item in held:
        batcher.add(item, realtime_ns=0, monotonic_ns=0)
    *before, last = decoded(batcher.end("enough", 99))
    count = sum(item.count for item in held)
    assert sum(batch.packet_count for batch in before) == count
    assert last.end is not None
    assert (last.end.reason, last.end.packets, last.end.realtime_ns) == ("enough", count, 99)
    assert (last.first_sequence, last.packet_count, last.number) == (count, 0, len(before))


sizes = st.sampled_from([1, 3, 8])
packet_items = st.one_of(
    st.builds(
        lambda size, packets: fixed(*[bytes([n]) * size for n in packets]),
        sizes,
        st.lists(st.integers(0, 255), min_size=1, max_size=40),
    ),
    st.builds(lambda packets: varying(*packets), st.lists(st.binary(max_size=30), min_size=1, max_size=40)),
)
remarks = st.one_of(
    st.builds(lambda n: Lost(pb.STAGE_DEVICE, "counter", packets=n), st.integers(1, 9)),
    st.builds(lambda n: DeviceEvent(STALLED, n, n, str(n)), st.integers(0, 9)),
)


@settings(max_examples=300, deadline=None)
@given(
    items=st.lists(st.tuples(packet_items | remarks, st.integers(0, 3)), max_size=25),
    flushes=st.sets(st.integers(0, 24)),
    max_bytes=st.integers(1, 120),
    max_packets=st.integers(1, 50),
)
def test_decoding_all_batches_gives_exactly_what_was_handed_in(
    items: list[tuple[StreamItem, int]], flushes: set[int], max_bytes: int, max_packets: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PACKETS", max_packets)
        batcher = Batcher(9, max_bytes=max_bytes)
        made: list[Encoded] = []
        now_ns = 0
        for at, (item, later) in enumerate(items):
            now_ns += later
            made += batcher.add(item, realtime_ns=now_ns + 7, monotonic_ns=now_ns)
            assert batcher.held_packets <= max_packets
            if at in flushes and (flushed := batcher.flush()):
                made.append(flushed)
        made += batcher.end("done", 0)

    handed_in: list[object] = []
    for item, _ in items:
        if isinstance(item, Packets):
            size = item.packet_size
            ends = item.ends or tuple(size * (i + 1) for i in range(item.count))
            handed_in += [bytes(item.payload[a:b]) for a, b in pairwise([0, *ends])]
        else:
            handed_in.append(type(item))
    came_out: list[object] = []
    sequence = 0
    for number, batch in enumerate(decoded(made)):
        assert (batch.epoch, batch.number, batch.first_sequence) == (9, number, sequence)
        sequence = batch.end_sequence
        assert len(batch.payload) <= max_bytes or batch.packet_count == 1
        assert batch.packet_count <= max_packets
        assert sum(batch.arrivals.packets) == batch.packet_count
        assert list(batch.arrivals.monotonic_ns) == sorted(set(batch.arrivals.monotonic_ns))
        assert [ns - 7 for ns in batch.arrivals.realtime_ns] == list(batch.arrivals.monotonic_ns)
        came_out += [Lost] * len(batch.losses) + [DeviceEvent] * len(batch.events)
        came_out += packets_of(batch)
    # Inside one batch, losses stand before events: their order to one another is not kept, that to packets is.
    assert _remarks_sorted(came_out) == _remarks_sorted(handed_in)
    assert batcher.next_sequence == sequence == sum(isinstance(one, bytes) for one in handed_in)


def _remarks_sorted(items: list[object]) -> list[object]:
    """`items` with each run of remarks in one order."""
    found: list[object] = []
    run: list[object] = []
    for item in [*items, b"sentinel"]:
        if isinstance(item, bytes):
            found += sorted(run, key=str)
            found.append(item)
            run = []
        else:
            run.append(item)
    return found

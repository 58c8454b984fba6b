"""A batch as the application sees it: views, times and tables, whole and cut by the start."""

from __future__ import annotations

import copy
import pickle
import re
import struct
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.nodes import eventually, serving, small
from usbcast.batch import Batch, DecodeContext
from usbcast.clock.dejitter import Dejitter
from usbcast.layout import Layout
from usbcast_broker.sources.simulator import Fault
from usbcast_schemas import engine
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.errors import UsageError
from usbcast_schemas.ring import STORES_ARE_ORDERED
from usbcast_schemas.v1 import usbcast_pb2 as pb

FIELDS = [
    pb.Field(name="n", type="u16", offset=0),
    pb.Field(name="t", type="i32", offset=2, big_endian=True, unit="°C", scale=0.5, zero=-40.0),
]
PACKETS = [struct.pack("<H", n) + struct.pack(">i", -n) for n in range(6)]


def batch(skip: int = 0, packets: list[bytes] = PACKETS, dejitter: Dejitter | None = None) -> Batch:
    varying = len({len(p) for p in packets}) > 1
    ends = list(np.cumsum([len(p) for p in packets])) if varying else ()
    raw = encode_batch(
        epoch=1, number=2, first_sequence=100, packet_count=len(packets), packet_size=0 if varying else len(packets[0]),
        payload=packets, packet_ends=ends, arrivals=Arrivals([len(packets) - 2, 2], [1000, 2000], [10, 20]),
    )  # fmt: skip
    return Batch(decode_batch(raw), DecodeContext(Layout(FIELDS, 6), dejitter), (), skip)


@pytest.mark.parametrize("skip", [0, 1, 5])
def test_everything_begins_behind_what_is_skipped(skip: int) -> None:
    found = batch(skip)
    assert (len(found), found.first_sequence, found.last_sequence) == (6 - skip, 100 + skip, 105)
    assert list(found) == PACKETS[skip:]
    assert found.packets.tolist() == [list(p) for p in PACKETS[skip:]]
    assert found.fields["n"].tolist() == list(range(skip, 6))
    assert found.fields["t"].tolist() == [-n for n in range(skip, 6)]
    assert found.scaled("t").tolist() == [-n * 0.5 - 40 for n in range(skip, 6)]
    assert found.times_ns.tolist() == ([1000] * 4 + [2000] * 2)[skip:]
    assert found.monotonic_ns.tolist() == ([10] * 4 + [20] * 2)[skip:]
    assert list(found.fields) == ["n", "t"]


def test_views_are_read_only_and_share_the_received_bytes() -> None:
    found = batch()
    assert not found.packets.flags.writeable
    assert not found.fields["n"].flags.writeable
    assert np.shares_memory(found.packets, found.fields["n"])


def test_packets_of_varying_size() -> None:
    packets = [b"a", b"", b"bcd", b"ef"]
    assert list(batch(0, packets)) == packets
    assert list(batch(2, packets)) == packets[2:]
    with pytest.raises(UsageError, match="vary in size"):
        _ = batch(0, packets).packets


def test_a_field_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="there is no field 'x'; the fields are n, t"):
        _ = batch().fields["x"]
    with pytest.raises(UsageError, match="no field layout"):
        _ = Batch(batch().encoded, DecodeContext(Layout((), 6))).fields


def test_as_a_table_of_pandas() -> None:
    pytest.importorskip("pandas")
    frame = batch(4).to_pandas()
    assert frame["sequence"].tolist() == [104, 105]
    assert frame["t"].tolist() == [-4, -5]
    assert frame.index[0].value == 2000
    assert str(frame.index.tz) == "UTC"


def test_as_a_table_of_arrow() -> None:
    pytest.importorskip("pyarrow")
    table = batch(4).to_arrow()
    assert table.to_pydict()["sequence"] == [104, 105]
    assert table.to_pydict()["t"] == [-4, -5]
    assert table.schema.names == ["time", "sequence", "n", "t"]


def test_dejittered_times_follow_the_true_clock() -> None:
    """Arrivals of an exact 100/s device with up to 5 ms of delay: the line is closer than 1 ms where arrivals are not."""
    random = np.random.default_rng(1)
    line = Dejitter(100.0)
    start = 1_700_000_000_000_000_000
    worst_arrival = 0.0
    for n in range(3000):
        delay_ns = int(random.exponential(1e6))
        worst_arrival = max(worst_arrival, delay_ns)
        line.update(n, start + n * 10_000_000 + delay_ns)
    times = line.times_ns(2990, 10)
    true = start + np.arange(2990, 3000) * 10_000_000 + 1_000_000  # the mean delay cannot be told from the clock
    assert np.abs(times - true).max() < 300_000
    assert worst_arrival > 3_000_000
    assert np.abs(np.diff(times) - 10_000_000).max() < 10_000


def test_dejittering_needs_a_rate() -> None:
    with pytest.raises(UsageError, match="no nominal rate"):
        batch().times_ns_dejittered()


COPIES: dict[str, Callable[[Batch], Batch]] = {
    "pickle": lambda batch: pickle.loads(pickle.dumps(batch)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_batch_can_be_pickled_and_copied(how: str, in_place: bool) -> None:
    """A copy is as the batch was, also when that is overwritten in the ring."""
    with (
        serving(rate_hz=2000, packets=300, faults=(Fault(kind="drop", at_packet=50, count=3),), ends=True) as served,
        served.subscribe("ring", start=10, copy=not in_place) as subscription,
    ):
        taken = []
        for batch in subscription:
            made = COPIES[how](batch)
            taken.append(made)
            assert repr(made) == repr(batch)
            assert (made.epoch, made.number, made.gaps) == (batch.epoch, batch.number, batch.gaps)
            assert list(made) == list(batch)
            assert made.times_ns.tolist() == batch.times_ns.tolist()
            assert made.times_local_ns.tolist() == batch.times_local_ns.tolist()
            assert made.times_ns_dejittered().tolist() == batch.times_ns_dejittered().tolist()
            assert made.fields["counter"].tolist() == batch.fields["counter"].tolist()
            assert made.scaled("ch0").tolist() == batch.scaled("ch0").tolist()
        assert sum(map(len, taken)) == 287
        assert any(batch.gaps for batch in taken)
        assert all(batch.intact for batch in taken)


@pytest.mark.skipif(
    engine.native is None or not STORES_ARE_ORDERED, reason="without the native core every batch is copied"
)
def test_what_has_been_overwritten_is_not_copied() -> None:
    settings = small(ring_size=1 << 20, batch_size=8192)
    with (
        serving(rate_hz=20_000, settings=settings) as served,
        served.subscribe("ring", start="oldest", copy=False) as subscription,
    ):
        batch = next(batch for batch in subscription if type(batch.encoded) is not EncodedBatch)
        eventually(lambda: not batch.intact)
        with pytest.raises(UsageError, match=r"<Batch .*> was overwritten in the ring before it was copied"):
            copy.copy(batch)


def test_what_is_printed_says_what_it_is() -> None:
    with serving(rate_hz=1000) as served, served.subscribe("ring", start=0) as subscription:
        waiting = f"<Subscription to 'sim' at {served.endpoint} via ring, not joined yet>"
        assert repr(subscription) == waiting
        batch = next(iter(subscription))
        assert repr(subscription) == waiting.replace("not joined yet", "joined")
        assert re.fullmatch(r"<Batch 0\.\.\d+ of epoch [0-9a-f]{16}>", repr(batch))
        assert repr(batch.fields).startswith(f"<{len(batch)} packets of counter <u4, device_time <u8, ch0 <f4")
        assert re.fullmatch(
            r"<Ledger subscription: \d+ packets in, \d+ out, 0 overhead, \d+ held, lost 0>", repr(subscription.ledger)
        )
        subscription.close()
        assert repr(subscription).endswith(" via ring, closed>")

"""The outlet: what is stored is in the ring, and what is said of it is true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from usbcast_broker.flow import DeviceIdentity, Packets
from usbcast_broker.stream.batcher import Batcher
from usbcast_broker.stream.outlet import Description, Outlet
from usbcast_schemas.batch import Encoded
from usbcast_schemas.errors import UsageError
from usbcast_schemas.ring import RingReader
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import decode_notification


@pytest.fixture
def outlet(private_directories: tuple[Path, Path]) -> Iterator[Outlet]:
    field = pb.Field(name="x", type="u32", offset=0)
    made = Outlet(
        Description("imu", "an-imu", "[stream]", (field,), 4, 100.0),
        private_directories[0],
        ring_bytes=4096,
        ring_slots=4,
    )
    yield made
    made.close()


def batches(outlet: Outlet, *counts: int) -> list[Encoded]:
    batcher = Batcher(outlet.epoch)
    made = []
    for count in counts:
        batcher.add(Packets(b"abcd" * count, count, 4), realtime_ns=1, monotonic_ns=1)
        flushed = batcher.flush()
        assert flushed is not None
        made.append(flushed)
    return made


def test_what_is_stored_is_in_the_ring_and_in_the_notification(outlet: Outlet) -> None:
    outlet.pacer.take(0)
    assert outlet.pacer.due_at_ns == outlet.pacer.heartbeat_at_ns
    for batch in batches(outlet, 3, 2, 5, 1, 1, 1):
        outlet.store(batch)
    assert outlet.pacer.due_at_ns < outlet.pacer.heartbeat_at_ns
    reader = RingReader(outlet.ring.path, outlet.ring.nonce)
    assert (reader.epoch, reader.tail, reader.head) == (outlet.epoch, 2, 6)
    reader.close()
    told = decode_notification(outlet.notification(11, 22))
    assert (told.epoch, told.oldest_sequence, told.next_sequence, told.next_number) == (outlet.epoch, 5, 13, 6)
    assert (told.sent_realtime_ns, told.sent_monotonic_ns, told.ended) == (11, 22, False)
    outlet.ended = True
    assert decode_notification(outlet.notification(11, 22)).ended


def test_an_empty_ring_holds_nothing(outlet: Outlet) -> None:
    told = decode_notification(outlet.notification(1, 1))
    assert (told.oldest_sequence, told.next_sequence, told.next_number) == (0, 0, 0)


def test_description(outlet: Outlet) -> None:
    info = outlet.describe(None)
    assert (info.stream, info.profile_name, info.profile_toml) == ("imu", "an-imu", "[stream]")
    assert (info.packet_size, info.nominal_rate_hz, info.ring_bytes) == (4, 100.0, 4096)
    assert (info.ring.path, info.ring.nonce) == (str(outlet.ring.path), outlet.ring.nonce)
    assert info.ring.wake_path == str(outlet.ring.wake_path)
    assert [field.name for field in info.fields] == ["x"]
    assert not info.HasField("device")
    known = outlet.describe(DeviceIdentity(0x403, 0x6001, "A5", "FTDI", "FT232R", "1-4.2"))
    assert (known.device.vendor_id, known.device.product_id, known.device.bus_path) == (0x403, 0x6001, "1-4.2")


def test_every_life_has_an_epoch_of_its_own(private_directories: tuple[Path, Path]) -> None:
    made = [Outlet(Description("s"), private_directories[0], ring_bytes=4096, ring_slots=4) for _ in range(3)]
    assert len({outlet.epoch for outlet in made}) == 3
    for outlet in made:
        outlet.close()
        outlet.close()
    assert list(private_directories[0].iterdir()) == []


def test_topics_end_in_a_delimiter(outlet: Outlet) -> None:
    assert (outlet.data_topic, outlet.notify_topic) == (b"data/imu/", b"notify/imu/")


@pytest.mark.parametrize("name", ["", "IMU", "-x", "a/b", "ä", "x" * 65, "../x"])
def test_what_is_no_stream_name(private_directories: tuple[Path, Path], name: str) -> None:
    with pytest.raises(UsageError, match="is not a stream name: use 1 to 64 of a-z"):
        Outlet(Description(name), private_directories[0])

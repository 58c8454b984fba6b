"""What was read ahead is passed on before the feed lets go of its device, however it does."""

from __future__ import annotations

from typing import Any

import pytest
from usb_rig import Scripted, data_of, take_all, told

from usbcast_broker.sources.usb.feed import DRAIN_S, DeviceFeed
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.errors import DeviceDetached, DeviceFailed, DeviceOverflowed, DeviceStalled


@pytest.mark.parametrize(
    ("faults", "story"),
    [
        ([DeviceDetached("away")], [1, "DETACHED", "ATTACHED", 1]),
        ([DeviceFailed("bus")] * 4, [1, "DETACHED", "ATTACHED", 1]),
        ([DeviceStalled("stall")] * 4, [*["STALLED"] * 4, 1, "DETACHED", "ATTACHED", 1]),
        ([DeviceOverflowed("over")] * 5, [*["OVERFLOWED"] * 5, 1, "DETACHED", "ATTACHED", 1]),
    ],
)
def test_before_it_looks_for_the_device_anew(faults: list[Any], story: list[object]) -> None:
    queue = HostQueue()
    scripted = Scripted([*faults, b"b"])
    scripted.ahead = [b"a", b""]
    feed = DeviceFeed(scripted, queue)
    feed.start()
    assert scripted.silent.wait(10)
    feed.stop()
    items = take_all(queue)
    seen = told(items)
    assert seen == ["ATTACHED", *story]
    assert data_of(items) == b"ab"
    assert scripted.finished_s[0] == 0
    assert feed.counters["bytes"] == queue.ledger.entered == 2


@pytest.mark.parametrize(("drain", "given_s"), [(True, DRAIN_S), (False, 0.0)])
def test_before_it_stops(drain: bool, given_s: float) -> None:
    queue = HostQueue()
    scripted = Scripted([b"a"])
    feed = DeviceFeed(scripted, queue)
    feed.start()
    assert scripted.silent.wait(10)
    scripted.ahead = [b"b", b"c"]
    feed.stop(drain=drain)
    assert data_of(take_all(queue)) == b"abc"
    assert scripted.finished_s == [given_s]
    assert scripted.log == ["open", "close"]


def test_what_came_with_a_read_goes_on_with_it() -> None:
    queue = HostQueue()
    scripted = Scripted([[b"a", b"b", b"", b"cd"], b"e"])
    feed = DeviceFeed(scripted, queue)
    feed.start()
    assert scripted.silent.wait(10)
    feed.stop()
    assert data_of(take_all(queue)) == b"abcde"
    counted = {name: feed.counters[name] for name in ("transfers", "bytes", "zero_length")}
    assert counted == {"transfers": 4, "bytes": 5, "zero_length": 1}

"""The thread that owns a device: what it puts into the queue, in which order, and how it ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_rig import RATE_HZ, Backend, Rig, Scripted, data_of, take_all, told, twin, until

from usbcast_broker.flow import DeviceEvent, DeviceIdentity, HostItem, Transfer
from usbcast_broker.sources.simulator import Fault, SimulatorConfig, make_packets
from usbcast_broker.sources.usb.feed import DeviceFeed, Transport
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.errors import (
    DeviceDetached,
    DeviceFailed,
    DeviceOverflowed,
    DeviceStalled,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = pytest.mark.usefixtures("quick_recovery")


def run(*faults: Fault, packets: int = 20, **options: Any) -> tuple[list[HostItem], Rig]:
    """All that comes of a device with these faults, which ends after so many packets."""
    config = SimulatorConfig(rate_hz=RATE_HZ, packets=packets, latency_s=0, faults=faults, **options)
    with Rig(Backend(config)) as rig:
        assert rig.device.exhausted.wait(20)
    return take_all(rig.queue), rig


def test_every_packet_in_order_and_then_nothing() -> None:
    items, rig = run(packets=100)
    assert told(items) == ["ATTACHED", 11200]
    assert data_of(items) == make_packets(rig.device.config, 0, 100)
    attached = items[0]
    assert isinstance(attached, DeviceEvent)
    assert attached.device == DeviceIdentity(0x1209, 1, "SIM0001", "usbcast", "simulated device", "99-1")
    assert rig.feed.identity == attached.device
    assert {key: n for key, n in rig.feed.counters.items() if n and key not in ("timeouts", "ended_early")} == {
        "transfers": 100,
        "bytes": 11200,
    }
    times = [item.monotonic_ns for item in items if isinstance(item, Transfer | DeviceEvent)]
    assert times == sorted(times)


FAULTS = [
    (Fault(kind="unplug", at_packet=10, duration_s=0.05), ["ATTACHED", 1120, "DETACHED", "ATTACHED", 1120]),
    (Fault(kind="unplug", at_packet=0, duration_s=0.05), ["ATTACHED", "DETACHED", "ATTACHED", 2240]),
    (Fault(kind="stall", at_packet=10, count=2), ["ATTACHED", 1120, "STALLED", "STALLED", 1120]),
    (
        Fault(kind="stall", at_packet=10, count=4),
        ["ATTACHED", 1120, *["STALLED"] * 4, "DETACHED", "ATTACHED", 1120],
    ),
    (Fault(kind="overflow", at_packet=10), ["ATTACHED", 1120, "OVERFLOWED", 1008]),
    (Fault(kind="zero_length", at_packet=10, count=3), ["ATTACHED", 2240]),
    (Fault(kind="short_read", at_packet=10, bytes=5), ["ATTACHED", 2240]),
    (Fault(kind="garbage", at_packet=10, bytes=7), ["ATTACHED", 2247]),
    (Fault(kind="drop", at_packet=10, count=5), ["ATTACHED", 1680]),
    (Fault(kind="burst", at_packet=10, count=5), ["ATTACHED", 2240]),
    (Fault(kind="silence", at_packet=10, duration_s=0.05), ["ATTACHED", 2240]),
]


@pytest.mark.parametrize(("fault", "story"), FAULTS, ids=[f"{f.kind}-{f.at_packet}-{f.count}" for f, _ in FAULTS])
def test_faults_are_told_where_they_happened(fault: Fault, story: list[object]) -> None:
    items, rig = run(fault)
    counters = rig.feed.counters
    if fault.kind == "stall" and fault.count > 3:
        # The packet behind the stall was in the device when it was reset.
        assert told(items)[:-1] == story[:-1]
        assert counters["bytes"] == (20 - rig.device.dropped) * 112
    else:
        assert told(items) == story
    assert counters["bytes"] == len(data_of(items))
    assert counters["stalls"] == (fault.count if fault.kind == "stall" else 0)
    assert counters["overflows"] == (fault.kind == "overflow")
    assert counters["zero_length"] == (fault.count if fault.kind == "zero_length" else 0)
    assert counters["detaches"] == counters["reopens"] == story.count("DETACHED")
    assert counters["resets"] == (fault.kind == "stall" and fault.count > 3)


def test_an_unplugged_device_says_why_no_data_comes() -> None:
    with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
        until(lambda: rig.feed.counters["transfers"])
        assert (rig.feed.attached, rig.feed.problem) == (True, "")
        rig.device.unplug()
        until(lambda: "plug it in" in rig.feed.problem and "no USB device" in rig.feed.problem)
        assert not rig.feed.attached
        assert rig.feed.identity is not None
        rig.device.plug()
        until(lambda: rig.feed.attached)
        before = rig.feed.counters["transfers"]
        until(lambda: rig.feed.counters["transfers"] > before)
        assert rig.feed.problem == ""
    assert told(take_all(rig.queue))[:4:2] == ["ATTACHED", "DETACHED"]
    assert rig.feed.problem == "", "that it was told to stop is no problem"
    assert not rig.feed.attached


def test_whatever_stands_in_the_way_after_a_replug_is_waited_for() -> None:
    with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
        until(lambda: rig.feed.counters["transfers"])
        rig.device.unplug()
        rig.backend.refuse("open_device", -3, 13)
        rig.device.plug()
        until(lambda: "udev" in rig.feed.problem)
        del rig.backend.rules["open_device"]
        rig.backend.refuse("claim_interface", -6, 16)
        until(lambda: "held by" in rig.feed.problem)
        del rig.backend.rules["claim_interface"]
        until(lambda: rig.feed.attached)
    assert [one for one in told(take_all(rig.queue)) if type(one) is str] == ["ATTACHED", "DETACHED", "ATTACHED"]


def play(scripted: Scripted) -> tuple[list[HostItem], DeviceFeed]:
    queue = HostQueue()
    feed = DeviceFeed(scripted, queue)
    feed.start()
    assert scripted.silent.wait(10)
    feed.stop()
    return take_all(queue), feed


IO = DeviceFailed("bus error")
STALL = DeviceStalled("stalled")
OVER = DeviceOverflowed("too much")
GONE = DeviceDetached("went away")


@pytest.mark.parametrize(
    ("reads", "story", "log"),
    [
        ([IO, b"ab"], ["ATTACHED", "FAILED", 2], "open close"),
        ([IO, IO, IO, None, b"ab"], ["ATTACHED", "FAILED", 2], "open close"),
        ([IO, IO, IO, IO, b"ab"], ["ATTACHED", "DETACHED", "ATTACHED", 2], "open close open close"),
        ([b"ab", IO, GONE, b"c"], ["ATTACHED", 2, "DETACHED", "ATTACHED", 1], "open close open close"),
        ([STALL, b"ab"], ["ATTACHED", "STALLED", 2], "open clear_halt close"),
        (
            [*[STALL] * 3, b"a", STALL, b"b"],
            ["ATTACHED", *["STALLED"] * 3, 1, "STALLED", 1],
            "open clear_halt clear_halt clear_halt clear_halt close",
        ),
        (
            [*[STALL] * 4, b"ab"],
            ["ATTACHED", *["STALLED"] * 4, "DETACHED", "ATTACHED", 2],
            "open clear_halt clear_halt clear_halt reset open close",
        ),
        ([OVER, OVER, OVER, b"ab"], ["ATTACHED", *["OVERFLOWED"] * 3, 2], "open close"),
        (
            [*[OVER] * 5, b"ab"],
            ["ATTACHED", *["OVERFLOWED"] * 5, "DETACHED", "ATTACHED", 2],
            "open clear_halt reset open close",
        ),
        ([b"", None, b"", b"x"], ["ATTACHED", 1], "open close"),
    ],
)
def test_recovery_step_by_step(reads: list[Any], story: list[object], log: str) -> None:
    scripted = Scripted(reads)
    items, _ = play(scripted)
    assert told(items) == story
    assert " ".join(scripted.log) == log


def test_a_device_that_keeps_failing_is_tried_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(itertools.repeat(STALL))
    queue = HostQueue()
    feed = DeviceFeed(scripted, queue)
    feed.start()
    until(lambda: feed.counters["resets"] > 2)
    begin = time.monotonic()
    feed.stop()
    assert time.monotonic() - begin < 1
    story = [one for one in told(take_all(queue)) if one != "STALLED"]
    assert story[:4] == ["ATTACHED", "DETACHED", "ATTACHED", "DETACHED"]
    assert scripted.log[-1] == "close"


def test_a_survived_bus_error_bears_the_time_at_which_it_happened() -> None:
    ticks = itertools.count(1000)
    queue = HostQueue()
    scripted = Scripted([IO, b"ab"])
    scripted.clock = lambda: (next(ticks), 5)
    feed = DeviceFeed(scripted, queue, clock=scripted.clock)
    feed.start()
    assert scripted.silent.wait(10)
    feed.stop()
    attached, failed, data = take_all(queue)
    assert isinstance(attached, DeviceEvent)
    assert isinstance(failed, DeviceEvent)
    assert isinstance(data, Transfer)
    assert [attached.realtime_ns, failed.realtime_ns, data.realtime_ns] == [1000, 1001, 1002]
    assert (failed.detail, data.monotonic_ns) == ("bus error", 5)


def test_an_unexpected_end_is_told() -> None:
    queue = HostQueue()
    scripted = Scripted([b"ab", RuntimeError("out of tea")])
    feed = DeviceFeed(scripted, queue)
    feed.start()
    until(lambda: not feed.running)
    items = take_all(queue)
    assert told(items) == ["ATTACHED", 2, "DETACHED"]
    detached = items[-1]
    assert isinstance(detached, DeviceEvent)
    assert detached.detail == feed.problem
    assert feed.problem == "device 1234:5678 is no longer read, because of RuntimeError: out of tea"
    assert scripted.log[-1] == "close"
    with pytest.raises(DeviceDetached, match="out of tea"):
        feed.command(pb.CommandRequest()).result(5)
    feed.stop()


def test_an_unexpected_end_of_the_first_opening_is_raised() -> None:
    feed = DeviceFeed(Scripted(opens=[RuntimeError("out of tea")]), HostQueue())
    with pytest.raises(RuntimeError, match="out of tea"):
        feed.start()


faults_of_any_kind = st.builds(
    Fault,
    kind=st.sampled_from(["unplug", "stall", "overflow", "zero_length", "drop", "short_read", "burst", "silence"]),
    at_packet=st.integers(0, 60),
    count=st.integers(1, 5),
    duration_s=st.just(0.01),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(faults_of_any_kind, max_size=5))
def test_whatever_goes_wrong_produced_is_read_plus_lost(faults: list[Fault]) -> None:
    items, rig = run(*faults, packets=60)
    received = data_of(items)
    device = rig.device
    assert device.produced == 60
    whole = device.produced - device.dropped - device.withheld
    assert whole * 112 <= len(received) <= (whole + len(faults)) * 112
    assert rig.feed.counters["bytes"] == len(received) == rig.queue.ledger.left
    story = [one for one in told(items) if one in ("ATTACHED", "DETACHED")]
    # A reset may lose the last packets, so that the device is exhausted before it is back.
    assert story == (["ATTACHED", "DETACHED"] * len(story))[: len(story)]


def test_the_scripted_transport_is_one() -> None:
    checked: Callable[[Transport], None] = lambda _: None  # noqa: E731 - mypy checks the call below
    checked(Scripted())


def test_another_device_that_takes_the_part_of_one_without_a_serial_number_is_told() -> None:
    backend = Backend(twin(""), twin(""))
    first, second = backend.devices
    second.unplug()
    with Rig(backend) as rig:
        until(lambda: rig.feed.counters["transfers"])
        first.unplug()
        second.plug()
        until(lambda: rig.feed.counters["reopens"])
    events = [item for item in take_all(rig.queue) if isinstance(item, DeviceEvent)]
    kinds = [pb.DeviceEvent.Kind.Name(item.kind) for item in events]
    assert kinds == ["KIND_ATTACHED", "KIND_DETACHED", "KIND_REPLACED", "KIND_ATTACHED"]
    told = events[2]
    assert told.device is not None
    assert told.device.bus_path == "99-2"
    assert "may be another device than before: it is at 99-2, the one before was at 99-1" in told.detail
    assert rig.feed.counters["replaced"] == 1


def test_times_that_are_far_apart_once_are_no_step_of_the_clock() -> None:
    """The thread was held up between looking at the one clock and at the other."""
    late_ns = 0

    def clock() -> tuple[int, int]:
        return time.time_ns() + late_ns, time.monotonic_ns()

    def held_up() -> bytes:
        nonlocal late_ns
        late_ns = 10**9
        return b"late"

    def again() -> bytes:
        nonlocal late_ns
        late_ns = 0
        return b"in time"

    way = Scripted([b"first", held_up, again])
    way.clock = clock
    queue = HostQueue()
    feed = DeviceFeed(way, queue)
    feed.start()
    assert way.silent.wait(10)
    feed.stop()
    assert "CLOCK_STEPPED" not in told(take_all(queue))
    assert feed.counters["clock_steps"] == 0


def test_two_devices_that_fit_are_waited_out() -> None:
    backend = Backend(twin("A"), twin("B"))
    with Rig(backend, wait=True) as rig:
        until(lambda: "2 USB devices 1209:0001 are plugged in" in rig.feed.problem)
        assert not rig.feed.attached
        backend.devices[0].unplug()
        until(lambda: rig.feed.attached)
        assert rig.feed.identity is not None
        assert rig.feed.identity.serial == "B"

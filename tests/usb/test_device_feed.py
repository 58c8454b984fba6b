"""The thread that owns a device: what it puts into the queue, in which order, and how it ends."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_rig import Backend, data_of, take_all, told, transport, until

from usbcast_broker.flow import DeviceIdentity, Happening, HostItem, Transfer
from usbcast_broker.host_queue import HostQueue
from usbcast_broker.simulator import Fault, SimulatorConfig, make_packets
from usbcast_broker.usb import feed as feed_module
from usbcast_broker.usb.commands import MAX_WAITING
from usbcast_broker.usb.feed import DeviceFeed, Transport
from usbcast_schemas.errors import (
    CommandFailed,
    DeviceBusy,
    DeviceDetached,
    DeviceError,
    DeviceFailed,
    DeviceForbidden,
    DeviceMissing,
    DeviceOverflowed,
    DeviceStalled,
    LibusbMissing,
    ProfileError,
    UsageError,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb

RATE_HZ = 2000.0


class Rig:
    """A feed of a simulated device, and the queue that it fills."""

    def __init__(self, backend: Backend, *, wait: bool = False, **device: Any) -> None:
        self.backend = backend
        self.device = backend.devices[0]
        self.queue = HostQueue()
        self.feed = DeviceFeed(transport(backend, **device), self.queue, wait_for_device=wait)

    def __enter__(self) -> Rig:
        self.feed.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.stop()


def run(*faults: Fault, packets: int = 20, **options: Any) -> tuple[list[HostItem], Rig]:
    """All that comes of a device with these faults, which ends after so many packets."""
    config = SimulatorConfig(rate_hz=RATE_HZ, packets=packets, latency_s=0, faults=faults, **options)
    with Rig(Backend(config)) as rig:
        assert rig.device.exhausted.wait(20)
    return take_all(rig.queue), rig


@pytest.fixture(autouse=True)
def _quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast_broker.usb.recovery.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(feed_module, "POLL_S", 0.01)


def test_every_packet_in_order_and_then_nothing() -> None:
    items, rig = run(packets=100)
    assert told(items) == ["ATTACHED", 11200]
    assert data_of(items) == make_packets(rig.device.config, 0, 100)
    attached = items[0]
    assert isinstance(attached, Happening)
    assert (
        attached.device
        == rig.feed.identity
        == DeviceIdentity(0x1209, 1, "SIM0001", "usbcast", "simulated device", "99-1")
    )
    assert {key: n for key, n in rig.feed.counters.items() if n and key != "timeouts"} == {
        "transfers": 100,
        "bytes": 11200,
    }
    times = [item.monotonic_ns for item in items if not isinstance(item, type(None)) and hasattr(item, "monotonic_ns")]
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
    assert rig.feed.problem.endswith("its feed was stopped")
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


class TestStarting:
    @pytest.mark.parametrize(
        ("call", "code", "errno", "kind"),
        [("open_device", -3, 13, DeviceForbidden), ("claim_interface", -6, 16, DeviceBusy)],
    )
    def test_what_stands_in_the_way_is_raised(self, call: str, code: int, errno: int, kind: type[DeviceError]) -> None:
        backend = Backend()
        backend.refuse(call, code, errno)
        rig = Rig(backend)
        with pytest.raises(kind) as caught:
            rig.feed.start()
        assert rig.feed.problem == str(caught.value)
        assert not rig.feed.running
        assert take_all(rig.queue) == []
        rig.feed.stop()

    def test_missing(self) -> None:
        rig = Rig(Backend())
        rig.device.unplug()
        with pytest.raises(DeviceMissing):
            rig.feed.start()

    def test_wrong_profile(self) -> None:
        for wait in (False, True):
            rig = Rig(Backend(), wait=wait, endpoint=0x83)
            with pytest.raises(ProfileError):
                rig.feed.start()
            assert not rig.feed.running

    def test_missing_but_waited_for(self) -> None:
        rig = Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ)), wait=True)
        rig.device.unplug()
        with rig:
            assert not rig.feed.attached
            assert "no USB device 1209:0001" in rig.feed.problem
            assert rig.feed.identity is None
            with pytest.raises(DeviceDetached, match="no USB device 1209:0001"):
                rig.feed.command(OUT).result(0)
            rig.device.plug()
            until(lambda: rig.feed.counters["transfers"])
        assert told(take_all(rig.queue))[0] == "ATTACHED"
        assert rig.feed.counters["reopens"] == 0

    def test_missing_and_never_there(self) -> None:
        rig = Rig(Backend(), wait=True)
        rig.device.unplug()
        with rig:
            pass
        assert take_all(rig.queue) == []

    def test_no_libusb_is_not_waited_for(self) -> None:
        feed = DeviceFeed(Scripted(opens=[LibusbMissing("no libusb")]), HostQueue(), wait_for_device=True)
        with pytest.raises(LibusbMissing):
            feed.start()

    def test_once(self) -> None:
        with Rig(Backend()) as rig, pytest.raises(UsageError, match="was started before"):
            rig.feed.start()


class Scripted:
    """A transport that does as told: opens and reads end with the given values or errors, then with silence."""

    def __init__(self, reads: Iterable[Any] = (), opens: Iterable[Any] = ()) -> None:
        self.name = "device 1234:5678"
        self.reads: Iterator[Any] = iter(reads)
        self.opens: Iterator[Any] = iter(opens)
        self.log: list[str] = []
        self.timeouts: list[int | None] = []
        self.silent = threading.Event()

    def open(self) -> DeviceIdentity:
        self.log.append("open")
        answer = next(self.opens, None)
        if isinstance(answer, BaseException):
            raise answer
        return DeviceIdentity(0x1234, 0x5678)

    def read(self, timeout_ms: int | None = None) -> bytes | None:
        self.timeouts.append(timeout_ms)
        answer = next(self.reads, ...)
        if answer is ...:
            self.silent.set()
            time.sleep((timeout_ms or 10) / 1000)
            return None
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer()
        assert answer is None or isinstance(answer, bytes)
        return answer

    def clear_halt(self) -> None:
        self.log.append("clear_halt")

    def reset(self) -> None:
        self.log.append("reset")

    def close(self) -> None:
        self.log.append("close")

    def control(self, *setup: Any) -> bytes | int:
        self.log.append(f"control {setup}")
        return b"answer" if setup[0] & 0x80 else 6

    def write(self, endpoint: int, data: bytes, timeout_ms: int) -> int:
        self.log.append(f"write {endpoint} {data!r} {timeout_ms}")
        return len(data)


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
    feed = DeviceFeed(scripted, queue, clock=lambda: (next(ticks), 5))
    feed.start()
    assert scripted.silent.wait(10)
    feed.stop()
    attached, failed, data = take_all(queue)
    assert isinstance(attached, Happening)
    assert isinstance(failed, Happening)
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
    assert isinstance(detached, Happening)
    assert detached.detail == feed.problem
    assert feed.problem == "device 1234:5678 is not read any more, because of RuntimeError: out of tea"
    assert scripted.log[-1] == "close"
    with pytest.raises(DeviceDetached, match="out of tea"):
        feed.command(OUT).result(5)
    feed.stop()


def test_an_unexpected_end_of_the_first_opening_is_raised() -> None:
    feed = DeviceFeed(Scripted(opens=[RuntimeError("out of tea")]), HostQueue())
    with pytest.raises(RuntimeError, match="out of tea"):
        feed.start()


class TestStopping:
    def test_it_is_quick_when_nothing_comes(self) -> None:
        with Rig(Backend(SimulatorConfig(packets=1)), timeout_ms=5000) as rig:
            assert rig.device.exhausted.wait(5)
            begin = time.monotonic()
            rig.feed.stop()
            assert time.monotonic() - begin < 0.9
            rig.feed.stop()

    def test_before_it_was_started(self) -> None:
        Rig(Backend()).feed.stop()

    def test_what_was_sent_so_far_is_read(self) -> None:
        asked = threading.Event()
        stopping = threading.Event()

        def last() -> bytes:
            asked.set()
            assert stopping.wait(5)
            return b"a"

        scripted = Scripted([last, b"b", b"", b"c"])
        queue = HostQueue()
        feed = DeviceFeed(scripted, queue)
        feed.start()
        assert asked.wait(5)
        stopper = threading.Thread(target=feed.stop)
        stopper.start()
        until(feed._stop.is_set)
        stopping.set()
        stopper.join(5)
        assert data_of(take_all(queue)) == b"abc"
        assert scripted.log == ["open", "close"]

    def test_after_a_silent_read_there_is_no_rest(self) -> None:
        scripted = Scripted([b"a"])
        play(scripted)
        assert set(scripted.timeouts) == {None}

    @pytest.mark.parametrize("error", [GONE, IO])
    def test_a_fault_ends_the_reading_of_the_rest(self, error: DeviceError) -> None:
        feed: list[DeviceFeed] = []

        def stop_now() -> bytes:
            feed[0]._stop.set()
            feed[0]._drain = True
            return b"a"

        scripted = Scripted([stop_now, b"b", error, b"c"])
        queue = HostQueue()
        feed.append(DeviceFeed(scripted, queue))
        feed[0].start()
        until(lambda: not feed[0].running)
        assert data_of(take_all(queue)) == b"ab"

    def test_a_device_that_never_stops_sending_does_not_hold_it_up(self) -> None:
        rig = Rig(Backend(SimulatorConfig(rate_hz=0)))
        rig.feed.start()
        until(lambda: rig.feed.counters["transfers"])
        begin = time.monotonic()
        rig.feed.stop(drain=True)
        assert time.monotonic() - begin < 1
        before = rig.feed.counters["bytes"]
        assert before == rig.queue.ledger.entered
        assert data_of(take_all(rig.queue))[:112] == make_packets(rig.device.config, 0, 1)

    def test_a_read_that_hangs_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feed_module, "JOIN_S", 0.05)
        release = threading.Event()
        feed = DeviceFeed(Scripted([lambda: release.wait(10) and None]), HostQueue())
        feed.start()
        with pytest.raises(DeviceFailed, match="does not end its last read"):
            feed.stop()
        release.set()
        until(lambda: not feed.running)

    def test_while_looking_for_the_device(self) -> None:
        with Rig(Backend()) as rig:
            rig.device.unplug()
            until(lambda: not rig.feed.attached)
            begin = time.monotonic()
            rig.feed.stop()
            assert time.monotonic() - begin < 1


OUT = pb.CommandRequest(out=pb.OutTransfer(endpoint=2, data=b"hi"))


def control(timeout_ms: int | None = None, **values: Any) -> pb.CommandRequest:
    return pb.CommandRequest(control=pb.ControlTransfer(**values), timeout_ms=timeout_ms)


class TestCommands:
    def test_they_reach_the_device(self) -> None:
        with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
            wrote = rig.feed.command(control(request_type=0x40, request=1, index=9, data=b"hello"))
            read = rig.feed.command(control(request_type=0xC0, request=1, index=9, length=5))
            sent = rig.feed.command(OUT)
            assert wrote.result(5) == pb.CommandReply(written=5)
            assert read.result(5) == pb.CommandReply(data=b"hello")
            assert sent.result(5) == pb.CommandReply(written=2)
            refused = rig.feed.command(control(request_type=0x40, request=99))
            with pytest.raises(DeviceStalled):
                refused.result(5)
            with pytest.raises(UsageError, match="has no OUT endpoint 0x07"):
                rig.feed.command(pb.CommandRequest(out=pb.OutTransfer(endpoint=7, data=b"x"))).result(5)
            until(lambda: rig.feed.counters["transfers"] > 10)
            assert rig.feed.attached
        assert [one for one in told(take_all(rig.queue)) if type(one) is str] == ["ATTACHED"]

    @pytest.mark.parametrize(
        ("request_", "said"),
        [
            (pb.CommandRequest(), "has no transfer"),
            (control(request_type=256), "request_type is 0x100: up to 0xff is allowed"),
            (control(request_type=0x40, request=256), "request is 0x100"),
            (control(request_type=0x40, value=65536), "value is 0x10000"),
            (control(request_type=0x40, index=65536), "index is 0x10000"),
            (control(request_type=0xC0, data=b"x", length=1), "request_type 0xc0 reads: only length is allowed"),
            (control(request_type=0x40, length=1), "request_type 0x40 writes: only data is allowed"),
            (control(request_type=0xC0, length=65536), "65536 bytes long: up to 65535 is allowed"),
            (control(request_type=0x40, timeout_ms=5001), "timeout_ms is 5001: up to 5000 is allowed"),
        ],
    )
    def test_what_cannot_be_is_refused(self, request_: pb.CommandRequest, said: str) -> None:
        scripted = Scripted()
        feed = DeviceFeed(scripted, HostQueue())
        feed.start()
        with pytest.raises(CommandFailed, match=said):
            feed.command(request_).result(5)
        feed.stop()
        assert scripted.log == ["open", "close"]

    def test_values_reach_the_transport(self) -> None:
        scripted = Scripted()
        feed = DeviceFeed(scripted, HostQueue())
        feed.start()
        asked = control(request_type=0xC1, request=2, value=3, index=4, length=5, timeout_ms=6)
        assert feed.command(asked).result(5).data == b"answer"
        assert feed.command(control(request_type=0x41, data=b"x")).result(5).written == 6
        assert feed.command(OUT).result(5).written == 2
        feed.stop()
        assert scripted.log[1:4] == [
            "control (193, 2, 3, 4, 5, 6)",
            "control (65, 0, 0, 0, b'x', 1000)",
            "write 2 b'hi' 1000",
        ]

    def test_a_device_that_is_away_is_said_at_once(self) -> None:
        with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
            rig.device.unplug()
            until(lambda: not rig.feed.attached)
            with pytest.raises(DeviceDetached, match="went away"):
                rig.feed.command(OUT).result(0)
            rig.device.plug()
            until(lambda: rig.feed.attached)
            assert rig.feed.command(OUT).result(5).written == 2

    def test_a_command_that_finds_the_device_gone_begins_the_search(self) -> None:
        with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
            rig.backend.refuse("ctrl_transfer", -4, 19, times=1)
            with pytest.raises(DeviceDetached):
                rig.feed.command(control(request_type=0x40, request=1)).result(5)
            until(lambda: rig.feed.counters["reopens"] == 1)

    def test_before_and_after(self) -> None:
        rig = Rig(Backend())
        with pytest.raises(DeviceDetached, match="has not been opened yet"):
            rig.feed.command(OUT).result(0)
        with rig:
            pass
        with pytest.raises(DeviceDetached, match="its feed was stopped"):
            rig.feed.command(OUT).result(0)

    def test_their_number_is_bounded_and_the_rest_is_answered_at_the_end(self) -> None:
        reading, go_on = threading.Event(), threading.Event()

        def held() -> None:
            reading.set()
            go_on.wait(10)

        scripted = Scripted([held])
        feed = DeviceFeed(scripted, HostQueue())
        feed.start()
        assert reading.wait(5)
        waiting = [feed.command(OUT) for _ in range(MAX_WAITING)]
        with pytest.raises(CommandFailed, match=f"{MAX_WAITING} commands are waiting for the device; try again"):
            feed.command(OUT).result(0)
        assert waiting[5].cancel()
        feed._stop.set()
        go_on.set()
        feed.stop()
        ends = [_end_of(future) for future in waiting if not future.cancelled()]
        assert len(ends) == MAX_WAITING - 1
        assert set(ends[1:]) == {DeviceDetached}

    def test_a_command_that_was_taken_back_is_not_carried_out(self) -> None:
        reading, go_on = threading.Event(), threading.Event()

        def held() -> None:
            reading.set()
            go_on.wait(10)

        scripted = Scripted([held])
        feed = DeviceFeed(scripted, HostQueue())
        feed.start()
        assert reading.wait(5)
        assert feed.command(OUT).cancel()
        kept = feed.command(control(request_type=0x40))
        go_on.set()
        assert kept.result(5).written == 6
        feed.stop()
        assert not [one for one in scripted.log if one.startswith("write")]

    def test_no_command_is_left_without_an_answer(self) -> None:
        """Asked from other threads while the feed starts, is unplugged, and stops."""
        rig = Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ)))
        futures: list[Future[pb.CommandReply]] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                futures.append(rig.feed.command(OUT))
                time.sleep(0.0005)

        asker = threading.Thread(target=ask)
        asker.start()
        with rig:
            until(lambda: rig.feed.counters["transfers"])
            rig.device.unplug()
            until(lambda: not rig.feed.attached)
            rig.device.plug()
            until(lambda: rig.feed.attached)
        done.set()
        asker.join()
        kinds = {_end_of(future) for future in futures}
        assert kinds <= {pb.CommandReply, DeviceDetached, CommandFailed}
        assert pb.CommandReply in kinds


def _end_of(future: Future[pb.CommandReply]) -> type:
    error = future.exception(5)
    return type(error) if error else type(future.result())


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
    assert story == ["ATTACHED", *["DETACHED", "ATTACHED"] * (len(story) // 2)]


def test_the_scripted_transport_is_one() -> None:
    checked: Callable[[Transport], None] = lambda _: None  # noqa: E731 - mypy checks the call below
    checked(Scripted())

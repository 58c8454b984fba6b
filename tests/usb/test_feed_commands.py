"""Commands for the device, asked for from other threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from usb_rig import RATE_HZ, Backend, Rig, Scripted, take_all, told, until

from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_broker.sources.usb.commands import MAX_WAITING
from usbcast_broker.sources.usb.feed import DeviceFeed
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.errors import CommandFailed, DeviceDetached, DeviceStalled, UsageError
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = pytest.mark.usefixtures("quick_recovery")

OUT = pb.CommandRequest(out=pb.OutTransfer(endpoint=2, data=b"hi"))


def control(timeout_ms: int | None = None, **values: Any) -> pb.CommandRequest:
    return pb.CommandRequest(control=pb.ControlTransfer(**values), timeout_ms=timeout_ms)


def test_they_reach_the_device() -> None:
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
def test_what_cannot_be_is_refused(request_: pb.CommandRequest, said: str) -> None:
    scripted = Scripted()
    feed = DeviceFeed(scripted, HostQueue())
    feed.start()
    with pytest.raises(CommandFailed, match=said):
        feed.command(request_).result(5)
    feed.stop()
    assert scripted.log == ["open", "close"]


def test_values_reach_the_transport() -> None:
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


def test_a_device_that_is_away_is_said_at_once() -> None:
    with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
        rig.device.unplug()
        until(lambda: not rig.feed.attached)
        with pytest.raises(DeviceDetached, match="went away"):
            rig.feed.command(OUT).result(0)
        rig.device.plug()
        until(lambda: rig.feed.attached)
        assert rig.feed.command(OUT).result(5).written == 2


def test_a_command_that_finds_the_device_gone_begins_the_search() -> None:
    with Rig(Backend(SimulatorConfig(rate_hz=RATE_HZ))) as rig:
        rig.backend.refuse("ctrl_transfer", -4, 19, times=1)
        with pytest.raises(DeviceDetached):
            rig.feed.command(control(request_type=0x40, request=1)).result(5)
        until(lambda: rig.feed.counters["reopens"] == 1)


def test_before_and_after() -> None:
    rig = Rig(Backend())
    with pytest.raises(DeviceDetached, match="has not been opened yet"):
        rig.feed.command(OUT).result(0)
    with rig:
        pass
    with pytest.raises(DeviceDetached, match="its feed was stopped"):
        rig.feed.command(OUT).result(0)


def test_their_number_is_bounded_and_the_rest_is_answered_at_the_end() -> None:
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


def test_a_command_that_was_taken_back_is_not_carried_out() -> None:
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


def test_no_command_is_left_without_an_answer() -> None:
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
        until(lambda: pb.CommandReply in {_end_of(future) for future in list(futures) if future.done()})
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

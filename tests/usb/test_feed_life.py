"""How the device thread starts and stops."""

from __future__ import annotations

import threading
import time

import pytest
from usb_rig import RATE_HZ, Backend, Rig, Scripted, data_of, take_all, told, until

from usbcast_broker.sources.simulator import SimulatorConfig, make_packets
from usbcast_broker.sources.usb import feed as feed_module
from usbcast_broker.sources.usb.feed import DeviceFeed
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.errors import (
    DeviceBusy,
    DeviceDetached,
    DeviceError,
    DeviceFailed,
    DeviceForbidden,
    DeviceMissing,
    LibusbMissing,
    ProfileError,
    UsageError,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = pytest.mark.usefixtures("quick_recovery")

OUT = pb.CommandRequest(out=pb.OutTransfer(endpoint=2, data=b"hi"))


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
        with Rig(Backend()) as rig, pytest.raises(UsageError, match="was already started"):
            rig.feed.start()


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
        feed = DeviceFeed(scripted, HostQueue())
        feed.start()
        assert scripted.silent.wait(10)
        feed.stop()
        assert set(scripted.timeouts) == {None}

    @pytest.mark.parametrize("error", [DeviceDetached("went away"), DeviceFailed("bus error")])
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

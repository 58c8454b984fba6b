"""A stop while packets come: whatever the device has given by then is delivered, and nothing hangs."""

from __future__ import annotations

import time

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.sessions import ROOM_ENOUGH, SoftDevice, subscribed

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("rate_hz", "times"),
    [pytest.param(300, 1, marks=pytest.mark.kernel_ci), pytest.param(100, 3), pytest.param(1000, 3)],
)
def test_nothing_that_the_device_has_given_is_lost_by_a_stop(guest: Guest, rate_hz: int, times: int) -> None:
    """The device goes on all the while: its own count of what left it is what must have come."""
    for _ in range(times):
        with (
            SoftDevice(guest, rate_hz=rate_hz, fifo=ROOM_ENOUGH) as device,
            subscribed(guest, ways=("push",)) as (serving, witnesses),
        ):
            device.start()
            device.wait_for(2 * rate_hz, timeout_s=30)
            before = device.count()
            begin_s = time.monotonic()
            books = serving.stop()
            took_s = time.monotonic() - begin_s
            counted = device.count()
            (result,) = witnesses.results()
        print(f"given {before['served']} before the stop and {counted['served']} in all; it took {took_s:.2f} s")
        show([result])
        check_whole(result)
        assert happened(result) == ["attached", "end"]
        assert runs(result) == [(0, counted["served"] - 1)]
        assert counted["served"] >= before["served"]
        assert declared_lost(result) == 0
        check_books(books, packets=counted["served"], lost={})


@pytest.mark.kernel_ci
def test_a_device_that_answers_nothing_any_more_does_not_keep_the_stream_from_its_end(guest: Guest) -> None:
    """Not even that a read is cancelled: the kernel then waits for it, and the thread that asked waits in the kernel."""
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device,
        subscribed(guest, ways=("push",)) as (serving, witnesses),
    ):
        device.start()
        device.wait_for(200, timeout_s=30)
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=60)
        device.mute()
        begin_s = time.monotonic()
        serving.interrupt()
        (result,) = witnesses.results(timeout_s=40)
        took_s = time.monotonic() - begin_s
        serving.wait_for_farewell(timeout_s=40)
        device.unplug()
        books = serving.finish()[serving.stream]
    print(f"the stream ended {took_s:.1f} s after the stop")
    show([result])
    check_whole(result)
    assert happened(result) == ["attached", "end"]
    assert runs(result) == [(0, counted["made"] - 1)]
    check_books(books, packets=counted["made"], lost={})
    assert any("does not end its last read: unplug it, or end this program" in said for said in serving.warnings)

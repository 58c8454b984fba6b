"""Pulled out and plugged in at random moments, again and again: every life of the device is read from its first packet."""

from __future__ import annotations

import random
import statistics

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.sessions import ROOM_ENOUGH, SoftDevice, subscribed

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

IN_THE_CABLE = 8
"""At most as many packets as reads are queued are on their way when the cable is pulled out."""


@pytest.mark.parametrize(
    ("times", "udev"),
    [
        pytest.param(5, True, id="5 times", marks=pytest.mark.kernel_ci),
        pytest.param(30, True, id="30 times"),
        pytest.param(30, False, id="30 times without udevd"),
    ],
)
def test_pulled_out_again_and_again(guest: Guest, times: int, udev: bool) -> None:
    if not udev:
        guest.stop_udev()
    try:
        pulled_out_again_and_again(guest, times)
    finally:
        if not udev:
            guest.start_udev()


def pulled_out_again_and_again(guest: Guest, times: int) -> None:
    chance = random.Random(11)
    lives = [chance.randrange(1, 120) for _ in range(times)]
    away_s = [chance.uniform(0.0, 1.0) for _ in range(times)]
    served: list[int] = []
    seen_ms: list[float] = []
    configured_ms: list[float] = []
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH, started=True) as device,
        subscribed(guest) as (serving, witnesses),
    ):
        for packets, away in zip(lives, away_s, strict=True):
            device.wait_until_read()
            device.wait_for(device.count()["made"] + packets, timeout_s=30)
            served.append(device.unplug()["served"])
            witnesses.rest(away)
            device.plug()
            counted = device.wait_until_read()
            seen_ms.append((counted["first_read_ns"] - counted["seen_ns"]) / 1e6)
            configured_ms.append((counted["first_read_ns"] - counted["configured_ns"]) / 1e6)
        witnesses.see("attached", times=times + 1)
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=60)
        served.append(counted["served"])
        books = serving.stop()
        results = witnesses.results()
    for what, values in (("saw it", seen_ms), ("had configured it", configured_ms)):
        middle, most = statistics.median(values), max(values)
        print(f"first read after the kernel {what}: p50 {middle:.0f} ms, max {most:.0f} ms")
    print(f"packets sent in each life {served}")
    show(results)
    for result in results:
        check_whole(result)
        assert happened(result) == [*["attached", "detached"] * times, "attached", "end"]
        assert [first for first, _ in runs(result)] == [0] * (times + 1)
        for (_, last), count in zip(runs(result), served, strict=True):
            assert count - IN_THE_CABLE <= last + 1 <= count
        assert runs(result)[-1][1] == served[-1] - 1
        assert declared_lost(result) == 0
    check_books(books, packets=results[0]["good"], lost={})
    edge = books["ledgers"]["device"]["counters"]
    assert (edge["detaches"], edge["reopens"]) == (times, times)
    assert len(serving.warnings) == times

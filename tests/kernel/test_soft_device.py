"""The first case on a real kernel: 112-byte packets out of a bounded FIFO, bus errors, stalls, and the cable pulled out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.serving import Serving
from kernelrig.soft_device import SoftDevice
from kernelrig.witnesses import Witnesses

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PROFILE = "first-case"
WAYS = ("push", "notify")

# What a host controller driver reports (Linux's Documentation/driver-api/usb/error-codes.rst), and what is told of it.
FAULTS = {-71: "failed", -84: "failed", -62: "failed", -63: "failed", -70: "failed", -75: "overflowed", -32: "stalled"}

IN_THE_CABLE = 8
"""At most as many packets as reads are queued."""

ROOM_ENOUGH = 10_000
"""Packets of FIFO with which nothing overflows, however slow the machine is."""


@contextmanager
def subscribed(guest: Guest) -> Iterator[tuple[Serving, Witnesses]]:
    """A node for the device, and subscribers that cannot miss anything any more."""
    with Serving(guest, PROFILE) as serving, Witnesses(PROFILE, serving.endpoint, WAYS) as witnesses:
        witnesses.ready()
        yield serving, witnesses


@pytest.mark.parametrize(("rate_hz", "fifo", "packets"), [(100, 8, 1500), (1000, 64, 8000)])
def test_every_packet_is_delivered_or_declared(guest: Guest, rate_hz: int, fifo: int, packets: int) -> None:
    with SoftDevice(guest, rate_hz=rate_hz, fifo=fifo) as device, subscribed(guest) as (serving, witnesses):
        device.start()
        device.wait_for(packets, timeout_s=30 + 2 * packets / rate_hz)
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=60)
        books = serving.stop()
        results = witnesses.results()
    made, lost = counted["made"], counted["overflowed"]
    print(f"{rate_hz}/s, FIFO of {fifo}: {made} made, {lost} lost in the device ({100 * lost / made:.1f}%)")
    show(results)
    for result in results:
        check_whole(result)
        assert happened(result) == ["attached", "end"]
        assert runs(result)[0][0] == 0
        assert runs(result)[-1][1] == made - 1
        assert declared_lost(result) == lost
        assert result["good"] == made - lost == counted["served"]
    check_books(books, packets=made - lost, lost={"counter": lost} if lost else {})


def test_a_hundred_faults(guest: Guest) -> None:
    statuses = random.Random(7).choices(list(FAULTS), k=100)
    with SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device, subscribed(guest) as (serving, witnesses):
        device.fail(statuses, every=5)
        device.start()
        device.wait_for_faults(len(statuses), timeout_s=120)
        device.wait_for(device.count()["made"] + 20, timeout_s=60)
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=60)
        books = serving.stop()
        results = witnesses.results()
    print(f"{counted['made']} made, {counted['faulted']} faults")
    show(results)
    assert counted["faulted"] == len(statuses)
    for result in results:
        check_whole(result)
        assert happened(result) == ["attached", *(FAULTS[status] for status in statuses), "end"]
        assert runs(result)[0][0] == 0
        assert runs(result)[-1][1] == counted["made"] - 1
        assert declared_lost(result) == 0
    check_books(books, packets=counted["made"], lost={})
    edge = books["ledgers"]["device"]["counters"]
    assert (edge["stalls"], edge["overflows"]) == (statuses.count(-32), statuses.count(-75))
    assert edge["io_errors"] == len(statuses) - edge["stalls"] - edge["overflows"]
    assert (edge["resets"], edge["detaches"], edge["reopens"]) == (0, 0, 0)


def test_pulled_out_again_and_again(guest: Guest) -> None:
    """Each time the device begins to count anew, so each life of it is a run of its own, from its first packet."""
    chance = random.Random(11)
    lives = [chance.randrange(20, 150) for _ in range(5)]
    served = []
    with SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device, subscribed(guest) as (serving, witnesses):
        for life, packets in enumerate(lives, start=1):
            witnesses.see("attached", times=life)
            device.start()
            device.wait_for(packets, timeout_s=30)
            counted = device.unplug()
            served.append(counted["served"])
            witnesses.see("detached", times=life)
            device.plug()
        witnesses.see("attached", times=len(lives) + 1)
        books = serving.stop()
        results = witnesses.results()
    print(f"packets read in each life {served}")
    show(results)
    for result in results:
        check_whole(result)
        assert happened(result) == [*["attached", "detached"] * len(lives), "attached", "end"]
        assert [first for first, _ in runs(result)] == [0] * len(lives)
        # The last ones may have been in the cable when that was pulled out.
        for (_, last), count in zip(runs(result), served, strict=True):
            assert count - IN_THE_CABLE <= last + 1 <= count
        assert declared_lost(result) == 0
    check_books(books, packets=results[0]["good"], lost={})
    assert books["ledgers"]["device"]["counters"]["detaches"] == len(lives)
    assert len(serving.warnings) == len(lives)

"""Bus errors, stalls and overflows, as a host controller reports them: each is told in its place, and the stream goes on."""

from __future__ import annotations

import random

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.sessions import ROOM_ENOUGH, SoftDevice, subscribed

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

# What a host controller driver reports (Linux's Documentation/driver-api/usb/error-codes.rst), and what is told of it.
FAULTS = {-71: "failed", -84: "failed", -62: "failed", -63: "failed", -70: "failed", -75: "overflowed", -32: "stalled"}


@pytest.mark.kernel_ci
def test_a_hundred_faults(guest: Guest) -> None:
    chance = random.Random(7)
    statuses = chance.choices(list(FAULTS), k=100)
    spacing = chance.choices(range(1, 10), k=100)
    with SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device, subscribed(guest) as (serving, witnesses):
        device.fail(statuses, spacing)
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

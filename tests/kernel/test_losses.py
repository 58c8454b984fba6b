"""Reads one after another and reads queued, side by side: how many packets a device with a small FIFO loses, and CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.length import longer
from kernelrig.sessions import SoftDevice, subscribed

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(0)]

READER = "usb device 1209:0001"
"""How the thread that owns the device begins its name."""
HOLD_UP_S = 0.12


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    made: int
    lost: int
    cpu_us: float
    """Of the thread that owns the device, for each transfer."""
    counters: dict[str, Any]

    def __str__(self) -> str:
        starved = f", starved {self.counters['starved']} times for {self.counters['starved_us'] / 1000:.0f} ms"
        lost = f"{self.lost} of {self.made} lost ({100 * self.lost / self.made:.1f}%)"
        return f"{lost}, {self.cpu_us:.0f} µs of the reading thread for a transfer{starved}"


CASES = [
    pytest.param(100, 8, 10, 0, id="100 a second, FIFO of 8"),
    pytest.param(1000, 64, 10, 0, id="1000 a second, FIFO of 64"),
    pytest.param(100, 8, 5, 5, id="held up for 120 ms", marks=pytest.mark.kernel_ci),
]


@pytest.mark.parametrize(("rate_hz", "fifo", "seconds", "hold_ups"), CASES)
def test_queued_reads_lose_less(guest: Guest, rate_hz: int, fifo: int, seconds: int, hold_ups: int) -> None:
    packets = int(rate_hz * seconds * longer())
    synchronous = lost_with(guest, 1, rate_hz, fifo, packets, hold_ups)
    queued = lost_with(guest, 8, rate_hz, fifo, packets, hold_ups)
    print(f"{rate_hz}/s, FIFO of {fifo}, {hold_ups} times held up for {HOLD_UP_S * 1000:.0f} ms")
    print(f"  one after another: {synchronous}")
    print(f"  8 queued:          {queued}")
    assert queued.lost <= synchronous.lost
    if hold_ups:
        # One packet is in the read that is under way; what else comes in that time has the FIFO alone.
        assert synchronous.lost >= hold_ups * (rate_hz * HOLD_UP_S - fifo - 2)


def lost_with(guest: Guest, queue: int, rate_hz: int, fifo: int, packets: int, hold_ups: int) -> Outcome:
    """Every packet is delivered or declared: how many are which."""
    changes = {"stream": {"rate_hz": rate_hz}, "transfer": {"queue": queue}}
    with (
        SoftDevice(guest, rate_hz=rate_hz, fifo=fifo) as device,
        subscribed(guest, changes, ways=("push",), watched=True) as (serving, witnesses),
    ):
        before = serving.cpu_ns()
        device.start()
        for n in range(hold_ups):
            device.wait_for((n + 1) * packets // (hold_ups + 1), timeout_s=120)
            serving.hold_up(HOLD_UP_S)
        device.wait_for(packets, timeout_s=120 + 2 * packets / rate_hz)
        used = serving.cpu_ns()
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=120)
        books = serving.stop()
        (result,) = witnesses.results()
    made, lost = counted["made"], counted["overflowed"]
    show([result])
    check_whole(result)
    assert happened(result) == ["attached", "end"]
    assert (runs(result)[0][0], runs(result)[-1][1]) == (0, made - 1)
    assert declared_lost(result) == lost
    assert result["good"] == made - lost == counted["served"]
    check_books(books, packets=made - lost, lost={"counter": lost} if lost else {})
    (reader,) = (name for name in used if name.startswith(READER))
    cpu_ns = used[reader] - before[reader]
    return Outcome(made, lost, cpu_ns / 1000 / counted["served"], books["ledgers"]["device"]["counters"])

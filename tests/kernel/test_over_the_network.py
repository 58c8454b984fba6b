"""From the device through the guest's kernel, node and network to an application at the host: everything, and how late."""

from __future__ import annotations

import os

import pytest
from kernelrig.checks import check_books, check_whole, show
from kernelrig.guest import Guest
from kernelrig.length import longer
from kernelrig.sessions import ROOM_ENOUGH, SoftDevice, subscribed

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(0)]

RATE_HZ = 100
USUAL_S = 20.0


def test_everything_arrives(guest: Guest) -> None:
    """Ten minutes with USBCAST_KERNEL_LONGER=30. The times in the packets and at the application are of one clock."""
    packets = int(RATE_HZ * USUAL_S * longer())
    with SoftDevice(guest, rate_hz=RATE_HZ, fifo=ROOM_ENOUGH) as device, subscribed(guest) as (serving, witnesses):
        device.start()
        device.wait_for(packets, timeout_s=60 + 2 * packets / RATE_HZ)
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=60)
        books = serving.stop()
        results = witnesses.results()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{counted['made']} packets in {packets / RATE_HZ:.0f} s, load average {load}")
    for result in results:
        print(f"  the clocks drifted by {result['clock_drift_us'] / 1000:.2f} ms")
    show(results)
    for result in results:
        check_whole(result)
        assert result["story"] == [["attached"], ["packets", 0, counted["made"] - 1], ["end"]]
    check_books(books, packets=counted["made"], lost={})

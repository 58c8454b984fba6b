"""What `usbcast health` says of the reads of a device, for people."""

from __future__ import annotations

import pytest

from usbcast.cli.health import device_figures
from usbcast_broker.usb.readahead import Figures


@pytest.mark.parametrize(
    ("counters", "said"),
    [
        ({}, ""),
        ({"restarts": 3}, ""),
        (Figures().as_counters(), "0 reads in flight"),
        ({"in_flight": 8, "starved": 2, "starved_us": 1500}, "8 reads in flight, starved 2 times for 1.5 ms in all"),
        ({"in_flight": 1, "io_errors": 1200, "stalls": 0}, "1 reads in flight, io errors 1,200"),
    ],
)
def test_reads_in_flight_starved_moments_and_faults(counters: dict[str, int], said: str) -> None:
    assert device_figures(counters) == said

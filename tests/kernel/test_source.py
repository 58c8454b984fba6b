"""The kernel's own source (usb_f_ss_lb on dummy_hcd), as fast as it is read: every byte compared, or declared lost."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import pytest
from kernelrig.gadget import PATTERN, source_and_sink
from kernelrig.guest import Guest
from kernelrig.length import longer
from kernelrig.profiles import write_profile
from kernelrig.serving import Serving

import usbcast

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PROFILE = "bulk-source"
SECONDS = 4.0


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    reads_per_s: float
    read_mb_per_s: float
    lost_bytes: int
    cpu_us: float

    def __str__(self) -> str:
        rates = f"{self.reads_per_s:.0f} reads/s, {self.read_mb_per_s:.1f} MB/s, {self.cpu_us:.0f} µs of the reading thread each"
        return f"{rates}; {self.lost_bytes / 1e6:.1f} MB declared lost"


@pytest.mark.parametrize(
    ("size", "heard"), [(512, True), (16384, True), pytest.param(65536, False, id="65536 and no subscriber")]
)
def test_the_source_flat_out(guest: Guest, size: int, heard: bool) -> None:
    """Of reads of 64 KiB the emulated network carries a half: there the node is alone, and its books are the witness."""
    with source_and_sink(guest):
        outcomes = {queue: flat_out(guest, size, queue, heard) for queue in (1, 8)}
    print(f"reads of {size} bytes")
    print(f"  one after another: {outcomes[1]}")
    print(f"  8 queued:          {outcomes[8]}")


def flat_out(guest: Guest, size: int, queue: int, heard: bool) -> Outcome:
    """Whatever the device has sent is what arrived or is declared lost, and what arrived is the pattern."""
    path = write_profile(guest, PROFILE, "flat-out", {"transfer": {"queue": queue, "size": size}})
    with Serving(guest, path, watched=True) as serving, contextlib.ExitStack() as subscribed:
        listener = None
        if heard:
            stream = subscribed.enter_context(usbcast.subscribe("flat-out", serving.endpoint, start=0, via="push"))
            assert stream.ready(60)
            listener = Listener(stream)
        before, used, begin_s = serving.health(), serving.cpu_ns(), time.monotonic()
        while time.monotonic() - begin_s < SECONDS * longer():
            if listener is None:
                time.sleep(0.1)
            else:
                listener.hear()
        after, used_now, took_s = serving.health(), serving.cpu_ns(), time.monotonic() - begin_s
        serving.interrupt()
        while listener is not None and not listener.ended:
            listener.hear()
        books = serving.finish()["flat-out"]
    assert books["balanced"], books["discrepancies"]
    ledgers = books["ledgers"]
    lost_bytes = sum(ledgers["host"]["lost"].values())
    assert ledgers["device"]["counters"]["bytes"] == ledgers["framing"]["in"] + lost_bytes
    assert ledgers["framing"]["in"] == ledgers["outlet"]["out"] * PATTERN.size
    if listener is not None:
        assert listener.wrong == 0
        assert listener.arrived + listener.lost == ledgers["outlet"]["out"] + lost_bytes // PATTERN.size
        lost_bytes = listener.lost * PATTERN.size
    edges = [next(one for one in health.ledgers if one.stage == "device").counters for health in (before, after)]
    reads, size_bytes = (edges[1][name] - edges[0][name] for name in ("transfers", "bytes"))
    (reader,) = (name for name in used if name.startswith("usb device 0525:a4a0"))
    cpu_us = (used_now[reader] - used[reader]) / 1000 / reads
    return Outcome(reads / took_s, size_bytes / took_s / 1e6, lost_bytes, cpu_us)


class Listener:
    """Compares what comes with the pattern."""

    def __init__(self, stream: usbcast.Subscription) -> None:
        self._stream = stream
        self.arrived = self.lost = self.wrong = 0
        self.ended = False

    def hear(self) -> None:
        """Take the next event; one comes within a minute, however slow the machine is."""
        event = self._stream.receive(60)
        assert event is not None, "neither packets nor the end"
        if isinstance(event, usbcast.Batch):
            self.arrived += len(event)
            self.wrong += int((event.packets != PATTERN).any(axis=1).sum())
        elif isinstance(event, usbcast.Gap):
            self.lost += event.count
        self.ended = isinstance(event, usbcast.End)

"""A serial converter on a real kernel: usbfs, libusb, pyusb, the node, TCP, and every packet at the subscribers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kernelrig.guest import Guest
from kernelrig.packets import SIZE
from kernelrig.serving import Serving
from kernelrig.wire import Sender
from kernelrig.witnesses import Told, Witnesses

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

PROFILE = "ftdi-numbered"
WAYS = ("push", "notify", "auto")
RATE_HZ = 100
PACKETS = 2200
"""22 s of them."""


def test_every_packet_reaches_every_subscriber(guest: Guest) -> None:
    with Serving(guest, PROFILE) as serving, Witnesses(PROFILE, serving.endpoint, WAYS) as witnesses:
        witnesses.ready()
        with Sender(guest.wire, rate_hz=RATE_HZ) as sender:
            sender.start()
            sender.wait_for(PACKETS, timeout_s=3 * PACKETS / RATE_HZ)
            sent = sender.stop()
        witnesses.reach(sent - 1, timeout_s=20)
        attached = serving.health().attached
        books = serving.stop()
        results = witnesses.results()
        lateness_ms = sender.worst_lateness_s * 1000
    print(f"sent {sent} packets at {RATE_HZ}/s, the latest {lateness_ms:.1f} ms after its time")
    show(results)
    assert attached
    assert serving.warnings == []
    for result in results:
        assert result["story"] == [["attached"], ["packets", 0, sent - 1], ["end"]]
        check_whole(result)
        assert result["good"] == sent
    assert {result["via"] for result in results} == {"push", "notify"}
    check_books(books, packets=sent, lost={})
    assert books["ledgers"]["framing"]["out"] == sent * SIZE


@pytest.mark.parametrize("udev", [True, False], ids=["udevd", "no udevd"])
def test_pulled_out_and_plugged_in_again(guest: Guest, udev: bool) -> None:
    if not udev:
        guest.stop_udev()
    try:
        with Serving(guest, PROFILE) as serving, Witnesses(PROFILE, serving.endpoint, WAYS) as witnesses:
            witnesses.ready()
            with Sender(guest.wire, rate_hz=RATE_HZ, waits=False) as sender:
                sender.start()
                witnesses.reach(300, timeout_s=20)
                guest.unplug_ftdi()
                witnesses.see("detached")
                away = serving.health()
                guest.plug_ftdi()
                witnesses.see("attached", times=2)
                again = len(sender.sent) + len(sender.unheard)
                witnesses.reach(again + 300, timeout_s=20)
                used = sender.stop()
            witnesses.reach(used - 1, timeout_s=20)
            books = serving.stop()
            results = witnesses.results()
    finally:
        if not udev:
            guest.start_udev()
    show(results)
    print(f"of {used} packets the line had no room for {len(sender.unheard)}")
    assert not away.attached
    assert "plug it in" in away.problem
    assert len(serving.warnings) == 1
    assert "went away" in serving.warnings[0]
    for result in results:
        check_whole(result)
        happened = [entry[0] for entry in result["story"] if entry[0] not in ("packets", "gap", "resynchronised")]
        assert happened == ["attached", "detached", "attached", "end"]
        runs = [entry for entry in result["story"] if entry[0] == "packets"]
        assert runs[0][1] == 0
        assert runs[-1][2] == used - 1
        missing = used - result["good"]
        assert missing >= len(sender.unheard)
        assert sum(entry[3] for entry in result["story"] if entry[0] == "gap") == missing
    assert len({json.dumps(result["story"]) for result in results}) == 1
    missing = used - results[0]["good"]
    assert sum(books["ledgers"]["device"]["lost"].values()) == missing
    check_books(books, packets=used - missing, lost=books["ledgers"]["device"]["lost"])
    assert books["ledgers"]["device"]["counters"]["detaches"] == 1
    assert books["ledgers"]["device"]["counters"]["reopens"] == 1


def check_whole(result: Told) -> None:
    """The stream was taken to its end, nothing twice, nothing damaged, and the subscription's own books say the same."""
    assert result["ended"]
    assert result["damaged"] == 0
    assert result["duplicates"] == 0
    assert result["discrepancy"] is None
    assert result["ledger"]["out"] == result["good"]


def check_books(books: dict[str, Any], *, packets: int, lost: dict[str, int]) -> None:
    """The node's books balance, and show so many packets and no other loss on the way from device to outlet."""
    ledgers = books["ledgers"]
    assert books["balanced"], books["discrepancies"]
    assert ledgers["device"]["out"] == ledgers["outlet"]["in"] == ledgers["outlet"]["out"] == packets
    assert ledgers["device"]["lost"] == lost
    assert sum(ledgers["host"]["lost"].values()) == sum(ledgers["outlet"]["lost"].values()) == 0


def show(results: list[Told]) -> None:
    """The figures, for a note."""
    for result in results:
        line, read = result["line_lag_us"], result["read_lag_us"]
        print(
            f"by {result['via']:6}: {result['good']} delivered, {result['damaged']} damaged; "
            f"from the line to delivery p50 {line['p50'] / 1000:.1f} ms, p99 {line['p99'] / 1000:.1f} ms; "
            f"from the read p50 {read['p50'] / 1000:.1f} ms, p99 {read['p99'] / 1000:.1f} ms "
            f"(clocks ± {result['clock_uncertainty_us'] / 1000:.1f} ms); {result['story']}"
        )

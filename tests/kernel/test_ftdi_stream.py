"""A serial converter on a real kernel: usbfs, libusb, pyusb, the node, TCP, and every packet at the subscribers."""

from __future__ import annotations

import json
import time

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.length import longer
from kernelrig.packets import SIZE
from kernelrig.profiles import write_profile
from kernelrig.serving import Serving
from kernelrig.wire import Sender
from kernelrig.witnesses import Witnesses

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PROFILE = "ftdi-numbered"
WAYS = ("push", "notify", "auto")
RATE_HZ = 100
PACKETS = 2200
"""22 s of them."""
FLAT_OUT_S = 5.0
AS_FAST_AS_IT_GOES_HZ = 1e6


def test_every_packet_reaches_every_subscriber(guest: Guest) -> None:
    with Serving(guest, PROFILE) as serving, Witnesses(PROFILE, serving.endpoint, WAYS) as witnesses:
        witnesses.ready()
        with Sender(guest.wire, rate_hz=RATE_HZ) as sender:
            sender.start()
            sender.wait_for(PACKETS, timeout_s=3 * PACKETS / RATE_HZ)
            sent = sender.stop()
            witnesses.reach(sent - 1, timeout_s=60)
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


def test_flat_out(guest: Guest) -> None:
    """The line waits where nobody reads, so nothing may be missing, and the rate is that of the reads."""
    rates = {queue: packets_a_second(guest, queue) for queue in (1, 8)}
    print(f"packets a second: {rates[1]:.0f} with one read after another, {rates[8]:.0f} with 8 queued")


def packets_a_second(guest: Guest, queue: int) -> float:
    path = write_profile(guest, PROFILE, "flat-ftdi", {"transfer": {"queue": queue}})
    with Serving(guest, path) as serving, Witnesses("flat-ftdi", serving.endpoint, ("push",), PROFILE) as witnesses:
        witnesses.ready()
        with Sender(guest.wire, rate_hz=AS_FAST_AS_IT_GOES_HZ) as sender:
            begin_s = time.monotonic()
            sender.start()
            witnesses.rest(FLAT_OUT_S * longer())
            sent = sender.stop()
            took_s = time.monotonic() - begin_s
            # Before the line is let go: QEMU throws away what it has not read of it by then.
            witnesses.reach(sent - 1, timeout_s=60)
        books = serving.stop()
        results = witnesses.results()
    show(results)
    for result in results:
        check_whole(result)
        assert result["story"] == [["attached"], ["packets", 0, sent - 1], ["end"]]
    check_books(books, packets=sent, lost={})
    return sent / took_s


@pytest.mark.parametrize("udev", [True, False], ids=["udevd", "no udevd"])
def test_pulled_out_and_plugged_in_again(guest: Guest, udev: bool) -> None:
    if not udev:
        guest.stop_udev()
    try:
        with Serving(guest, PROFILE) as serving, Witnesses(PROFILE, serving.endpoint, WAYS) as witnesses:
            witnesses.ready()
            with Sender(guest.wire, rate_hz=RATE_HZ, waits=False) as sender:
                sender.start()
                witnesses.reach(300, timeout_s=60)
                guest.unplug_ftdi()
                witnesses.see("detached")
                away = serving.health()
                guest.plug_ftdi()
                witnesses.see("attached", times=2)
                again = len(sender.sent) + len(sender.unheard)
                witnesses.reach(again + 300, timeout_s=60)
                used = sender.stop()
            witnesses.reach(used - 1, timeout_s=60)
            books = serving.stop()
            results = witnesses.results()
    finally:
        if not udev:
            guest.start_udev()
    print(f"sent {used} packets, {len(sender.unheard)} of them found no room in the line; {results[0]['story']}")
    show(results)
    assert not away.attached
    assert "plug it in" in away.problem
    assert len(serving.warnings) == 1
    assert "went away" in serving.warnings[0]
    for result in results:
        check_whole(result)
        told = [what for what in happened(result) if what != "resynchronised"]
        assert told == ["attached", "detached", "attached", "end"]
        assert runs(result)[0][0] == 0
        assert runs(result)[-1][1] == used - 1
        missing = used - result["good"]
        assert missing >= len(sender.unheard)
        assert declared_lost(result) == missing
    assert len({json.dumps(result["story"]) for result in results}) == 1
    missing = used - results[0]["good"]
    assert sum(books["ledgers"]["device"]["lost"].values()) == missing
    check_books(books, packets=used - missing, lost=books["ledgers"]["device"]["lost"])
    assert books["ledgers"]["device"]["counters"]["detaches"] == 1
    assert books["ledgers"]["device"]["counters"]["reopens"] == 1

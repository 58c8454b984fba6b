"""A HID device by the shipped profile: QEMU's tablet, moved and clicked through QEMU's monitor, every report compared."""

from __future__ import annotations

import random
import struct

import pytest
from kernelrig.checks import check_books
from kernelrig.guest import Guest
from kernelrig.serving import Serving

import usbcast
from usbcast_schemas.profile import parse_profile

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PROFILE = "hid-tablet"
LEFT = 1
REPORTS = 100


@pytest.mark.kernel_ci
def test_every_report(guest: Guest) -> None:
    """The next move comes when the last one was reported: QEMU itself puts moves together that nobody has asked for yet."""
    chance = random.Random(5)
    given: list[bytes] = []
    reported: list[bytes] = []
    with guest.tablet() as move, Serving(guest, PROFILE) as serving:
        with usbcast.subscribe(PROFILE, serving.endpoint, start=0, via="push") as stream:
            assert stream.ready(60)
            for number in range(REPORTS):
                x, y, pressed = chance.randrange(1, 0x8000), chance.randrange(1, 0x8000), number % 2 == 0
                given.append(struct.pack("<BHHb", LEFT if pressed else 0, x, y, 0))
                move(x, y, pressed)
                # QEMU may tell of the place and of the button in two reports.
                while not reported or reported[-1] != given[-1]:
                    event = stream.receive(20)
                    assert event is not None, (
                        f"no report of {given[-1].hex()}, but {[one.hex() for one in reported[-3:]]}"
                    )
                    reported += list(event) if isinstance(event, usbcast.Batch) else []
        books = serving.stop()
    print(f"{len(reported)} reports of {len(given)} moves; the device: {books['ledgers']['device']['counters']}")
    assert [report for report in reported if report in set(given)] == given
    check_books(books, packets=len(reported), lost={})
    assert len(reported) <= 2 * len(given)


def test_a_drafted_profile_has_the_size_of_its_reports(guest: Guest) -> None:
    with guest.tablet():
        drafted = guest.run("usbcast", "devices", "--profile", "0627:0001")
    assert drafted.code == 0, drafted
    profile = parse_profile("\n".join(drafted.out), "drafted")
    assert (profile.packet_size, profile.transfer.size) == (6, 8)

"""Two devices in one node: told apart, one that floods or hangs, one that comes back as somebody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kernelrig.checks import check_books, check_whole, declared_lost, happened, runs, show
from kernelrig.guest import Guest
from kernelrig.profiles import write_profile
from kernelrig.serving import Serving
from kernelrig.sessions import FIRST_CASE, ROOM_ENOUGH, SoftDevice
from kernelrig.witnesses import Witnesses

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


@contextmanager
def two(guest: Guest, serials: tuple[str, str], left_rate_hz: float) -> Iterator[tuple[SoftDevice, SoftDevice]]:
    """Plugged in one behind the other."""
    with (
        SoftDevice(guest, rate_hz=left_rate_hz, fifo=64, serial=serials[0]) as left,
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH, serial=serials[1]) as right,
    ):
        guest.shell("until [ $(grep -sx 1209 /sys/bus/usb/devices/*/idVendor | wc -l) = 2 ]; do sleep 0.05; done")
        yield left, right


def paths(guest: Guest) -> list[str]:
    """Where the devices of software are plugged in, in order."""
    finished = guest.run("usbcast", "devices", "--json")
    found = json.loads("".join(finished.out))["devices"]
    return sorted(one["bus_path"] for one in found if one["vendor_id"] == 0x1209)


@pytest.mark.parametrize("trouble", ["floods", "hangs"])
def test_one_leaves_the_other_alone(guest: Guest, trouble: str) -> None:
    """Told apart by serial number; the one at the left makes trouble, every packet of the other arrives all the same."""
    left_rate_hz = 20_000 if trouble == "floods" else 100
    with two(guest, ("LEFT", "RIGHT"), left_rate_hz) as (left, right):
        profiles = [
            write_profile(guest, FIRST_CASE, name.lower(), {"device": {"serial": name}}) for name in ("LEFT", "RIGHT")
        ]
        with (
            Serving(guest, *profiles) as serving,
            Witnesses("right", serving.endpoint, ("push",), FIRST_CASE) as witnesses,
        ):
            witnesses.ready()
            right.start()
            right.wait_for(300, timeout_s=60)
            left.start()
            left.wait_for(100, timeout_s=60)
            if trouble == "hangs":
                left.mute()
            right.wait_for(1000, timeout_s=60)
            counted = right.drain(timeout_s=60)
            witnesses.reach(counted["made"] - 1, timeout_s=60)
            serving.interrupt()
            serving.wait_for_farewell(timeout_s=60)
            if trouble == "hangs":
                left.unplug()
            books = serving.finish()
            (result,) = witnesses.results()
            left_counted = left.count()
    print(f"the one that {trouble}: {left_counted}")
    show([result])
    check_whole(result)
    assert result["story"] == [["attached"], ["packets", 0, counted["made"] - 1], ["end"]]
    check_books(books["right"], packets=counted["made"], lost={})
    assert books["left"]["balanced"], books["left"]["discrepancies"]


def test_two_of_a_kind_are_told_apart_by_their_place(guest: Guest) -> None:
    with two(guest, ("SAME", "SAME"), 100) as (left, right):
        refused = guest.run("usbcast", "serve", FIRST_CASE, "--json")
        assert refused.code == 1, refused
        (ambiguous,) = refused.err
        assert ambiguous.startswith("usbcast: 2 USB devices 1209:0001 are plugged in, one at ")
        assert "say which one by bus_path in the profile's [device] table" in ambiguous
        places = dict(zip(("left", "right"), paths(guest), strict=True))
        profiles = [
            write_profile(guest, FIRST_CASE, name, {"device": {"bus_path": path}}) for name, path in places.items()
        ]
        with (
            Serving(guest, *profiles) as serving,
            Witnesses("left", serving.endpoint, ("push",), FIRST_CASE) as left_witnesses,
            Witnesses("right", serving.endpoint, ("push",), FIRST_CASE) as right_witnesses,
        ):
            left_witnesses.ready()
            right_witnesses.ready()
            for device, witnesses, packets in ((left, left_witnesses, 50), (right, right_witnesses, 90)):
                device.start()
                device.wait_for(packets, timeout_s=30)
                witnesses.reach(device.drain()["made"] - 1, timeout_s=30)
            books = serving.stop_all()
            counts = {"left": left.count()["made"], "right": right.count()["made"]}
            results = {"left": left_witnesses.results()[0], "right": right_witnesses.results()[0]}
    for name, made in counts.items():
        check_whole(results[name])
        assert runs(results[name]) == [(0, made - 1)]
        check_books(books[name], packets=made, lost={})


@pytest.mark.parametrize(
    ("serial", "port"),
    [
        pytest.param("", None, id="without its serial number"),
        pytest.param(None, 5, id="in another port"),
    ],
)
def test_it_comes_back_changed(guest: Guest, serial: str | None, port: int | None) -> None:
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH, started=True) as device,
        Serving(guest, FIRST_CASE) as serving,
        Witnesses(FIRST_CASE, serving.endpoint, ("push",)) as witnesses,
    ):
        witnesses.ready()
        before = paths(guest)
        device.unplug()
        witnesses.see("detached")
        device.plug(serial=serial, port=port)
        device.wait_until_read()
        witnesses.see("attached", times=2)
        after = paths(guest)
        device.wait_for(100, timeout_s=30)
        counted = device.drain()
        witnesses.reach(counted["made"] - 1, timeout_s=60)
        books = serving.stop()
        (result,) = witnesses.results()
    print(f"it was at {before} and came back at {after}")
    assert (before == after) == (port is None)
    check_whole(result)
    assert happened(result) == ["attached", "detached", "attached", "end"]
    assert runs(result)[-1] == (0, counted["made"] - 1)
    assert declared_lost(result) == 0
    check_books(books, packets=result["good"], lost={})

"""What a real kernel says of a device: who holds it, who may open it, and the sentence for whoever may not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kernelrig.guest import FTDI_SERIAL, Guest
from kernelrig.program import Finished
from kernelrig.serving import Serving

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PROFILE = "ftdi-numbered"
USER = "nobody"
RULES = "/run/udev/rules.d"
"""Read as /etc/udev/rules.d is, which is on a read-only disk here."""


def test_the_list_tells_device_driver_and_permission(guest: Guest) -> None:
    found = ftdi(guest)
    identity = (found["vendor_id"], found["product_id"], found["serial"], found["product"])
    assert identity == (0x0403, 0x6001, FTDI_SERIAL, "QEMU USB SERIAL")
    assert re.fullmatch(r"\d+-\d+", found["bus_path"])
    assert found["speed"] == "full"
    assert found["drivers"] == [[0, "ftdi_sio"]]
    assert found["holders"] == []
    assert found["may_open"] is True
    endpoints = [(one["interface"], one["address"], one["kind"], one["max_packet_size"]) for one in found["endpoints"]]
    assert endpoints == [(0, 0x81, "bulk", 64), (0, 0x02, "bulk", 64)]


def test_a_device_in_use_is_busy_for_others_and_given_back_at_the_end(guest: Guest) -> None:
    with Serving(guest, PROFILE) as serving:
        held = ftdi(guest)
        assert held["drivers"] == [[0, "usbfs"]]
        assert [holder["name"] for holder in held["holders"]] == ["usbcast"]
        second = refused(serve(guest, PROFILE, node=1))
        assert re.search(r"device 0403:6001 .* is held by process \d+ \(usbcast\)", second), second
        assert f"process {held['holders'][0]['pid']} " in second
        assert serving.health().attached
        shown = guest.run("usbcast", "health", "--endpoint", f"tcp://127.0.0.1:{guest.node_port()}").out
        assert any("at the device: 8 reads in flight" in line for line in shown), shown
        serving.stop()
    assert ftdi(guest)["drivers"] == [[0, "ftdi_sio"]]
    assert serving.warnings == []


def test_an_ordinary_user_is_told_the_rule_that_lets_him_in(guest: Guest) -> None:
    found = ftdi(guest, user=USER)
    assert found["may_open"] is False
    assert found["serial"] == FTDI_SERIAL  # read from sysfs, since it cannot be asked of the device
    sentence = refused(serve(guest, PROFILE, user=USER))
    assert "this user may not open device 0403:6001" in sentence
    assert f"write to its device file /dev/bus/usb/{found['bus']:03}/{found['address']:03})" in sentence
    rule = re.search(r"put the line (.+) into /etc/udev/rules.d/", sentence)
    assert rule, sentence
    with rule_in_force(guest, rule[1]), Serving(guest, PROFILE, user=USER) as serving:
        assert serving.health().attached
        serving.stop()
        assert serving.warnings == []


def test_a_device_that_is_not_there(guest: Guest) -> None:
    sentence = refused(serve(guest, "first-case"))
    assert sentence == (
        "usbcast: no USB device 1209:0001 is plugged in; plug it in; usbcast devices lists what is plugged in"
    )


def ftdi(guest: Guest, user: str | None = None) -> dict[str, Any]:
    """What `usbcast devices` says of the serial converter."""
    finished = guest.run("usbcast", "devices", "--json", user=user)
    assert (finished.code, finished.err) == (0, []), finished
    (found,) = [one for one in json.loads("".join(finished.out))["devices"] if one["vendor_id"] == 0x0403]
    return dict(found)


def serve(guest: Guest, profile: str, *, user: str | None = None, node: int = 0) -> Finished:
    """Try to serve, where it will not be possible."""
    endpoint = f"tcp://127.0.0.1:{guest.node_port(node)}"
    return guest.run("usbcast", "serve", profile, "--bind", endpoint, "--json", user=user)


def refused(finished: Finished) -> str:
    """The one sentence with which the program ended."""
    assert finished.code == 1, finished
    assert finished.out == []
    (sentence,) = finished.err
    return sentence


@contextmanager
def rule_in_force(guest: Guest, rule: str) -> Iterator[None]:
    """Do as the sentence says: the rule into a file, udev told, the device plugged in again."""
    guest.shell(f"mkdir -p {RULES}; printf '%s\\n' '{rule}' > {RULES}/70-usbcast.rules; udevadm control --reload")
    replug(guest)
    try:
        yield
    finally:
        guest.shell(f"rm {RULES}/70-usbcast.rules; udevadm control --reload")
        replug(guest)


def replug(guest: Guest) -> None:
    guest.unplug_ftdi()
    guest.plug_ftdi()
    bound = "ls -d /sys/bus/usb/drivers/ftdi_sio/*:*"
    guest.shell(f"until {bound} 2> /dev/null; do sleep 0.1; done; udevadm settle")

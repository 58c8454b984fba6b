"""A serial port of the class CDC-ACM (usb_f_acm on dummy_hcd): lines in, lines out, and the kernel's driver back at the end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from kernelrig.gadget import serial_port
from kernelrig.guest import Guest
from kernelrig.profiles import write_profile
from kernelrig.serving import Serving

import usbcast

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

PROFILE = "cdc-acm"
CONTROL_INTERFACE, DATA_INTERFACE = 0, 1
LINES = 300


@pytest.mark.kernel_ci
def test_lines_of_a_serial_port(guest: Guest) -> None:
    lines = [f"line {n}, {'x' * (n % 150)}".encode() for n in range(LINES)]
    with serial_port(guest) as port:
        before = described(guest)
        endpoints = {one["address"] for one in before["endpoints"] if one["interface"] == DATA_INTERFACE}
        (incoming,), (outgoing,) = (
            [one for one in endpoints if bool(one & 0x80) is wanted] for wanted in (True, False)
        )
        content = base64.b64encode(b"".join(line + b"\n" for line in lines)).decode()
        guest.shell(f"stty -F {port} raw -echo; base64 -d > /tmp/lines <<< {content}")
        path = write_profile(guest, PROFILE, "acm", {"device": {"endpoint": incoming}})
        with Serving(guest, path) as serving, usbcast.subscribe("acm", serving.endpoint, start=0) as stream:
            # A request of the class to the control interface takes that one too.
            assert described(guest)["drivers"] == [[CONTROL_INTERFACE, "usbfs"], [DATA_INTERFACE, "usbfs"]]
            guest.shell(f"cat /tmp/lines > {port}")
            came: list[bytes] = []
            while len(came) < LINES - 1:
                event = stream.receive(60)
                assert event is not None, f"{len(came)} lines came"
                if isinstance(event, usbcast.Batch):
                    came += event
            # What comes while nobody has it open, the port throws away.
            with guest.start("bash", "-c", f"exec 3< {port}; echo open; head -c 6 <&3") as reader:
                assert reader.line(1) == "open"
                assert stream.write(outgoing, b"hello\n", timeout_s=5) == 6
                assert reader.line(2) == "hello"
            books = serving.stop()
        assert described(guest)["drivers"] == before["drivers"]
    # Nobody knows of the first whether it is a whole one: the stream begins behind the first delimiter, and says so.
    assert came == lines[1:]
    assert books["balanced"], books["discrepancies"]
    assert books["ledgers"]["framing"]["lost"] == {"joined in mid-packet": len(lines[0]) + 1}


def test_the_driver_that_a_killed_node_took_comes_back(guest: Guest) -> None:
    """By the clean end of the next node, and without one by `usbcast devices --release`."""
    with serial_port(guest):
        before = described(guest)
        (incoming,) = (
            one["address"]
            for one in before["endpoints"]
            if one["interface"] == DATA_INTERFACE and one["address"] & 0x80
        )
        path = write_profile(guest, PROFILE, "acm", {"device": {"endpoint": incoming}})
        for release in (False, True):
            with Serving(guest, path) as serving:
                with usbcast.NodeClient(serving.endpoint, timeout_s=20) as node:
                    pid = node.health().node_pid
                guest.shell(f"kill -KILL {pid}; while kill -0 {pid} 2> /dev/null; do :; done")
            assert described(guest)["drivers"] == [], "nobody has given it back"
            if release:
                finished = guest.run("usbcast", "devices", "--release")
                assert finished.code == 0, finished
                assert (
                    f"interfaces {CONTROL_INTERFACE}, {DATA_INTERFACE} have their kernel driver again"
                    in finished.out[0]
                )
            else:
                with Serving(guest, path) as serving:
                    serving.stop()
            assert described(guest)["drivers"] == before["drivers"]


def described(guest: Guest) -> dict[str, Any]:
    """What `usbcast devices` says of the port."""
    finished = guest.run("usbcast", "devices", "--json")
    (found,) = [one for one in json.loads("".join(finished.out))["devices"] if one["vendor_id"] == 0x2E8A]
    return dict(found)

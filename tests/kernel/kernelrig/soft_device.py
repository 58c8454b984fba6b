"""The device of software, as a test holds it: plugged into the guest, started, made to fail, pulled out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from kernelrig.guest import Guest

PROGRAM = Path(__file__).with_name("usbip_device.py")
HUB = "/project/tests/kernel/guest/hub.py"
MODULE = "vhci_hcd"
VENDOR = "1209"
IDENTITY_FILES = "/sys/bus/usb/devices/*/idVendor"

Counted = dict[str, Any]


class SoftDevice:
    """Plugged in from the start; a context manager that pulls it out. `port` is one of the hub, by default a free one."""

    def __init__(
        self,
        guest: Guest,
        *,
        rate_hz: float,
        fifo: int,
        serial: str = "SOFT0001",
        started: bool = False,
        port: int | None = None,
        packet_bytes: int = 112,
        max_packet_size: int = 512,
    ) -> None:
        guest.shell(f"modprobe {MODULE}")
        self._guest = guest
        self._asked = 0
        self._full_speed = max_packet_size < 512
        options = ["--rate", str(rate_hz), "--fifo", str(fifo), "--serial", serial, *["--started"] * started]
        options += ["--packet-bytes", str(packet_bytes), "--max-packet-size", str(max_packet_size)]
        self._hub = guest.start("python3", HUB)
        self._device = subprocess.Popen(
            [sys.executable, str(PROGRAM), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._attach(self.count()["tcp_port"], port)
            self.wait_until_there()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> SoftDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self.count()["plugged"]:
                self.unplug()
        finally:
            self._close()

    def start(self) -> Counted:
        """Begin to make packets, or go on with it."""
        return self._do("start")

    def stop(self) -> Counted:
        """Make no more; what is in the FIFO stays there until it is read."""
        return self._do("stop")

    def count(self) -> Counted:
        """Packets made, lost because the FIFO was full (overflowed), given to the host (served) and still in it (waiting).

        Also when the kernel first asked it something, configured it, and when it was first read, in monotonic ns.
        """
        return self._do("count")

    def commands(self) -> list[list[int]]:
        """The vendor requests (type, request, value, index, length) and writes (endpoint, length, CRC-32) so far, in order."""
        commands: list[list[int]] = self._do("commands")["commands"]
        return commands

    def mute(self) -> None:
        """Answer nothing any more, not even that a transfer was cancelled, until it is unplugged."""
        self._do("mute")

    def fail(self, statuses: Sequence[int], spacing: Sequence[int]) -> None:
        """Complete one read with each of these URB statuses, each when so many packets were sent since the one before."""
        self._do("faults", faults=list(zip(statuses, spacing, strict=True)))

    def leave(self) -> Counted:
        """Go off the bus as a device does that is pulled out: its reads fail, with what they have taken."""
        self._do("leave")
        return self.count()

    def unplug(self) -> Counted:
        """Pull it out; return what it had counted. It begins anew when it is plugged in."""
        self._tell_hub(detach=True)
        return self._wait_until("plugged", lambda counted: not counted["plugged"])

    def plug(self, *, serial: str | None = None, port: int | None = None) -> None:
        """Plug it in, maybe with another serial number, none (""), or into another port of the hub."""
        more = {} if serial is None else {"serial": serial}
        self._attach(self._do("plug", **more)["tcp_port"], port)

    def wait_for(self, packets: int, timeout_s: float) -> None:
        """Return when it has made so many."""
        self._wait_until(f"{packets} packets", lambda counted: counted["made"] >= packets, timeout_s)

    def wait_for_faults(self, faults: int, timeout_s: float) -> None:
        """Return when it has failed so often."""
        self._wait_until(f"{faults} faults", lambda counted: counted["faulted"] >= faults, timeout_s)

    def wait_until_read(self, timeout_s: float = 60.0) -> Counted:
        """Return when somebody reads it, what it has counted."""
        return self._wait_until("a read", lambda counted: counted["first_read_ns"] > 0, timeout_s)

    def drain(self, timeout_s: float = 30.0) -> Counted:
        """Stop, wait until the host has read what was made, and return what was counted."""
        self.stop()
        return self._wait_until("an empty FIFO", lambda counted: not counted["waiting"], timeout_s)

    def wait_until_there(self) -> None:
        """Return when the kernel has it, and udev has seen to it."""
        self._guest.shell(f"until grep -qsx {VENDOR} {IDENTITY_FILES}; do sleep 0.05; done; udevadm settle")

    def _wait_until(self, what: str, wanted: Any, timeout_s: float = 30.0) -> Counted:
        deadline = time.monotonic() + timeout_s
        while not wanted(counted := self.count()):
            assert time.monotonic() < deadline, f"the device has not come to {what} in {timeout_s:g} s: {counted}"
            time.sleep(0.02)
        return counted

    def _attach(self, tcp_port: int, port: int | None) -> None:
        self._tell_hub(attach=tcp_port, port=port, full_speed=self._full_speed)

    def _tell_hub(self, **what: object) -> None:
        self._hub.write(json.dumps(what))
        self._asked += 1
        self._hub.line(self._asked)

    def _do(self, what: str, **more: object) -> Counted:
        to_device, from_device = self._pipes()
        to_device.write(json.dumps({"do": what, **more}) + "\n")
        to_device.flush()
        line = from_device.readline()
        assert line, f"the device of software has ended with {self._device.poll()}"
        counted: Counted = json.loads(line)
        return counted

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._device.stdin is not None
        assert self._device.stdout is not None
        return self._device.stdin, self._device.stdout

    def _close(self) -> None:
        """Without the device the hub cuts what is left of the cable."""
        for pipe in self._pipes():
            pipe.close()
        self._device.wait()
        self._hub.close()

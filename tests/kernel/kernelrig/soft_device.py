"""The device of software in the guest, as a test holds it: plugged in, started, made to fail, pulled out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from types import TracebackType

from kernelrig.guest import Guest

PROGRAM = "/project/tests/kernel/guest/usbip_device.py"
MODULE = "vhci_hcd"
VENDOR = "1209"

Counted = dict[str, int]


class SoftDevice:
    """Plugged in from the start; a context manager that pulls it out."""

    def __init__(self, guest: Guest, *, rate_hz: float, fifo: int, serial: str = "SOFT0001") -> None:
        guest.shell(f"modprobe {MODULE}")
        self._guest = guest
        self._asked = 0
        options = ("--rate", str(rate_hz), "--fifo", str(fifo), "--serial", serial)
        self._program = guest.start("python3", PROGRAM, *options)
        try:
            self.count()
            self._wait_until_there()
        except BaseException:
            self._program.close()
            raise

    def __enter__(self) -> SoftDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.unplug()
        finally:
            self._program.close()

    def start(self) -> Counted:
        """Begin to make packets, or go on with it."""
        return self._do("start")

    def stop(self) -> Counted:
        """Make no more; what is in the FIFO stays there until it is read."""
        return self._do("stop")

    def count(self) -> Counted:
        """Packets made, lost because the FIFO was full (overflowed), given to the host (served) and still in it (waiting)."""
        return self._do("count")

    def fail(self, statuses: Sequence[int], *, every: int) -> None:
        """Complete one read with each of these URB statuses, one after every so many packets."""
        self._do("faults", statuses=list(statuses), every=every)

    def unplug(self) -> Counted:
        """Pull it out; return what it had counted. It begins anew when it is plugged in."""
        return self._do("unplug")

    def plug(self) -> None:
        self._do("plug")

    def wait_for(self, packets: int, timeout_s: float) -> None:
        """Return when it has made so many."""
        deadline = time.monotonic() + timeout_s
        while (counted := self.count())["made"] < packets:
            assert time.monotonic() < deadline, f"the device has not made {packets} packets: {counted}"
            time.sleep(0.05)

    def drain(self, timeout_s: float = 20.0) -> Counted:
        """Stop, wait until the host has read what was made, and return what was counted."""
        self.stop()
        deadline = time.monotonic() + timeout_s
        while (counted := self.count())["waiting"]:
            assert time.monotonic() < deadline, f"the host does not read what the device has: {counted}"
            time.sleep(0.05)
        return counted

    def _do(self, what: str, **more: object) -> Counted:
        self._program.write(json.dumps({"do": what, **more}))
        self._asked += 1
        counted: Counted = json.loads(self._program.line(self._asked))
        return counted

    def _wait_until_there(self) -> None:
        self._guest.shell(
            f"until grep -qsx {VENDOR} /sys/bus/usb/devices/*/idVendor; do sleep 0.05; done; udevadm settle"
        )

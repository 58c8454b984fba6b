"""What Linux knows about USB devices beyond libusb: sysfs for names and drivers, /proc for who has one open."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_DROP_CANCELLED = ("vhci_hcd",)
"""Host controllers that lose what a cancelled read had taken: the answer of USB/IP to an unlink has no room for it."""


@dataclass(frozen=True)
class Holder:
    """A process that has a device open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


@dataclass(frozen=True)
class System:
    """Read-only view of the machine. On systems without these files every answer is "unknown"."""

    root: Path = Path("/")

    def attribute(self, bus_path: str, name: str) -> str:
        """A text of the device's directory in sysfs, such as "serial"; empty if there is none."""
        try:
            return (self._sysfs / bus_path / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def driver(self, bus_path: str, interface: int) -> str:
        """The kernel driver bound to an interface of the device, as it is configured now; empty if none is known."""
        for directory in self._sysfs.glob(f"{bus_path}:*.{interface}"):
            try:
                return (directory / "driver").readlink().name
            except OSError:
                continue
        return ""

    def report_descriptor(self, bus_path: str, interface: int) -> bytes:
        """What the HID driver has read of an interface's reports; empty if none has."""
        for path in self._sysfs.glob(f"{bus_path}:*.{interface}/*/report_descriptor"):
            try:
                return path.read_bytes()
            except OSError:
                continue
        return b""

    def node(self, bus: int, address: int) -> Path | None:
        """The device's file, if this system has such files."""
        path = self._nodes / f"{bus:03d}" / f"{address:03d}"
        return path if path.exists() else None

    def may_open(self, bus: int, address: int) -> bool | None:
        """Whether this user may open the device; None if this system does not say."""
        node = self.node(bus, address)
        return None if node is None else os.access(node, os.R_OK | os.W_OK)

    def keeps_cancelled(self, bus: int) -> bool:
        """Whether a read of one of this bus's devices keeps what it has taken when it alone is cancelled: so on Linux, but
        not over USB/IP. macOS cancels all reads of an endpoint together, and of Windows nothing is known."""
        controller = (self._sysfs / f"usb{bus}").resolve().parent.name
        return sys.platform == "linux" and not controller.startswith(_DROP_CANCELLED)

    def holders(self) -> dict[tuple[int, int], tuple[Holder, ...]]:
        """The other processes that have a device open, by bus and address, as far as this user may see them."""
        found: dict[tuple[int, int], set[Holder]] = {}
        for process in (self.root / "proc").glob("[0-9]*"):
            pid = int(process.name)
            if pid == os.getpid():
                continue
            for place in _open_devices(process / "fd", self._nodes):
                found.setdefault(place, set()).add(Holder(pid, _read_name(process / "comm")))
        return {place: tuple(sorted(them, key=lambda one: one.pid)) for place, them in found.items()}

    @property
    def _sysfs(self) -> Path:
        return self.root / "sys/bus/usb/devices"

    @property
    def _nodes(self) -> Path:
        return self.root / "dev/bus/usb"


def _open_devices(descriptors: Path, nodes: Path) -> list[tuple[int, int]]:
    """Bus and address of each device file among a process's open files."""
    found = []
    try:
        for entry in descriptors.iterdir():
            target = entry.readlink()
            if target.is_relative_to(nodes):
                bus, address = target.relative_to(nodes).parts
                found.append((int(bus), int(address)))
    except (OSError, ValueError):  # it has ended meanwhile, or belongs to another user, or is no device file
        pass
    return found


def _read_name(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"

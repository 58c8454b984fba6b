"""What Linux knows about USB devices beyond libusb: sysfs for names and drivers, /proc for who has one open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


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

    def node(self, bus: int, address: int) -> Path | None:
        """The device's file, if this system has such files."""
        path = self.root / "dev/bus/usb" / f"{bus:03d}" / f"{address:03d}"
        return path if path.exists() else None

    def may_open(self, bus: int, address: int) -> bool | None:
        """Whether this user may open the device; None if this system does not say."""
        node = self.node(bus, address)
        return None if node is None else os.access(node, os.R_OK | os.W_OK)

    def holders(self, bus: int, address: int) -> tuple[Holder, ...]:
        """The other processes that have the device open, as far as this user may see them."""
        node = self.node(bus, address)
        if node is None:
            return ()
        wanted = str(node)
        found = []
        for process in (self.root / "proc").glob("[0-9]*"):
            pid = int(process.name)
            if pid != os.getpid() and _has_open(process / "fd", wanted):
                found.append(Holder(pid, _read_name(process / "comm")))
        return tuple(sorted(found, key=lambda holder: holder.pid))

    @property
    def _sysfs(self) -> Path:
        return self.root / "sys/bus/usb/devices"


def _has_open(descriptors: Path, wanted: str) -> bool:
    try:
        return any(str(entry.readlink()) == wanted for entry in descriptors.iterdir())
    except OSError:  # it has ended meanwhile, or belongs to another user
        return False


def _read_name(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"

"""Notes of kernel drivers that were detached from devices, in the runtime directory.

A process that is killed gives nothing back, and nobody sees afterwards which interfaces had a driver. The note says so to the
next node of the device, which gives it back at its end, and to `usbcast devices --release`. It holds for one stay of a device on
the bus: once it is plugged in again, the kernel has found its driver by itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import usb.backend
import usb.core
import usb.util

from usbcast_broker.sources.usb.errors import Cause, cause_of, device_error
from usbcast_broker.sources.usb.finding import bus_path, name_of
from usbcast_broker.sources.usb.libusb import load_backend
from usbcast_schemas.errors import RingUnavailable
from usbcast_schemas.places import host_id, runtime_directory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """A device, as it stands on the bus now, and the interfaces of it whose drivers were detached."""

    host: str
    bus: int
    address: int
    vendor_id: int
    product_id: int
    interfaces: tuple[int, ...]

    def is_of(self, device: Any) -> bool:
        place = (self.host, self.bus, self.address, self.vendor_id, self.product_id)
        return place == (host_id(), device.bus, device.address, device.idVendor, device.idProduct)


@dataclass(frozen=True)
class Released:
    """What became of the drivers of one device."""

    device: str
    interfaces: tuple[int, ...]
    """Those that have a driver again."""
    problem: str


def left_behind(device: Any, interface: int) -> list[int]:
    """The interfaces of `device` whose drivers a node that read `interface` detached, and that was killed."""
    note = _read(path) if (path := _path(device, interface)) is not None else None
    return list(note.interfaces) if note is not None and note.is_of(device) else []


def write_note(device: Any, interface: int, interfaces: Iterable[int]) -> None:
    """Note the `interfaces` whose drivers are detached, or about to be, by the node that reads `interface`.

    A node that cannot write notes serves anyway.
    """
    path = _path(device, interface)
    if path is None:
        return
    taken = tuple(sorted(interfaces))
    note = Note(host_id(), device.bus, device.address, device.idVendor, device.idProduct, taken)
    unfinished = path.with_suffix(f".{os.getpid()}.new")
    try:
        unfinished.write_text(json.dumps(asdict(note)))
        unfinished.replace(path)
    except OSError as error:
        log.warning(
            "cannot write %s, so a node that is killed leaves its device without a kernel driver: %s", path, error
        )


def remove_note(device: Any, interface: int) -> None:
    """The drivers are back, or the device is gone."""
    path = _path(device, interface)
    if path is not None:
        path.unlink(missing_ok=True)


def release_all(backend: usb.backend.IBackend | None = None) -> list[Released]:
    """Give back the drivers of every device of which there is a note. One that a node reads keeps it. Raises LibusbMissing."""
    used = backend or load_backend()
    try:
        return [done for path, note in _notes() if (done := _release(used, path, note)) is not None]
    finally:
        if used is not backend:
            used.finalize()


def _release(backend: usb.backend.IBackend, path: Path, note: Note) -> Released | None:
    device: Any = usb.core.find(backend=backend, custom_match=note.is_of)
    if device is None:  # unplugged meanwhile, or the machine was started anew
        path.unlink(missing_ok=True)
        return None
    name = name_of(device.idVendor, device.idProduct, path=bus_path(device))
    given: list[int] = []
    problem = ""
    for interface in note.interfaces:
        try:
            if not device.is_kernel_driver_active(interface):
                device.attach_kernel_driver(interface)
            given.append(interface)
        except usb.core.USBError as error:
            if cause_of(error) is Cause.BUSY:
                problem = f"a program uses interface {interface} of {name}: end that program first"
            elif cause_of(error) is not Cause.NOT_FOUND:  # else there is no driver for it
                problem = str(device_error(error, name, f"giving back interface {interface}"))
        except NotImplementedError:
            problem = "this system has no kernel drivers that could be given back"
    usb.util.dispose_resources(device)
    if not problem:
        path.unlink(missing_ok=True)
    return Released(name, tuple(given), problem)


def _path(device: Any, interface: int) -> Path | None:
    if device.bus is None or device.address is None:
        return None
    try:
        return runtime_directory() / f"driver-{device.bus:03d}-{device.address:03d}-{interface:03d}.json"
    except RingUnavailable:
        return None


def _notes() -> Iterator[tuple[Path, Note]]:
    for path in sorted(runtime_directory().glob("driver-*.json")):
        note = _read(path)
        if note is None:
            path.unlink(missing_ok=True)
        else:
            yield path, note


def _read(path: Path) -> Note | None:
    """None if there is no note, or what is there is none."""
    try:
        fields = json.loads(path.read_text())
        bus, address, vendor_id, product_id = (
            int(fields[key]) for key in ("bus", "address", "vendor_id", "product_id")
        )
        interfaces = tuple(int(one) for one in fields["interfaces"])
        return Note(str(fields["host"]), bus, address, vendor_id, product_id, interfaces)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


__all__ = ["Note", "Released", "left_behind", "release_all", "remove_note", "write_note"]

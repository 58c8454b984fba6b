"""Finds the one device that a profile means among those that are plugged in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import usb.backend
import usb.core

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.sources.usb.errors import Cause, cause_of, device_error, forbidden
from usbcast_broker.sources.usb.system import System
from usbcast_schemas.errors import DeviceAmbiguous, DeviceError, DeviceMissing
from usbcast_schemas.profile import DeviceMatch


def bus_path(device: usb.core.Device) -> str:
    """Where it is plugged in, as sysfs writes it: "1-4.2", and "usb1" for a root hub; empty if unknown."""
    if device.bus is None:
        return ""
    if not device.port_numbers:
        return f"usb{device.bus}"
    return f"{device.bus}-" + ".".join(str(port) for port in device.port_numbers)


def text_of(device: usb.core.Device, name: str, system: System) -> str | None:
    """A text of the device: "serial_number", "manufacturer" or "product"; empty if it has none, None if unreadable.

    Reading one opens the device, which needs permission; Linux has read the same texts itself when it was plugged in.
    """
    index = {"serial_number": "iSerialNumber", "manufacturer": "iManufacturer", "product": "iProduct"}[name]
    if not getattr(device, index):
        return ""
    try:
        return str(getattr(device, name) or "").rstrip("\0")
    except (usb.core.USBError, ValueError, NotImplementedError):  # no access, or gone, or not even a table of languages
        return system.attribute(bus_path(device), name.removesuffix("_number")) or None


def identity_of(device: usb.core.Device, system: System) -> DeviceIdentity:
    """All that the device says about itself."""
    return DeviceIdentity(
        vendor_id=device.idVendor,
        product_id=device.idProduct,
        serial=text_of(device, "serial_number", system) or "",
        manufacturer=text_of(device, "manufacturer", system) or "",
        product=text_of(device, "product", system) or "",
        bus_path=bus_path(device),
    )


def find_device(
    backend: usb.backend.IBackend, wanted: DeviceMatch, before: DeviceIdentity | None, system: System
) -> usb.core.Device:
    """The device that `wanted` describes or, after it was away, the one that it was `before`.

    Where `wanted` names no serial number, another one at the very place of the former has taken that one's part; one
    that stands elsewhere has not, whoever else uses it.

    Raises DeviceMissing, DeviceForbidden if its serial number cannot be read, and DeviceAmbiguous for more than one.
    """
    serial = wanted.serial or (before.serial if before else "")
    same_numbers = list(_plugged_in(backend, wanted))
    found, unreadable = _fitting(same_numbers, wanted, serial, system)
    if not found and not unreadable and before and before.bus_path and not wanted.serial:
        there = [device for device in same_numbers if bus_path(device) == before.bus_path]
        found, unreadable = _fitting(there, wanted, "", system)
    if not found and unreadable:
        raise _why_unreadable(unreadable[0], system)
    if not found:
        raise DeviceMissing(_missing(wanted, serial, same_numbers, before, system))
    if wanted.strict and before:
        proven = [device for device in found if not doubt(before, identity_of(device, system))]
        if not proven:
            raise DeviceMissing(_refused(wanted, before, identity_of(found[0], system)))
        found = proven
    if len(found) > 1 and before:
        found = [device for device in found if bus_path(device) == before.bus_path] or found
    if len(found) > 1:
        raise DeviceAmbiguous(_ambiguous(wanted, found, system))
    device: usb.core.Device = found[0]
    return device


def doubt(before: DeviceIdentity, now: DeviceIdentity) -> str:
    """Why `now` may be another device than `before`; empty where its serial number, or else its place, is the same."""
    if before.serial and before.serial == now.serial:
        return ""
    if before.serial:
        told = f"serial number {now.serial}" if now.serial else "no serial number"
        return f"it reports {told}, and the one before reported {before.serial}"
    if now.serial:
        return f"it reports serial number {now.serial}, and the one before reported none"
    if before.bus_path == now.bus_path:
        return ""
    return f"it is at {now.bus_path}, the one before was at {before.bus_path}, and neither reports a serial number"


def _refused(wanted: DeviceMatch, before: DeviceIdentity, now: DeviceIdentity) -> str:
    """Why a strict profile does not take `now`."""
    return (
        f"the USB device {wanted.vendor_id:04x}:{wanted.product_id:04x} that is plugged in may be another one: "
        f"{doubt(before, now)}; plug that one in again, or restart the node for this one (strict is set in the profile)"
    )


def _fitting(
    devices: list[usb.core.Device], wanted: DeviceMatch, serial: str, system: System
) -> tuple[list[usb.core.Device], list[usb.core.Device]]:
    """Those of `devices` that are as wanted, and those of which that cannot be told."""
    found: list[usb.core.Device] = []
    unreadable: list[usb.core.Device] = []
    for device in devices:
        if wanted.bus_path and bus_path(device) != wanted.bus_path:
            continue
        wishes = [("serial_number", serial), ("product", wanted.product or "")]
        texts = [(text_of(device, name, system), wish) for name, wish in wishes if wish]
        if all(text == wish for text, wish in texts):
            found.append(device)
        elif any(text is None for text, _ in texts):
            unreadable.append(device)
    return found, unreadable


def name_of(vendor_id: int, product_id: int, serial: str = "", path: str = "") -> str:
    """How messages call a device: "device 1209:0001 (serial SIM0001, at 1-4.2)"."""
    marks = [f"serial {serial}"] * bool(serial) + [f"at {path}"] * bool(path)
    return f"device {vendor_id:04x}:{product_id:04x}" + (f" ({', '.join(marks)})" if marks else "")


def _plugged_in(backend: usb.backend.IBackend, wanted: DeviceMatch) -> Iterator[usb.core.Device]:
    devices: Any = usb.core.find(
        find_all=True,
        backend=backend,
        custom_match=lambda device: (device.idVendor, device.idProduct) == (wanted.vendor_id, wanted.product_id),
    )
    return iter(devices)


def _why_unreadable(device: usb.core.Device, system: System) -> DeviceError:
    """What stands in the way of a device whose serial number cannot be read."""
    name = name_of(device.idVendor, device.idProduct, path=bus_path(device))
    try:
        device.get_active_configuration()
    except usb.core.USBError as error:
        if cause_of(error) is Cause.FORBIDDEN:
            return forbidden(name, device.idVendor, str(system.node(device.bus, device.address) or ""))
        return device_error(error, name, "reading its serial number")
    return DeviceMissing(f"{name} does not report its serial number; remove serial from the profile, or give bus_path")


def _missing(
    wanted: DeviceMatch, serial: str, others: list[usb.core.Device], before: DeviceIdentity | None, system: System
) -> str:
    wishes = [
        f"{what} {wish}"
        for what, wish in (("serial", serial), ("bus path", wanted.bus_path), ("product", wanted.product))
        if wish
    ]
    with_ = f" with {' and '.join(wishes)}" if wishes else ""
    sentence = f"no USB device {wanted.vendor_id:04x}:{wanted.product_id:04x}{with_} is plugged in"
    if others:
        there = ", ".join(_told(device, system) for device in others)
        if before and not wanted.serial and not wanted.bus_path:
            instead = f", or another one in its place ({before.bus_path})" if before.bus_path else ""
            return f"{sentence}, only {there}; plug it in again{instead}"
        return f"{sentence}, only {there}; correct the profile, or plug it in"
    return f"{sentence}; plug it in; usbcast devices lists what is plugged in"


def _ambiguous(wanted: DeviceMatch, found: list[usb.core.Device], system: System) -> str:
    there = " and ".join(_told(device, system) for device in found)
    serials = {text_of(device, "serial_number", system) for device in found}
    keys = "serial or bus_path" if len(serials) == len(found) and "" not in serials else "bus_path"
    return (
        f"{len(found)} USB devices {wanted.vendor_id:04x}:{wanted.product_id:04x} are plugged in, {there}: "
        f"unplug all but one, or say which one by {keys} in the profile's [device] table"
    )


def _told(device: usb.core.Device, system: System) -> str:
    serial = text_of(device, "serial_number", system)
    return f"one at {bus_path(device)}" + (f" with serial {serial}" if serial else "")

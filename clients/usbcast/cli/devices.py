"""`usbcast devices`: the devices that are plugged in, the driver that holds each, and whether you may open it."""

from __future__ import annotations

import grp
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usbcast.cli.options import AsJson
from usbcast.cli.output import complain, console, emit, table, write
from usbcast_schemas.errors import DeviceMissing, UsageError

if TYPE_CHECKING:
    from usbcast_broker.sources.usb.discovery import FoundDevice


def devices(
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="VID:PID", help="Write a first profile for this device.")
    ] = None,
    udev: Annotated[
        list[str] | None,
        typer.Option("--udev", metavar="PROFILE", help="Print udev rules for this profile's device; may be repeated."),
    ] = None,
    group: Annotated[str, typer.Option("--group", help="With --udev: the group that may open it.")] = "usbcast",
    unit: Annotated[
        str,
        typer.Option(
            "--unit", metavar="UNIT", help="With --udev: start this with the device, as usbcast-node@{name}.service."
        ),
    ] = "",
    release: Annotated[
        bool, typer.Option("--release", help="Give back the kernel drivers of devices whose node was killed.")
    ] = False,
    hubs: Annotated[bool, typer.Option("--hubs", help="List hubs too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the USB devices of this machine."""
    from usbcast_broker.sources.usb.discovery import list_devices

    if udev:
        _print_rules(udev, group, unit, as_json)
        return
    if profile is not None:
        _draft(profile, as_json)
        return
    if release:
        _release(as_json)
        return
    found = [device for device in list_devices() if hubs or not device.is_hub]
    if as_json:
        emit({"devices": [_plain(device) for device in found]})
        return
    if not found:
        console.print("No USB device is plugged in. `usbcast demo` and `usbcast serve --simulate` need none.")
        return
    rows = [
        (
            f"{device.identity.vendor_id:04x}:{device.identity.product_id:04x}",
            " ".join(filter(None, (device.identity.manufacturer, device.identity.product))),
            device.identity.serial,
            device.identity.bus_path,
            device.speed,
            ", ".join(f"{e.address:#04x} {e.kind}" for e in device.endpoints if e.direction == "in"),
            _held_by(device),
            {True: "yes", False: "NO", None: "unknown"}[device.may_open],
        )
        for device in found
    ]
    console.print(table("USB devices", ("id", "name", "serial", "path", "speed", "IN", "held by", "may open"), rows))
    if any(device.may_open is False for device in found):
        console.print("  docs/usb.md says how to let your user open a device (a udev rule).")


def _print_rules(names: list[str], group: str, unit: str, as_json: bool) -> None:
    from usbcast_broker import profiles
    from usbcast_broker.sources.usb.udev import RULES_FILE, udev_rules

    rules = udev_rules([profiles.load(name) for name in names], group=group, unit=unit)
    if not has_group(group):
        complain(
            f"there is no group {group} on this machine yet: make it before you put the rules in place, "
            f"else nobody but root may open the device (sudo groupadd --system {group})",
            "yellow",
        )
    if as_json:
        emit({"file": RULES_FILE, "rules": rules})
    else:
        write(rules)


def has_group(name: str) -> bool:
    """Return True if this machine has a group of this name."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _release(as_json: bool) -> None:
    from usbcast_broker.sources.usb.drivers import release_all

    done = release_all()
    if as_json:
        emit({"released": [asdict(one) for one in done]})
    elif not done:
        console.print("No killed node has left a device of this machine without its kernel driver.")
    else:
        for one in done:
            if one.interfaces:
                console.print(
                    f"{one.device}: interfaces {', '.join(map(str, one.interfaces))} have their kernel driver again"
                )
            if one.problem:
                complain(one.problem)
    if any(one.problem for one in done):
        raise typer.Exit(1)


def _draft(wanted: str, as_json: bool) -> None:
    from usbcast_broker.sources.usb.discovery import HID_CLASS, list_devices, report_descriptor
    from usbcast_broker.sources.usb.drafting import chosen_endpoint, draft_profile

    given = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{1,4}):(?:0x)?([0-9a-fA-F]{1,4})", wanted)
    if given is None:
        raise UsageError(f"--profile {wanted} names no device: write vendor and product in hex, like 1209:0001")
    numbers = (int(given[1], 16), int(given[2], 16))
    found = [one for one in list_devices() if (one.identity.vendor_id, one.identity.product_id) == numbers]
    if not found:
        raise DeviceMissing(
            f"no USB device {wanted} is plugged in; plug it in; usbcast devices lists what is plugged in"
        )
    chosen = chosen_endpoint(found[0])
    is_hid = chosen.interface_class == HID_CLASS
    text = draft_profile(found[0], report_descriptor(found[0], chosen.interface) if is_hid else b"")
    if as_json:
        emit({"profile": text})
    else:
        write(text)


def _held_by(device: FoundDevice) -> str:
    drivers = [f"kernel: {name}" for name in dict.fromkeys(name for _, name in device.drivers)]
    return ", ".join(drivers + [f"{holder.name} ({holder.pid})" for holder in device.holders])


def _plain(device: FoundDevice) -> dict[str, Any]:
    plain = asdict(device)
    return {**plain.pop("identity"), **plain}

"""`usbcast devices`: what is plugged in, who holds it, and whether you may open it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usbcast.cli.options import AsJson
from usbcast.cli.output import console, emit, table

if TYPE_CHECKING:
    from usbcast_broker.usb.discovery import FoundDevice


def devices(
    hubs: Annotated[bool, typer.Option("--hubs", help="Hubs as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the USB devices of this machine."""
    from usbcast_broker.usb.discovery import list_devices

    found = [device for device in list_devices() if hubs or not device.is_hub]
    if as_json:
        emit({"devices": [_plain(device) for device in found]})
        return
    if not found:
        console.print(
            "No USB device is plugged in. `usbcast demo` and `usbcast serve --simulate` need none.", markup=False
        )
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
        console.print("  docs/usb.md says how to let your user open a device (a udev rule).", markup=False)


def _held_by(device: FoundDevice) -> str:
    drivers = [f"kernel: {name}" for name in dict.fromkeys(name for _, name in device.drivers)]
    return ", ".join(drivers + [f"{holder.name} ({holder.pid})" for holder in device.holders])


def _plain(device: FoundDevice) -> dict[str, Any]:
    plain = asdict(device)
    return {**plain.pop("identity"), **plain}

"""Lists what is plugged in: for each device what it is, who holds it, and whether this user may open it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import usb.backend
import usb.core
import usb.util

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.sources.usb.finding import identity_of
from usbcast_broker.sources.usb.libusb import load_backend
from usbcast_broker.sources.usb.system import Holder, System
from usbcast_schemas.errors import DeviceFailed

_KINDS: Final = ("control", "isochronous", "bulk", "interrupt")
_SPEEDS: Final = {1: "low", 2: "full", 3: "high", 4: "super", 5: "super plus"}
_HUB_CLASS: Final = 0x09
HID_CLASS: Final = 0x03
MAX_REPORT_DESCRIPTOR: Final = 4096
"""As Linux takes of one (HID_MAX_DESCRIPTOR_SIZE)."""


@dataclass(frozen=True)
class FoundEndpoint:
    """An endpoint of the first configuration."""

    interface: int
    alternate: int
    address: int
    kind: str
    """control, isochronous, bulk or interrupt."""
    max_packet_size: int
    interface_class: int = 0
    """bInterfaceClass: 3 HID, 0x0a CDC data, 0xff of the vendor's own."""

    @property
    def direction(self) -> str:
        return "in" if self.address & 0x80 else "out"


@dataclass(frozen=True)
class FoundDevice:
    """A device that is plugged in, as far as this user may know it."""

    identity: DeviceIdentity
    bus: int
    address: int
    speed: str
    """low, full, high, super, super plus; empty if unknown."""
    is_hub: bool
    endpoints: tuple[FoundEndpoint, ...]
    drivers: tuple[tuple[int, str], ...]
    """Interface and the kernel driver bound to it."""
    holders: tuple[Holder, ...]
    may_open: bool | None
    """None if this system does not say."""


def list_devices(backend: usb.backend.IBackend | None = None, system: System | None = None) -> list[FoundDevice]:
    """Every device on the buses of this machine, or of `backend`. Raises LibusbMissing."""
    system = system or System()
    used = backend or load_backend()
    failure = None
    try:
        holders = system.holders()
        return [_describe(device, system, holders.get((device.bus, device.address), ())) for device in _sorted(used)]
    except usb.core.USBError as error:
        failure = DeviceFailed(f"the USB devices cannot be listed: {error.strerror}; try again")
    finally:
        if used is not backend:
            used.finalize()
    raise failure


def report_descriptor(found: FoundDevice, interface: int, system: System | None = None) -> bytes:
    """The report descriptor of a HID interface: what the system knows, else what the device says; empty if neither tells."""
    known = (system or System()).report_descriptor(found.identity.bus_path, interface)
    return known or _asked_report_descriptor(found, interface)


def _asked_report_descriptor(found: FoundDevice, interface: int) -> bytes:
    backend = load_backend()
    try:
        device: Any = usb.core.find(
            backend=backend, custom_match=lambda one: (one.bus, one.address) == (found.bus, found.address)
        )
        if device is None:
            return b""
        try:  # GET_DESCRIPTOR of the class, to the interface (HID 1.11, 7.1.1)
            return bytes(device.ctrl_transfer(0x81, 0x06, 0x2200, interface, MAX_REPORT_DESCRIPTOR))
        except (usb.core.USBError, NotImplementedError):  # a driver has it, or this user may not
            return b""
        finally:
            usb.util.dispose_resources(device)
            del device
    finally:
        backend.finalize()


def _sorted(backend: usb.backend.IBackend) -> list[Any]:
    return sorted(usb.core.find(find_all=True, backend=backend), key=lambda one: (one.bus, one.port_numbers or ()))


def _describe(device: Any, system: System, holders: tuple[Holder, ...]) -> FoundDevice:
    identity = identity_of(device, system)
    endpoints = _endpoints(device)
    interfaces = sorted({endpoint.interface for endpoint in endpoints})
    drivers = ((interface, system.driver(identity.bus_path, interface)) for interface in interfaces)
    found = FoundDevice(
        identity=identity,
        bus=device.bus or 0,
        address=device.address or 0,
        speed=_SPEEDS.get(device.speed, ""),
        is_hub=device.bDeviceClass == _HUB_CLASS,
        endpoints=endpoints,
        drivers=tuple((interface, driver) for interface, driver in drivers if driver),
        holders=holders,
        may_open=system.may_open(device.bus or 0, device.address or 0),
    )
    usb.util.dispose_resources(device)
    return found


def _endpoints(device: Any) -> tuple[FoundEndpoint, ...]:
    """From descriptors that libusb keeps: no permission is needed."""
    try:
        configuration = device[0]
    except (usb.core.USBError, IndexError):  # a device that was never configured
        return ()
    return tuple(
        FoundEndpoint(
            interface=interface.bInterfaceNumber,
            alternate=interface.bAlternateSetting,
            address=endpoint.bEndpointAddress,
            kind=_KINDS[endpoint.bmAttributes & 3],
            max_packet_size=endpoint.wMaxPacketSize & 0x7FF,
            interface_class=interface.bInterfaceClass,
        )
        for interface in configuration
        for endpoint in interface
    )

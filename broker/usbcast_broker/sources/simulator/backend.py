"""Simulated devices as a backend of pyusb: `usb.core` above it is the real one, and nothing there knows the difference."""

# ruff: noqa: ARG002 - the signatures are pyusb's

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import usb.backend

from usbcast_broker.sources.simulator.descriptors import (
    CONFIGURATION_VALUE,
    ENDPOINT_IN,
    ENDPOINT_OUT,
    INTERFACE_NUMBER,
    ConfigurationDescriptor,
    DeviceDescriptor,
    EndpointDescriptor,
    InterfaceDescriptor,
    device_descriptor,
    endpoint_descriptors,
)
from usbcast_broker.sources.simulator.device import Handle, SimulatedDevice
from usbcast_broker.sources.simulator.failures import NOT_FOUND, usb_error

BUS = 99
"""Linux counts buses up to 64, so a simulated bus path is never that of a real device."""
_READS = 0x80


@dataclass(frozen=True)
class Place:
    """A device where it was plugged in during one of its lives."""

    device: SimulatedDevice
    port: int
    life: int


@dataclass(frozen=True)
class OpenDevice:
    device: SimulatedDevice
    handle: Handle


class SimulatorBackend(usb.backend.IBackend):  # type: ignore[misc]
    """The n-th device sits at port n of bus 99, bus path "99-n"."""

    def __init__(self, devices: Sequence[SimulatedDevice]) -> None:
        super().__init__()
        self.devices = tuple(devices)

    def enumerate_devices(self) -> Iterator[Place]:
        for port, device in enumerate(self.devices, start=1):
            life = device.life()
            if life is not None:
                yield Place(device, port, life)

    def get_parent(self, dev: Place) -> None:
        return None

    def get_device_descriptor(self, dev: Place) -> DeviceDescriptor:
        # Addresses go round as they do on a real bus, 1 being the root hub's.
        address = 2 + (dev.port - 1 + dev.life * len(self.devices)) % 126
        return device_descriptor(dev.device.config, bus=BUS, address=address, port=dev.port)

    def get_configuration_descriptor(self, dev: Place, config: int) -> ConfigurationDescriptor:
        return (ConfigurationDescriptor(),)[config]

    def get_interface_descriptor(self, dev: Place, intf: int, alt: int, config: int) -> InterfaceDescriptor:
        return ((InterfaceDescriptor(),),)[intf][alt]

    def get_endpoint_descriptor(self, dev: Place, ep: int, intf: int, alt: int, config: int) -> EndpointDescriptor:
        return endpoint_descriptors(dev.device.config)[ep]

    def open_device(self, dev: Place) -> OpenDevice:
        return OpenDevice(dev.device, dev.device.open(dev.life))

    def close_device(self, dev_handle: OpenDevice) -> None:
        dev_handle.device.close(dev_handle.handle)

    def get_configuration(self, dev_handle: OpenDevice) -> int:
        dev_handle.device.check(dev_handle.handle)
        return CONFIGURATION_VALUE

    def set_configuration(self, dev_handle: OpenDevice, config_value: int) -> None:
        dev_handle.device.check(dev_handle.handle)

    def set_interface_altsetting(self, dev_handle: OpenDevice, intf: int, altsetting: int) -> None:
        dev_handle.device.check(dev_handle.handle)

    def claim_interface(self, dev_handle: OpenDevice, intf: int) -> None:
        if intf != INTERFACE_NUMBER:
            raise usb_error(NOT_FOUND)
        dev_handle.device.claim(dev_handle.handle)

    def release_interface(self, dev_handle: OpenDevice, intf: int) -> None:
        dev_handle.device.release(dev_handle.handle)

    def bulk_read(self, dev_handle: OpenDevice, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        if ep != ENDPOINT_IN:
            # As libusb does: the direction is the address's, so a read from an OUT endpoint writes the buffer.
            return self.bulk_write(dev_handle, ep, intf, buff, timeout)
        view = memoryview(buff).cast("B")
        data = dev_handle.device.read(dev_handle.handle, len(view), timeout)
        view[: len(data)] = data
        return len(data)

    def intr_read(self, dev_handle: OpenDevice, ep: int, intf: int, size: array[int], timeout: int) -> int:
        return self.bulk_read(dev_handle, ep, intf, size, timeout)

    def bulk_write(self, dev_handle: OpenDevice, ep: int, intf: int, data: array[int], timeout: int) -> int:
        if ep != ENDPOINT_OUT:
            raise usb_error(NOT_FOUND)
        return dev_handle.device.write(dev_handle.handle, data.tobytes())

    def ctrl_transfer(
        self,
        dev_handle: OpenDevice,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[int],
        timeout: int,
    ) -> int:
        device, handle = dev_handle.device, dev_handle.handle
        if not bmRequestType & _READS:
            return device.control_write(handle, bmRequestType, bRequest, wIndex, data.tobytes())
        view = memoryview(data).cast("B")
        answer = device.control_read(handle, bmRequestType, bRequest, wValue, wIndex, len(view))
        view[: len(answer)] = answer
        return len(answer)

    def clear_halt(self, dev_handle: OpenDevice, ep: int) -> None:
        dev_handle.device.clear_halt(dev_handle.handle)

    def reset_device(self, dev_handle: OpenDevice) -> None:
        dev_handle.device.reset(dev_handle.handle)

    def is_kernel_driver_active(self, dev_handle: OpenDevice, intf: int) -> bool:
        dev_handle.device.check(dev_handle.handle)
        return False

"""The descriptors that a simulated device shows to pyusb, with the attributes that libusb's structures have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usbcast_broker.sources.simulator.config import SimulatorConfig

# bDescriptorType and bmAttributes: USB 2.0 specification, tables 9-5 and 9-13.
_DEVICE, _CONFIGURATION, _STRING, _INTERFACE, _ENDPOINT = 1, 2, 3, 4, 5
_BULK, _INTERRUPT = 2, 3
_VENDOR_CLASS: Final = 0xFF
_ENGLISH_US: Final = b"\x09\x04"

ENDPOINT_IN: Final = 0x81
ENDPOINT_OUT: Final = 0x02
CONFIGURATION_VALUE: Final = 1
INTERFACE_NUMBER: Final = 0
HIGH_SPEED: Final = 3


@dataclass(frozen=True)
class DeviceDescriptor:
    idVendor: int
    idProduct: int
    iManufacturer: int
    iProduct: int
    iSerialNumber: int
    bus: int
    address: int
    port_number: int
    port_numbers: tuple[int, ...]
    speed: int = HIGH_SPEED
    bLength: int = 18
    bDescriptorType: int = _DEVICE
    bcdUSB: int = 0x0200
    bDeviceClass: int = 0
    bDeviceSubClass: int = 0
    bDeviceProtocol: int = 0
    bMaxPacketSize0: int = 64
    bcdDevice: int = 0x0100
    bNumConfigurations: int = 1


@dataclass(frozen=True)
class ConfigurationDescriptor:
    bLength: int = 9
    bDescriptorType: int = _CONFIGURATION
    wTotalLength: int = 9 + 9 + 7 + 7
    bNumInterfaces: int = 1
    bConfigurationValue: int = CONFIGURATION_VALUE
    iConfiguration: int = 0
    bmAttributes: int = 0x80
    bMaxPower: int = 50
    extra_descriptors: tuple[int, ...] = ()


@dataclass(frozen=True)
class InterfaceDescriptor:
    bLength: int = 9
    bDescriptorType: int = _INTERFACE
    bInterfaceNumber: int = INTERFACE_NUMBER
    bAlternateSetting: int = 0
    bNumEndpoints: int = 2
    bInterfaceClass: int = _VENDOR_CLASS
    bInterfaceSubClass: int = 0
    bInterfaceProtocol: int = 0
    iInterface: int = 0
    extra_descriptors: tuple[int, ...] = ()


@dataclass(frozen=True)
class EndpointDescriptor:
    bEndpointAddress: int
    bmAttributes: int
    wMaxPacketSize: int
    bInterval: int
    bLength: int = 7
    bDescriptorType: int = _ENDPOINT
    bRefresh: int = 0
    bSynchAddress: int = 0
    extra_descriptors: tuple[int, ...] = ()


def device_descriptor(config: SimulatorConfig, *, bus: int, address: int, port: int) -> DeviceDescriptor:
    texts = (config.manufacturer, config.product, config.serial)
    manufacturer, product, serial = (i + 1 if text else 0 for i, text in enumerate(texts))
    return DeviceDescriptor(
        idVendor=config.vendor_id,
        idProduct=config.product_id,
        iManufacturer=manufacturer,
        iProduct=product,
        iSerialNumber=serial,
        bus=bus,
        address=address,
        port_number=port,
        port_numbers=(port,),
    )


def endpoint_descriptors(config: SimulatorConfig) -> tuple[EndpointDescriptor, ...]:
    kind, interval = (_INTERRUPT, 1) if config.interrupt else (_BULK, 0)
    return (
        EndpointDescriptor(ENDPOINT_IN, kind, config.max_packet_size, interval),
        EndpointDescriptor(ENDPOINT_OUT, _BULK, config.max_packet_size, 0),
    )


def string_descriptor(config: SimulatorConfig, index: int) -> bytes | None:
    """Return the string descriptor at `index`, 0 being the table of languages; None if there is none."""
    texts = (config.manufacturer, config.product, config.serial)
    if index == 0:
        raw = _ENGLISH_US
    elif index <= len(texts) and texts[index - 1]:
        raw = texts[index - 1].encode("utf-16-le")
    else:
        return None
    return bytes((2 + len(raw), _STRING)) + raw

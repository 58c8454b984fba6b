"""The USB edge: the only package, with the simulator, that imports pyusb; docs/usb.md says what it does when."""

from usbcast_broker.sources.usb.discovery import FoundDevice, list_devices
from usbcast_broker.sources.usb.feed import DeviceFeed
from usbcast_broker.sources.usb.libusb import load_backend
from usbcast_broker.sources.usb.transport import UsbTransport

__all__ = ["DeviceFeed", "FoundDevice", "UsbTransport", "list_devices", "load_backend"]

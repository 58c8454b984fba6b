"""The errors of usbcast: one small tree.

    UsbcastError
    ├── UsageError            you asked for something that cannot be
    │   ├── ProfileError      a device profile is wrong: key, value, what is allowed
    │   ├── ConfigError       a setting is wrong
    │   ├── KeysError         keys are missing, malformed, or open to others
    │   └── SubscriptionClosed  it was closed, and something was asked of it
    ├── DeviceError           the device, or the way to it
    │   ├── LibusbMissing     no libusb on this machine
    │   ├── DeviceMissing     not plugged in
    │   ├── DeviceAmbiguous   several fit, and the profile does not say which
    │   ├── DeviceBusy        another program or a kernel driver holds it
    │   ├── DeviceForbidden   no permission to open it
    │   ├── DeviceDetached    it went away while in use
    │   ├── DeviceStalled     an endpoint halted, or a control request was refused
    │   ├── DeviceOverflowed  it sent more than the read had room for
    │   └── DeviceFailed      any other bus error
    ├── NodeError             this machine cannot serve the stream
    │   ├── EndpointTaken     the address is in use
    │   └── RingUnavailable   no room or no place for the ring
    ├── RecordingError        a recording cannot be written, read or played
    ├── PeerError             the other side sent what the contract does not allow
    │   ├── WireError         malformed bytes
    │   ├── RingTorn          a ring slot changed while it was read
    │   └── VersionMismatch   another major version of the contract
    └── RemoteError           the other side cannot do what was asked
        ├── NodeUnreachable   no answer
        ├── AccessRefused     it does not let this client in, or not do this
        ├── StreamUnknown     the node has no such stream
        ├── StreamAmbiguous   several nodes on the LAN have a stream of this name
        ├── ClockUnknown      the clock of the reading host has not been compared with this one yet
        ├── CommandFailed     the device or the node refused a command
        └── ServerRefused     a server that stores streams: rights, configuration, no such service

Every message is one sentence for a person: it names the value and the next step.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from usbcast_schemas.printable import printable


class UsbcastError(Exception):
    """Base of everything that usbcast raises on purpose. Its text is safe to show, also where a peer wrote part of it."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class UsageError(UsbcastError):
    """You asked for something that cannot be."""


class ProfileError(UsageError):
    """A device profile is wrong."""


class ConfigError(UsageError):
    """A setting is wrong."""


class KeysError(UsageError):
    """Keys are missing, malformed, or open to others."""


class SubscriptionClosed(UsageError):
    """The subscription was closed before, and something was asked of it."""


class DeviceError(UsbcastError):
    """The device, or the way to it."""


class LibusbMissing(DeviceError):
    """libusb is not installed on this machine."""


class DeviceMissing(DeviceError):
    """No such device is plugged in."""


class DeviceAmbiguous(DeviceError):
    """Several devices are as the profile wants them."""


class DeviceBusy(DeviceError):
    """Another program or a kernel driver holds the device."""


class DeviceForbidden(DeviceError):
    """This user may not open the device."""


class DeviceDetached(DeviceError):
    """The device went away while it was in use."""


class DeviceStalled(DeviceError):
    """An endpoint halted, or the device refused a control request."""


class DeviceOverflowed(DeviceError):
    """The device sent more than the read had room for; that data is gone."""


class DeviceFailed(DeviceError):
    """A bus error of another kind."""


class NodeError(UsbcastError):
    """This machine cannot serve the stream."""


class EndpointTaken(NodeError):
    """The address is in use; `endpoint` is set if a program listens there."""

    def __init__(self, message: str, endpoint: str = "") -> None:
        super().__init__(message)
        self.endpoint = endpoint


class RingUnavailable(NodeError):
    """The ring cannot be created or opened."""


class RecordingError(UsbcastError):
    """A recording cannot be written, read or played."""


class PeerError(UsbcastError):
    """The other side sent what the contract does not allow."""


class WireError(PeerError):
    """Malformed bytes."""


class RingTorn(PeerError):
    """A ring slot changed while it was read; what was copied is not to be used."""


class VersionMismatch(PeerError):
    """The other side speaks another major version of the contract."""


class RemoteError(UsbcastError):
    """The other side cannot do what was asked."""


class NodeUnreachable(RemoteError):
    """No node answered."""


class AccessRefused(RemoteError):
    """The node does not let this client in, or not do what it asked; or it is not the node that was expected."""


class StreamUnknown(RemoteError):
    """The node has no such stream."""


class StreamAmbiguous(RemoteError):
    """Several nodes on the LAN have a stream of this name."""


class ClockUnknown(RemoteError):
    """The clock of the reading host has not been compared with this host's yet, or cannot be."""


class CommandFailed(RemoteError):
    """The device or the node refused a command."""


class ServerRefused(RemoteError):
    """A server that is to store streams, or has stored them, refuses."""

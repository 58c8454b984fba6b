"""One USB device from opening to closing. Whoever opens it also reads and closes it, in one thread."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import usb.backend
import usb.core
import usb.util

from usbcast_broker.flow import DeviceIdentity, Transfer
from usbcast_broker.sources.usb.clock import Clock, system_clock
from usbcast_broker.sources.usb.drivers import left_behind, remove_note, write_note
from usbcast_broker.sources.usb.endpoint_reader import Deliver, EndpointReader, PlainReader, QueuesReads
from usbcast_broker.sources.usb.errors import Cause, busy, cause_of, device_error, forbidden
from usbcast_broker.sources.usb.finding import bus_path, find_device, identity_of, name_of
from usbcast_broker.sources.usb.libusb import load_backend
from usbcast_broker.sources.usb.read_sizes import ReadSizes
from usbcast_broker.sources.usb.readahead import Figures
from usbcast_broker.sources.usb.system import System
from usbcast_schemas.errors import DeviceDetached, DeviceError, DeviceFailed, ProfileError, UsageError, UsbcastError
from usbcast_schemas.profile import ControlRequest, DeviceMatch, TransferSettings

log = logging.getLogger(__name__)

MAX_READ_TIMEOUT_MS: Final = 500
"""A thread that is told to stop finds out so much later."""
STARTUP_TIMEOUT_MS: Final = 1000
SHUTDOWN_BUDGET_S: Final = 0.25

_IN: Final = 0x80
_KINDS: Final = {0: "control", 1: "isochronous", 2: "bulk", 3: "interrupt"}
_READABLE: Final = ("bulk", "interrupt")


class UsbTransport:
    """The device of a profile. `open` it, `read` it, `close` it, and open it again after it was away.

    Each opening has an `EndpointReader`, queued if the backend queues reads. Here its errors become those of usbcast.

    Without a `backend`, each opening has a libusb context of its own: see `load_backend`.
    """

    def __init__(
        self,
        device: DeviceMatch,
        transfer: TransferSettings,
        startup: Sequence[ControlRequest] = (),
        shutdown: Sequence[ControlRequest] = (),
        backend: usb.backend.IBackend | None = None,
        system: System | None = None,
        clock: Clock = system_clock,
        *,
        bytes_per_s: float = 0.0,
        whole: bool = False,
    ) -> None:
        """`bytes_per_s`: what the device means to send, 0 if unknown.

        With `whole` reads are always of the profile's size, so that they end where the device ends its transfers.
        """
        self.name = name_of(device.vendor_id, device.product_id, device.serial or "", device.bus_path or "")
        self._match = device
        self._transfer = transfer
        self._startup = tuple(startup)
        self._shutdown = tuple(shutdown)
        self._given_backend = backend
        self._system = system or System()
        self._clock = clock
        self._figures = Figures()
        self._bytes_per_s = bytes_per_s
        self._whole = whole
        self._sizes = ReadSizes(0)
        self._reader: EndpointReader | None = None
        self._identity: DeviceIdentity | None = None
        self._backend: usb.backend.IBackend | None = None
        self._device: Any = None
        self._detached: list[int] = []
        self._companions: list[int] = []
        """Interfaces that the detached driver had as well, as that of a CDC-ACM port has two: taken and given back together."""
        self._started = False
        self._timeout_ms = min(transfer.timeout_ms, MAX_READ_TIMEOUT_MS)

    @property
    def read_size(self) -> int:
        """Bytes that a read has room for at most: whole USB packets, so that none is too long for what is left of it."""
        return self._sizes.most_bytes

    @property
    def held_ns(self) -> int:
        """The age, at the most, of the oldest byte that a read may hold; 0 while it cannot hold any. From any thread."""
        return self._figures.held_ns(self._clock()[1])

    def open(self, deliver: Deliver | None = None) -> DeviceIdentity:
        """Find, claim and start the device; after a first time, the same one again.

        `deliver` takes what queued reads bring while a command is under way; without it the next read returns that.

        Raises DeviceMissing, DeviceBusy, DeviceForbidden, LibusbMissing and other DeviceErrors, DeviceAmbiguous if
        more than one device fits, ProfileError for an interface or endpoint that the device does not have.
        """
        self.close()
        try:
            self._identity = self._open(deliver)
            return self._identity
        except usb.core.USBError as error:
            failure: UsbcastError = self._explain(error)
        except UsbcastError as error:
            # Without its past: the frames in a traceback would keep devices alive beyond their libusb context, which
            # ends with `close`; libusb then crashes when they go.
            failure = error.with_traceback(None)
        except BaseException:
            self.close()
            raise
        self.close()
        raise failure

    @property
    def counters(self) -> Mapping[str, int]:
        """Figures of the reading ahead; all 0 where reads are not queued."""
        return self._figures.as_counters()

    @property
    def reads_ahead(self) -> bool:
        """Reads are queued, so the bus continues while this side does something else."""
        reader = self._reader
        return reader is not None and reader.queued

    def read(self, timeout_ms: int | None = None) -> list[Transfer]:
        """Wait for data, and return all transfers that have ended, in order; empty if nothing came in time.

        Raises DeviceDetached, DeviceStalled, DeviceOverflowed or DeviceFailed.
        """
        if self._reader is None:
            raise DeviceDetached(f"{self.name} is not open; plug it in again")
        try:
            return self._reader.read(timeout_ms or self._timeout_ms)
        except usb.core.USBError as error:
            if cause_of(error) is Cause.TIMEOUT:
                return []
            failure = device_error(error, self.name, "a read")
        raise failure

    def wake(self) -> None:
        """End a read that waits, as if nothing had come in time; from any thread. Reads that are not queued continue."""
        reader = self._reader
        if reader is not None:
            reader.wake()

    def finish(self, timeout_s: float) -> list[Transfer]:
        """End the reading; return what queued reads hold, in order, after `timeout_s` to end by themselves. Then close."""
        return self._reader.finish(timeout_s) if self._reader else []

    def clear_halt(self) -> None:
        """Let the halted endpoint go on."""
        self._do("clearing the halt", lambda device: device.clear_halt(self._match.endpoint))

    def reset(self) -> None:
        """Reset the device's port. What was set up is gone with it: open it again."""
        try:
            self._do("a reset", lambda device: device.reset())
        finally:
            self._started = False
            self.close()

    def control(
        self, request_type: int, request: int, value: int, index: int, data_or_length: bytes | int, timeout_ms: int
    ) -> bytes | int:
        """A control transfer: the bytes read if bit 7 of `request_type` is set, else how many were written.

        Raises DeviceStalled if the device refuses it, and UsageError for a length to write or data to read.
        """
        reads = bool(request_type & _IN)
        if reads != isinstance(data_or_length, int):
            raise UsageError(
                f"request type {request_type:#04x} {'reads' if reads else 'writes'}: "
                f"give {'a length, not data' if reads else 'data, not a length'}"
            )
        what = f"the control transfer {request_type:#04x} {request:#04x} {value:#06x} {index:#06x}"
        answer = self._do(
            what,
            lambda device: device.ctrl_transfer(request_type, request, value, index, data_or_length, timeout_ms),
        )
        return bytes(answer) if reads else int(answer)

    def write(self, endpoint: int, data: bytes, timeout_ms: int) -> int:
        """Send data to an OUT endpoint of the interface in use; return how many bytes the device took."""
        if endpoint not in self._endpoints(outgoing=True):
            known = ", ".join(f"{address:#04x}" for address in self._endpoints(outgoing=True)) or "none"
            raise UsageError(f"{self.name} has no OUT endpoint {endpoint:#04x} in use; it has {known}")
        what = f"a write of {len(data)} bytes to endpoint {endpoint:#04x}"
        return int(self._do(what, lambda device: device.write(endpoint, data, timeout_ms)))

    def close(self) -> None:
        """Stop the device and give it back, as far as it is still there. Never raises; may be called again."""
        device, self._device = self._device, None
        self._reader = None
        if device is not None:
            if self._started:
                self._shut_down(device)
            for interface in (self._match.interface, *self._companions):
                with contextlib.suppress(usb.core.USBError, NotImplementedError):
                    usb.util.release_interface(device, interface)
            for interface in sorted(self._detached):  # the driver of several is asked by the first of them
                with contextlib.suppress(usb.core.USBError, NotImplementedError):
                    device.attach_kernel_driver(interface)
            remove_note(device, self._match.interface)
            usb.util.dispose_resources(device)
        self._started = False
        self._detached, self._companions = [], []
        del device
        backend, self._backend = self._backend, None
        if backend is not None and backend is not self._given_backend:
            backend.finalize()

    def _open(self, deliver: Deliver | None) -> DeviceIdentity:
        self._backend = self._given_backend or load_backend(self._transfer.queue, self._figures)
        self._device = device = find_device(self._backend, self._match, self._identity, self._system)
        self.name = name_of(device.idVendor, device.idProduct, self._match.serial or "", bus_path(device))
        wanted = self._match
        self._detached = left_behind(device, wanted.interface)
        self._companions = [one for one in self._detached if one != wanted.interface]
        self._detach_kernel_driver(wanted.interface)
        self._configure(device, wanted.configuration)
        self._detach_kernel_driver(wanted.interface)
        endpoint = self._find_endpoint(device)
        usb.util.claim_interface(device, wanted.interface)
        for companion in self._companions:
            # Else a request to it would have the system take it, and keep it from the driver until the device is closed.
            with contextlib.suppress(usb.core.USBError):
                usb.util.claim_interface(device, companion)
        if wanted.alternate:
            device.set_interface_altsetting(wanted.interface, wanted.alternate)
        self._sizes = self._read_sizes(endpoint.wMaxPacketSize, device.bus or 0)
        identity = identity_of(device, self._system)
        self.name = name_of(identity.vendor_id, identity.product_id, identity.serial, identity.bus_path)
        self._started = True
        self._start_up(device)
        self._reader = self._open_reader(device, endpoint, deliver)
        return identity

    def _open_reader(self, device: Any, endpoint: Any, deliver: Deliver | None) -> EndpointReader:
        address, kind = endpoint.bEndpointAddress, endpoint.bmAttributes & 3
        if isinstance(self._backend, QueuesReads):
            return self._backend.open_reader(self._match.interface, address, kind, self._sizes, deliver)
        return PlainReader(device, address, self._sizes, self._figures, self._clock)

    def _read_sizes(self, max_packet_size: int, bus: int) -> ReadSizes:
        """How large reads of the endpoint may be, by the wMaxPacketSize of its descriptor."""
        transfer = self._transfer
        # Bits 12 and 11: further transactions in a microframe (USB 2.0 specification, table 9-13).
        transaction_bytes = max(1, max_packet_size & 0x7FF)
        packet_bytes = transaction_bytes * (1 + (max_packet_size >> 11 & 3))
        # Status bytes are found by where a transfer begins: one may be divided only between the blocks that have some.
        divisible = not transfer.strip_prefix or (
            transfer.strip_every and transaction_bytes % transfer.strip_every == 0
        )
        return ReadSizes(
            -(-transfer.size // packet_bytes) * packet_bytes,
            packet_bytes,
            transfer.latency_ms * 1_000_000 if divisible else 0,
            bytes_per_s=self._bytes_per_s,
            transaction_bytes=transaction_bytes,
            can_end=self._given_backend is not None or self._system.keeps_cancelled(bus),
            whole=self._whole,
        )

    def _detach_kernel_driver(self, interface: int) -> None:
        if not self._has_kernel_driver(interface):
            return
        others = [other for other in self._other_interfaces(interface) if self._has_kernel_driver(other)]
        write_note(self._device, self._match.interface, {*self._detached, interface, *others})
        try:
            self._device.detach_kernel_driver(interface)
        except usb.core.USBError as error:
            if cause_of(error) is not Cause.NOT_FOUND:  # it has gone by itself
                raise
            return
        companions = [other for other in others if not self._has_kernel_driver(other)]
        self._companions = companions
        self._detached += [one for one in (interface, *companions) if one not in self._detached]
        write_note(self._device, self._match.interface, self._detached)

    def _has_kernel_driver(self, interface: int) -> bool:
        try:
            return bool(self._device.is_kernel_driver_active(interface))
        except NotImplementedError:  # no such thing on this system
            return False
        except usb.core.USBError as error:
            if cause_of(error) is Cause.NOT_FOUND:
                return False
            raise

    def _other_interfaces(self, interface: int) -> set[int]:
        try:
            active = self._device.get_active_configuration()
        except usb.core.USBError:
            return set()
        return {one.bInterfaceNumber for one in active} - {interface}

    def _configure(self, device: Any, wanted: int | None) -> None:
        """Choose the configuration only if it differs: choosing it resets the device."""
        try:
            active = device.get_active_configuration()
        except usb.core.USBError as error:
            if error.errno is not None or error.backend_error_code is not None:
                raise
            active = None  # pyusb says so, in words only, of a device that nobody has configured
        if active is not None and wanted in (None, active.bConfigurationValue):
            return
        known = [configuration.bConfigurationValue for configuration in device]
        if wanted is not None and wanted not in known:
            raise ProfileError(f"device.configuration is {wanted}: {self.name} has {', '.join(map(str, known))}")
        for interface in {interface.bInterfaceNumber for interface in active or ()}:
            self._detach_kernel_driver(interface)
        device.set_configuration(wanted if wanted is not None else known[0])
        self._companions = []  # those were of the former configuration

    def _find_endpoint(self, device: Any) -> Any:
        """The descriptor of the profile's endpoint; ProfileError if there is none that can be read."""
        wanted = self._match
        interfaces = list(device.get_active_configuration())
        chosen = [
            interface
            for interface in interfaces
            if (interface.bInterfaceNumber, interface.bAlternateSetting) == (wanted.interface, wanted.alternate)
        ]
        if not chosen:
            known = ", ".join(f"{one.bInterfaceNumber}/{one.bAlternateSetting}" for one in interfaces)
            raise ProfileError(
                f"device.interface is {wanted.interface} and device.alternate {wanted.alternate}: "
                f"{self.name} has the interfaces and alternate settings {known}"
            )
        endpoints = {endpoint.bEndpointAddress: endpoint for endpoint in chosen[0]}
        endpoint = endpoints.get(wanted.endpoint)
        # pyusb does not mind: it would write to an OUT endpoint when told to read from it.
        if endpoint is None or not wanted.endpoint & _IN or _kind(endpoint) not in _READABLE:
            known = ", ".join(
                f"{address:#04x} ({_kind(one)} {'IN' if address & _IN else 'OUT'})"
                for address, one in endpoints.items()
            )
            raise ProfileError(
                f"device.endpoint is {wanted.endpoint:#04x}: interface {wanted.interface} of {self.name} has "
                f"{known or 'none'}; a bulk or interrupt IN endpoint is allowed"
            )
        return endpoint

    def _endpoints(self, *, outgoing: bool) -> list[int]:
        if self._device is None:
            raise DeviceDetached(f"{self.name} is not open; plug it in again")
        return [
            endpoint.bEndpointAddress
            for interface in self._device.get_active_configuration()
            if (interface.bInterfaceNumber, interface.bAlternateSetting)
            == (self._match.interface, self._match.alternate)
            for endpoint in interface
            if bool(endpoint.bEndpointAddress & _IN) != outgoing
        ]

    def _start_up(self, device: Any) -> None:
        for i, request in enumerate(self._startup):
            try:
                _send(device, request, STARTUP_TIMEOUT_MS)
            except usb.core.USBError as error:
                what = f"startup[{i}] ({request.request_type:#04x} {request.request:#04x})"
                failure = device_error(error, self.name, what)
                break
        else:
            return
        raise failure

    def _shut_down(self, device: Any) -> None:
        """Best effort: the device may be gone, and nobody waits for it any longer than the budget."""
        end = time.monotonic() + SHUTDOWN_BUDGET_S
        for i, request in enumerate(self._shutdown):
            left_ms = int((end - time.monotonic()) * 1000)
            if left_ms <= 0:
                log.warning("%s: no time was left for shutdown[%d]", self.name, i)
                return
            try:
                _send(device, request, left_ms)
            except usb.core.USBError as error:
                log.info("%s", device_error(error, self.name, f"shutdown[{i}]"))
                if cause_of(error) is Cause.GONE:
                    return

    def _do(self, what: str, call: Any) -> Any:
        if self._device is None:
            raise DeviceDetached(f"{self.name} is not open; plug it in again")
        try:
            return call(self._device)
        except usb.core.USBError as error:
            failure = device_error(error, self.name, what)
        except NotImplementedError:
            failure = DeviceFailed(f"{self.name}: {what} is not possible on this system")
        raise failure

    def _explain(self, error: usb.core.USBError) -> DeviceError:
        """What stood in the way of opening the device, with who holds it or how to be allowed."""
        device, cause = self._device, cause_of(error)
        if device is None or cause not in (Cause.FORBIDDEN, Cause.BUSY):
            return device_error(error, self.name, "opening")
        if cause is Cause.FORBIDDEN:
            return forbidden(self.name, device.idVendor, str(self._system.node(device.bus, device.address) or ""))
        driver = self._system.driver(bus_path(device), self._match.interface)
        try:
            bound = device.is_kernel_driver_active(self._match.interface)
        except (usb.core.USBError, NotImplementedError):
            bound = False
        if bound:
            return busy(self.name, f"the kernel driver {driver}" if driver else "a kernel driver")
        holders = self._system.holders().get((device.bus, device.address), ())
        return busy(self.name, " and ".join(map(str, holders)))


def _kind(endpoint: Any) -> str:
    return _KINDS[endpoint.bmAttributes & 3]


def _send(device: Any, request: ControlRequest, timeout_ms: int) -> None:
    reads = request.request_type & _IN
    device.ctrl_transfer(
        request.request_type,
        request.request,
        request.value,
        request.index,
        request.length if reads else request.data,
        timeout_ms,
    )

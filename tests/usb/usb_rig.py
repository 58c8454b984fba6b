"""What the tests of the USB edge stand on: simulated devices, a backend that can refuse, and a queue that is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import usb.core
from usb.backend import IBackend

from usbcast_broker.flow import DeviceEvent, DeviceIdentity, HostItem, Transfer
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.usb.clock import Clock, system_clock
from usbcast_broker.sources.usb.endpoint_reader import Deliver
from usbcast_broker.sources.usb.feed import DeviceFeed
from usbcast_broker.sources.usb.system import System
from usbcast_broker.sources.usb.transport import UsbTransport
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_schemas.profile import ControlRequest, DeviceMatch, TransferSettings
from usbcast_schemas.v1 import usbcast_pb2 as pb

NOWHERE = System(Path("/nowhere"))
VENDOR, PRODUCT = 0x1209, 0x0001
RATE_HZ = 2000.0


class Backend(SimulatorBackend):
    """Logs the calls that change the device, and lets `rules` raise or answer in place of the simulator.

    A rule is a function of the call's arguments after the handle; returning `...` lets the simulator answer.
    """

    def __init__(self, *configs: SimulatorConfig) -> None:
        super().__init__([SimulatedDevice(config) for config in configs or (SimulatorConfig(),)])
        self.log: list[str] = []
        self.rules: dict[str, Callable[..., Any]] = {}

    def refuse(self, call: str, code: int, errno: int | None, times: int = 1 << 30) -> None:
        """Let a call fail so many times, as libusb's backend would."""
        left = [times]

        def rule(*_: object) -> object:
            if left[0] <= 0:
                return ...
            left[0] -= 1
            kind = usb.core.USBTimeoutError if code == -7 else usb.core.USBError
            raise kind("refused", code, errno)

        self.rules[call] = rule


_LOGGED = {
    "open_device",
    "close_device",
    "set_configuration",
    "set_interface_altsetting",
    "claim_interface",
    "release_interface",
    "clear_halt",
    "reset_device",
    "detach_kernel_driver",
    "attach_kernel_driver",
}


def _ruled(name: str) -> Callable[..., Any]:
    def method(self: Backend, handle: Any, *arguments: Any) -> Any:
        if name in _LOGGED:
            self.log.append(" ".join([name, *(str(one) for one in arguments if isinstance(one, int))]))
        if name == "ctrl_transfer" and arguments[1] != 6:  # all but the strings
            self.log.append(f"control {arguments[0]:#04x} {arguments[1]} {arguments[3]}")
        rule = self.rules.get(name)
        answer = rule(*arguments) if rule else ...
        return getattr(SimulatorBackend, name)(self, handle, *arguments) if answer is ... else answer

    return method


for _name in (
    *_LOGGED,
    *("bulk_read", "bulk_write", "ctrl_transfer", "get_configuration", "is_kernel_driver_active"),
    *("get_device_descriptor", "get_configuration_descriptor", "get_interface_descriptor", "get_endpoint_descriptor"),
):
    setattr(Backend, _name, _ruled(_name))


def match(**changes: Any) -> DeviceMatch:
    """The table [device] of a profile; values that a profile would not allow are let through."""
    values = DeviceMatch(vendor_id=VENDOR, product_id=PRODUCT).model_dump() | changes
    return DeviceMatch.model_construct(**values)


def transport(
    backend: IBackend | None,
    *,
    startup: tuple[ControlRequest, ...] = (),
    shutdown: tuple[ControlRequest, ...] = (),
    size: int = 16384,
    timeout_ms: int = 50,
    latency_ms: int = 10,
    system: System = NOWHERE,
    clock: Clock = system_clock,
    **device: Any,
) -> UsbTransport:
    settings = TransferSettings(size=size, timeout_ms=timeout_ms, latency_ms=latency_ms)
    return UsbTransport(match(**device), settings, startup, shutdown, backend, system, clock)


def twin(serial: str, product: str = "simulated device") -> SimulatorConfig:
    """One of several devices with the same numbers."""
    return SimulatorConfig(rate_hz=1000, serial=serial, product=product)


def read(way: UsbTransport, timeout_ms: int | None = None) -> bytes | None:
    """Return the bytes of one read, None if nothing came."""
    transfers = way.read(timeout_ms)
    return b"".join(transfer.data for transfer in transfers) if transfers else None


def until(condition: Callable[[], object], what: str = "it", timeout_s: float = 10.0) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.002)


def take_all(queue: HostQueue) -> list[HostItem]:
    return queue.take(1 << 40)


def told(items: list[HostItem]) -> list[object]:
    """The story of a queue's items: names of events, and the number of bytes read between them."""
    story: list[object] = []
    for item in items:
        if isinstance(item, Transfer):
            if story and type(story[-1]) is int:
                story[-1] += len(item.data)
            else:
                story.append(len(item.data))
        elif isinstance(item, DeviceEvent):
            story.append(pb.DeviceEvent.Kind.Name(item.kind).removeprefix("KIND_"))
        else:
            story.append(item)
    return story


def data_of(items: list[HostItem]) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, Transfer))


class Rig:
    """A feed of a simulated device, and the queue that it fills."""

    def __init__(self, backend: Backend, *, wait: bool = False, **device: Any) -> None:
        self.backend = backend
        self.device = backend.devices[0]
        self.queue = HostQueue()
        self.feed = DeviceFeed(transport(backend, **device), self.queue, wait_for_device=wait)

    def __enter__(self) -> Rig:
        self.feed.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.stop()


class Scripted:
    """A transport that does as told: opens and reads end with the given values or errors, then with silence."""

    def __init__(self, reads: Iterable[Any] = (), opens: Iterable[Any] = ()) -> None:
        self.name = "device 1234:5678"
        self.reads_ahead = False
        self.held_ns = 0
        self.reads: Iterator[Any] = iter(reads)
        self.opens: Iterator[Any] = iter(opens)
        self.log: list[str] = []
        self.timeouts: list[int | None] = []
        self.silent = threading.Event()
        self.clock: Clock = system_clock
        self.ahead: list[bytes] = []
        """What was read ahead when the reading ends."""
        self.finished_s: list[float] = []

    def open(self, deliver: Deliver | None = None) -> DeviceIdentity:  # noqa: ARG002 - nothing is read during a command
        self.log.append("open")
        answer = next(self.opens, None)
        if isinstance(answer, BaseException):
            raise answer
        return DeviceIdentity(0x1234, 0x5678)

    @property
    def counters(self) -> dict[str, int]:
        return {}

    def wake(self) -> None:
        pass

    def finish(self, timeout_s: float) -> list[Transfer]:
        self.finished_s.append(timeout_s)
        rest, self.ahead = self.ahead, []
        return [Transfer(data, *self.clock()) for data in rest]

    def read(self, timeout_ms: int | None = None) -> list[Transfer]:
        self.timeouts.append(timeout_ms)
        answer = next(self.reads, ...)
        if answer is ...:
            self.silent.set()
            time.sleep((timeout_ms or 10) / 1000)
            return []
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer()
        if answer is None:
            return []
        return [Transfer(data, *self.clock()) for data in (answer if isinstance(answer, list) else [answer])]

    def clear_halt(self) -> None:
        self.log.append("clear_halt")

    def reset(self) -> None:
        self.log.append("reset")

    def close(self) -> None:
        self.log.append("close")

    def control(self, *setup: Any) -> bytes | int:
        self.log.append(f"control {setup}")
        return b"answer" if setup[0] & 0x80 else 6

    def write(self, endpoint: int, data: bytes, timeout_ms: int) -> int:
        self.log.append(f"write {endpoint} {data!r} {timeout_ms}")
        return len(data)

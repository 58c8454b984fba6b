"""Commands for the device: asked for by any thread, carried out by the one that owns the device, between two reads."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Final, Protocol

from usbcast_schemas.errors import CommandFailed, DeviceDetached, DeviceError, UsbcastError
from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_WAITING: Final = 64
DEFAULT_TIMEOUT_MS: Final = 1000
MAX_TIMEOUT_MS: Final = 5000
MAX_BYTES: Final = 65535
"""wLength of a control transfer has 16 bits."""


class Commandable(Protocol):
    def control(
        self, request_type: int, request: int, value: int, index: int, data_or_length: bytes | int, timeout_ms: int
    ) -> bytes | int: ...

    def write(self, endpoint: int, data: bytes, timeout_ms: int) -> int: ...


class Commands:
    """A bounded queue of commands and of the futures that await their replies; closed while the device is away."""

    def __init__(self, why_closed: str) -> None:
        self._why_closed = why_closed
        self._waiting: deque[tuple[pb.CommandRequest, Future[pb.CommandReply]]] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self) -> None:
        """There is a device to carry them out."""
        with self._lock:
            self._why_closed = ""

    def close(self, why: str) -> None:
        """There is none: answer all that wait, and all that follow, with DeviceDetached."""
        with self._lock:
            self._why_closed = why
            refused = list(self._waiting)
            self._waiting.clear()
        for _, future in refused:
            if future.set_running_or_notify_cancel():
                future.set_exception(DeviceDetached(why))

    def submit(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have it done in its turn. The future raises CommandFailed, UsageError or a DeviceError."""
        future: Future[pb.CommandReply] = Future()
        with self._lock:
            if self._why_closed:
                future.set_exception(DeviceDetached(self._why_closed))
            elif len(self._waiting) >= MAX_WAITING:
                future.set_exception(CommandFailed(f"{MAX_WAITING} commands are waiting for the device; try again"))
            else:
                self._waiting.append((request, future))
        return future

    def run_one(self, device: Commandable) -> DeviceError | None:
        """Carry out the oldest; return what the device failed with, which the caller of `submit` is told as well.

        Only one thread may call this, the one that closes.
        """
        request, future = self._waiting.popleft()
        if not future.set_running_or_notify_cancel():
            return None
        try:
            reply = _carry_out(device, request)
        except UsbcastError as error:
            future.set_exception(error)
            return error if isinstance(error, DeviceError) else None
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(reply)
        return None


def _carry_out(device: Commandable, request: pb.CommandRequest) -> pb.CommandReply:
    timeout_ms = request.timeout_ms or DEFAULT_TIMEOUT_MS
    if timeout_ms > MAX_TIMEOUT_MS:
        raise CommandFailed(f"timeout_ms is {timeout_ms}: up to {MAX_TIMEOUT_MS} is allowed")
    match request.WhichOneof("transfer"):
        case "control":
            return _control(device, request.control, timeout_ms)
        case "out":
            out = request.out
            return pb.CommandReply(written=device.write(out.endpoint, out.data, timeout_ms))
        case _:
            raise CommandFailed("the command has no transfer: give a control or an out transfer")


def _control(device: Commandable, control: pb.ControlTransfer, timeout_ms: int) -> pb.CommandReply:
    setup = (control.request_type, control.request, control.value, control.index)
    for name, number, most in zip(
        ("request_type", "request", "value", "index"), setup, (0xFF, 0xFF, 0xFFFF, 0xFFFF), strict=True
    ):
        if number > most:
            raise CommandFailed(f"{name} is {number:#x}: up to {most:#x} is allowed")
    reads = bool(control.request_type & 0x80)
    if (reads and control.data) or (not reads and control.length):
        what, key = ("reads", "length") if reads else ("writes", "data")
        raise CommandFailed(f"request_type {control.request_type:#04x} {what}: only {key} is allowed")
    size = control.length if reads else len(control.data)
    if size > MAX_BYTES:
        raise CommandFailed(f"the control transfer is {size} bytes long: up to {MAX_BYTES} is allowed")
    answer = device.control(*setup, control.length if reads else control.data, timeout_ms)
    if isinstance(answer, bytes):
        return pb.CommandReply(data=answer)
    return pb.CommandReply(written=answer)

"""The thread that owns a device: opens it, hands in what it reads, brings it back after faults, and closes it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Final, Protocol

from usbcast_broker.flow import DeviceEvent, DeviceIdentity, HostItem, Transfer
from usbcast_broker.sources.usb.clock import Clock, system_clock
from usbcast_broker.sources.usb.commands import Commandable, Commands
from usbcast_broker.sources.usb.endpoint_reader import Deliver
from usbcast_broker.sources.usb.finding import doubt
from usbcast_broker.sources.usb.recovery import Recovery, Step
from usbcast_broker.stream.intake import Intake
from usbcast_schemas.errors import (
    DeviceDetached,
    DeviceError,
    DeviceFailed,
    DeviceOverflowed,
    DeviceStalled,
    LibusbMissing,
    UsageError,
    UsbcastError,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
DRAIN_S: Final = 0.1
DRAIN_READ_MS: Final = 50
JOIN_S: Final = 5.0
CLOCK_STEP_NS: Final = 100_000_000
"""A step of realtime against monotonic clock that is told. Time services step a clock by 128 ms and more; less is slewed."""


class Transport(Commandable, Protocol):
    """What the feed needs of a `UsbTransport`."""

    @property
    def name(self) -> str: ...
    @property
    def counters(self) -> Mapping[str, int]: ...
    @property
    def reads_ahead(self) -> bool: ...
    @property
    def held_ns(self) -> int: ...
    def open(self, deliver: Deliver | None = None) -> DeviceIdentity: ...
    def read(self, timeout_ms: int | None = None) -> list[Transfer]: ...
    def finish(self, timeout_s: float) -> list[Transfer]: ...
    def wake(self) -> None: ...
    def clear_halt(self) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


class DeviceFeed:
    """Fills `intake` with what `transport` reads and with what happens to the device, in order.

    Faults after the first opening never raise: they become device events, and stand in `problem` while they last.
    """

    def __init__(
        self, transport: Transport, intake: Intake, *, wait_for_device: bool = False, clock: Clock = system_clock
    ) -> None:
        self._transport = transport
        self._intake = intake
        self._wait_for_device = wait_for_device
        self._clock = clock
        self._recovery = Recovery()
        self._commands = Commands(f"{transport.name} has not been opened yet")
        self._stop = threading.Event()
        self._drain = False
        self._opened: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._failure: DeviceEvent | None = None
        self._identity: DeviceIdentity | None = None
        self._turned_ns: int | None = None
        self._attached = False
        self._problem = f"{transport.name} has not been opened yet"
        self._counters = dict.fromkeys(
            (
                *("transfers", "bytes", "timeouts", "zero_length"),
                *("stalls", "overflows", "io_errors", "resets", "detaches", "reopens", "replaced", "clock_steps"),
            ),
            0,
        )
        self._ahead_ns: int | None = None
        """Realtime less monotonic clock, as it was last."""

    @property
    def identity(self) -> DeviceIdentity | None:
        """The device as it was last seen; None before it was first opened."""
        return self._identity

    @property
    def turned_ns(self) -> int | None:
        """When its thread last came back from a read or from looking for the device."""
        return self._turned_ns

    @property
    def attached(self) -> bool:
        """It is open and being read."""
        return self._attached

    @property
    def reads_ahead(self) -> bool:
        return self._transport.reads_ahead

    @property
    def held_ns(self) -> int:
        """The age, at the most, of the oldest byte that the device has sent and a read may hold; 0 if none can be."""
        return self._transport.held_ns

    @property
    def problem(self) -> str:
        """Why no data comes, in one sentence; empty while all is well."""
        return self._problem

    @property
    def counters(self) -> Mapping[str, int]:
        """transfers, bytes, timeouts, zero_length; a number for each kind of fault and of change; the transport's."""
        return {**self._counters, **self._transport.counters}

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Open the device and begin to read, or raise what stands in the way.

        With `wait_for_device` it goes on looking instead, but for UsageError and LibusbMissing, which waiting does not
        cure. A feed is started once.
        """
        if self._thread is not None:
            raise UsageError(f"the feed of {self._transport.name} was already started; make a new one")
        self._thread = threading.Thread(target=self._run, name=f"usb {self._transport.name}", daemon=True)
        self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self._stop.set()
            self._thread.join(JOIN_S)
            raise

    def stop(self, *, drain: bool = True) -> None:
        """Stop reading and close the device, within a second; with `drain`, first read what it has sent so far.

        Raises DeviceFailed if the operating system does not end the read that is under way. May be called again.
        """
        self._drain = drain
        self._stop.set()
        self._transport.wake()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(JOIN_S)
        if thread.is_alive():
            raise DeviceFailed(f"{self._transport.name} does not end its last read: unplug it, or end this program")

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have the device do something, in order with other commands. Queued reads go on meanwhile.

        The future raises DeviceDetached while the device is away, DeviceStalled if it refuses, CommandFailed otherwise.
        """
        future = self._commands.submit(request)
        self._transport.wake()
        return future

    def _run(self) -> None:
        problem = ""
        try:
            self._open_first()
            self._read_until_stopped()
        except BaseException as error:
            if self._opened.done():
                log.exception("the thread of %s ended", self._transport.name)
                problem = f"{self._transport.name} is no longer read, because of {type(error).__name__}: {error}"
            else:
                problem = str(error)
                self._opened.set_exception(error)
            if self._attached:
                self._put_event(pb.DeviceEvent.KIND_DETACHED, problem)
        finally:
            self._attached = False
            self._problem = problem  # that it was told to stop is none
            self._transport.close()
            self._commands.close(problem or f"{self._transport.name} is no longer read: its feed was stopped")

    def _open_first(self) -> None:
        """Open the device, or look for it until it is there if that was asked for."""
        try:
            identity = self._transport.open(self._pass_on)
        except DeviceError as error:
            if not self._wait_for_device or isinstance(error, LibusbMissing):
                raise
            self._problem = str(error)
            self._commands.close(self._problem)
            self._opened.set_result(None)
            self._search(POLL_S)
        else:
            self._attach(identity)
            self._opened.set_result(None)

    def _read_until_stopped(self) -> None:
        stop, commands = self._stop, self._commands
        silent = False
        while not stop.is_set():
            self._turned_ns = time.monotonic_ns()
            try:
                silent = self._read_one()
                if commands:
                    self._command_one()
            except DeviceError as error:
                silent = True
                self._recover(error)
        if self._drain and self._attached and not silent:
            self._drain_rest()
        if self._attached:
            self._finish(DRAIN_S if self._drain else 0.0)

    def _read_one(self, timeout_ms: int | None = None) -> bool:
        """Pass on what a read returns, all of it together; return True if nothing came."""
        transfers = self._transport.read(timeout_ms)
        if self._failure is not None:
            self._tell_survived()
        if not transfers:
            self._counters["timeouts"] += 1
            self._recovery.survived()
            return True
        if self._pass_on(transfers):
            self._recovery.succeeded()
        else:
            self._recovery.survived()
        return False

    def _pass_on(self, transfers: list[Transfer]) -> bool:
        """Count transfers and put them into the host queue together, so that it rings once; False if all are empty."""
        counters = self._counters
        items: list[HostItem] = []
        for transfer in transfers:
            if not transfer.data:
                counters["zero_length"] += 1
                continue
            counters["transfers"] += 1
            counters["bytes"] += len(transfer.data)
            ahead_ns = transfer.realtime_ns - transfer.monotonic_ns
            before_ns = self._ahead_ns
            if before_ns is None or not -CLOCK_STEP_NS < ahead_ns - before_ns < CLOCK_STEP_NS:
                self._add_clock_step(transfer, items)
            else:
                self._ahead_ns = ahead_ns
            items.append(transfer)
        if items:
            self._intake.extend(items)
        return bool(items)

    def _add_clock_step(self, transfer: Transfer, items: list[HostItem]) -> None:
        """Tell before `transfer` that the realtime clock was set, if it was."""
        before_ns, self._ahead_ns = self._ahead_ns, transfer.realtime_ns - transfer.monotonic_ns
        if before_ns is None:
            return
        realtime_ns, monotonic_ns = self._clock()
        if abs(realtime_ns - monotonic_ns - before_ns) < CLOCK_STEP_NS:
            # Only this transfer's two times are far apart: its thread was held up between looking at the two clocks.
            self._ahead_ns = before_ns
            return
        step_ns = self._ahead_ns - before_ns
        why = (
            f"the reading host's clock was set by {step_ns / 1e9:+,.3f} s: times before and after are not of one clock"
        )
        self._counters["clock_steps"] += 1
        items.append(
            DeviceEvent(
                pb.DeviceEvent.KIND_CLOCK_STEPPED,
                transfer.realtime_ns,
                transfer.monotonic_ns,
                why,
                clock_step_ns=step_ns,
            )
        )
        log.warning("%s: %s", self._transport.name, why)

    def _finish(self, timeout_s: float) -> None:
        """Pass on what was read ahead, before the device is let go."""
        self._pass_on(self._transport.finish(timeout_s))

    def _drain_rest(self) -> None:
        end = time.monotonic() + DRAIN_S
        try:
            while time.monotonic() < end and not self._read_one(DRAIN_READ_MS):
                pass
        except DeviceError as error:
            log.info("while reading the rest: %s", error)

    def _command_one(self) -> None:
        error = self._commands.run_one(self._transport)
        if isinstance(error, DeviceDetached):
            raise error

    def _recover(self, error: DeviceError) -> None:
        """Do what the kind of fault and its history ask for; return when the device is read again, or the feed stopped."""
        step = self._recovery.failed(error)
        self._note(error)
        try:
            if step is Step.CLEAR_HALT:
                self._transport.clear_halt()
            elif step is Step.RESET:
                self._counters["resets"] += 1
                self._finish(0.0)
                self._transport.reset()
                self._let_go(f"{self._transport.name} was reset, as it failed again and again: {error}")
                self._search(0.0)
        except DeviceError as worse:
            step, error = Step.REOPEN, worse
        if step is Step.REOPEN:
            self._finish(0.0)
            self._transport.close()
            if self._attached:
                self._let_go(str(error))
            self._search(self._recovery.wait_s())

    def _note(self, error: DeviceError) -> None:
        """Count a fault, and tell it where it belongs in the stream."""
        if isinstance(error, DeviceStalled):
            self._counters["stalls"] += 1
            self._put_event(pb.DeviceEvent.KIND_STALLED, str(error))
        elif isinstance(error, DeviceOverflowed):
            self._counters["overflows"] += 1
            self._put_event(pb.DeviceEvent.KIND_OVERFLOWED, str(error))
        elif not isinstance(error, DeviceDetached):
            # Told only if a later read succeeds: an unplug may begin with bus errors, and is told as what it is.
            self._counters["io_errors"] += 1
            realtime_ns, monotonic_ns = self._clock()
            self._failure = DeviceEvent(pb.DeviceEvent.KIND_FAILED, realtime_ns, monotonic_ns, str(error))

    def _tell_survived(self) -> None:
        if self._failure is not None:
            self._intake.put(self._failure)
            self._failure = None

    def _attach(self, identity: DeviceIdentity) -> None:
        before, self._identity = self._identity, identity
        why = doubt(before, identity) if before is not None else ""
        if why:
            self._counters["replaced"] += 1
            why = f"{self._transport.name} may be another device than before: {why}"
            self._put_event(pb.DeviceEvent.KIND_REPLACED, why, identity)
            log.warning("%s", why)
        self._attached = True
        self._problem = ""
        self._recovery.survived()
        self._commands.open()
        self._put_event(pb.DeviceEvent.KIND_ATTACHED, f"{self._transport.name} is being read", identity)
        log.info("%s is being read: %s", self._transport.name, identity.product or "no product name")

    def _let_go(self, why: str) -> None:
        self._attached = False
        self._problem = why
        self._failure = None
        self._counters["detaches"] += 1
        self._commands.close(why)
        self._put_event(pb.DeviceEvent.KIND_DETACHED, why)
        log.warning("%s", why)

    def _search(self, wait_s: float) -> None:
        """Look for the device until it is open again, or the feed was stopped."""
        while not self._stop.wait(wait_s):
            self._turned_ns = time.monotonic_ns()
            try:
                identity = self._transport.open(self._pass_on)
            except UsbcastError as error:
                # Anything may stand in the way for a while: udev at work, another program, two devices at once.
                self._problem = str(error)
                wait_s = POLL_S
            else:
                self._counters["reopens"] += self._identity is not None
                self._attach(identity)
                return

    def _put_event(self, kind: pb.DeviceEvent.Kind, detail: str, device: DeviceIdentity | None = None) -> None:
        realtime_ns, monotonic_ns = self._clock()
        self._intake.put(DeviceEvent(kind, realtime_ns, monotonic_ns, detail, device))

"""The subscription for ordinary threads: iterate over batches or events, or have a listener called."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from usbcast.batch import Batch
from usbcast.clocks import ClockOffset
from usbcast.commands import Commands
from usbcast.digest import Event
from usbcast.events import End
from usbcast.reception import Reception
from usbcast_schemas.errors import NodeUnreachable
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

Listener = Callable[[Event], object]

CONNECT_TIMEOUT_S = 10.0
FOR_EVER_S = 1e9


class Subscription:
    """One stream, received. A context manager; for one thread at a time (`command` may be called from any).

    It connects, and after an interruption connects again, by itself and for ever.
    """

    def __init__(self, receiver: Reception, endpoint: str | None) -> None:
        self._receiver = receiver
        self._endpoint = endpoint
        self._commands = Commands(receiver.stream, endpoint, receiver.keys)
        self._ended = False
        self._closed = False
        self._listening: Listening | None = None

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving; idempotent. A listener is stopped first."""
        if self._listening is not None:
            self._listening.stop()
        if not self._closed:
            self._closed = True
            self._receiver.close()

    def __iter__(self) -> Iterator[Batch]:
        """The batches, until the stream ends. What lies between them is in their `gaps`."""
        for event in self.events():
            if isinstance(event, Batch):
                yield event

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Batch, Gap, Restart, DeviceEvent, Silence and, as the last one, End.

        With `timeout_s`, stops when nothing came for so long. Raises StreamUnknown, VersionMismatch, RingUnavailable, and
        AccessRefused where the node does not let this client in, or not any more.
        """
        take = self._receiver.take
        while not self._ended:
            event = None if self._closed else take()
            if event is None:
                event = self._wait(timeout_s)
                if event is None:
                    return
            if isinstance(event, End):
                self._ended = True
            yield event

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None if none comes within `timeout_s`."""
        event = None if self._closed else self._receiver.take()
        if event is None:
            event = self._wait(timeout_s)
        if event is not None:
            self._ended = isinstance(event, End)
        return event

    def _wait(self, timeout_s: float | None) -> Event | None:
        """The next event, though there is none yet; None if none comes within `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._closed:
            left_s = FOR_EVER_S if deadline is None else deadline - time.monotonic()
            event: Event | None = self._receiver.wait(left_s)
            if event is not None:
                return event
            if not self._progress(deadline):
                return None
            event = self._receiver.take()
            if event is not None:
                return event
        return None

    def ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Wait until all that comes from now on is delivered or declared; False if that takes longer than `timeout_s`.

        Raises StreamUnknown if the node has no such stream.
        """
        deadline = time.monotonic() + timeout_s
        while not self._receiver.joined:
            if not self._progress(deadline):
                return False
        return True

    @property
    def info(self) -> pb.StreamInfo:
        """What the node says of the stream; connects first. Raises NodeUnreachable after 10 s without an answer."""
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while self._receiver.info is None:
            if not self._progress(deadline):
                raise self.unreachable()
        return self._receiver.info

    def unreachable(self) -> NodeUnreachable:
        """What to raise when nothing was heard for as long as one is ready to wait: it says what is known of the reason."""
        return self._receiver.unreachable(CONNECT_TIMEOUT_S)

    @property
    def via(self) -> str:
        """How batches come: push, notify or ring; what was asked for until connected."""
        return self._receiver.via

    @property
    def ledger(self) -> Ledger:
        """The books: what came in, was delivered, and was lost by stage and reason; in packets."""
        return self._receiver.ledger()

    @property
    def lag_ns(self) -> int:
        """From the arrival of the last delivered packet at the host that reads the device to its delivery here.

        Between two machines with the offset of their clocks (`clock`) taken off, as soon as it is known.
        """
        return self._receiver.lag_ns

    @property
    def clock(self) -> ClockOffset | None:
        """The reading host's clock against this one's: offset, uncertainty, drift, age. None until it has answered.

        Exactly zero where the stream is read on this host. Asked at the start and then every 30 s.
        """
        return self._receiver.clock

    def command(
        self,
        request_type: int,
        request: int,
        value: int = 0,
        index: int = 0,
        *,
        data: bytes = b"",
        length: int = 0,
        timeout_s: float = 1.0,
    ) -> bytes:
        """A control transfer to the device while it streams; return what it answered.

        Bit 7 of `request_type` (bmRequestType) says that up to `length` bytes are read, else `data` is written.
        Raises CommandFailed, NodeUnreachable.
        """
        return self._commands.command(
            request_type, request, value, index, data=data, length=length, timeout_s=timeout_s
        )

    def write(self, endpoint: int, data: bytes, *, timeout_s: float = 1.0) -> int:
        """Send `data` to an OUT endpoint of the device; return how many bytes it took. Raises as `command` does."""
        return self._commands.write(endpoint, data, timeout_s=timeout_s)

    def listen(self, listener: Listener) -> Listening:
        """Call `listener` with every event, from a thread of its own, until the stream ends or the result is stopped."""
        self._listening = Listening(self, listener)
        return self._listening

    def _progress(self, deadline: float | None) -> bool:
        """Pump and, if there was nothing, wait once; False if the deadline has passed."""
        receiver = self._receiver
        if receiver.pump():
            return True
        rest_s = receiver.rest_s()
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            rest_s = min(rest_s, left_s)
        if rest_s > 0 and receiver.may_sleep() and receiver.waiter.wait(rest_s) and not receiver.follows:
            receiver.pump()
        return True


class Listening:
    """A listener at work."""

    _TURN_S = 0.1

    def __init__(self, subscription: Subscription, listener: Listener) -> None:
        self._subscription = subscription
        self._listener = listener
        self._stop = threading.Event()
        self.error: BaseException | None = None
        """What the listener or the subscription raised; it ended the listening."""
        self._thread = threading.Thread(target=self._run, name="usbcast-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop calling; return when the last call is over."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the stream; False if that takes longer. Raises what the listener raised."""
        self._thread.join(timeout_s)
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                event = self._subscription.receive(self._TURN_S)
                if event is not None:
                    self._listener(event)
                    if isinstance(event, End):
                        return
        except BaseException as error:
            log.error("the listener has stopped: %s", error, exc_info=error)
            self.error = error

"""The subscription for ordinary threads: iterate over batches or events, or have a listener called."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from usbcast.batch import Batch
from usbcast.clock.offset import ClockOffset
from usbcast.events import End
from usbcast.node.commands import Commands
from usbcast.receiving.event_builder import Event
from usbcast.receiving.lifetime import Lifetime
from usbcast.receiving.open import Receiver
from usbcast.receiving.polling import poll, rest_s
from usbcast_schemas.errors import NodeUnreachable, UsageError, UsbcastError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

Listener = Callable[[Event], object]

CONNECT_TIMEOUT_S = 10.0
FOR_EVER_S = 1e9

_LOOK_S = 0.002
"""How often to look for what another thread, or an event that nobody takes, keeps this one from waiting for."""


class Subscription(Commands):
    """One stream, received. A context manager; for one thread at a time (`close`, `command` and `write` are for any).

    It connects, and after an interruption connects again, by itself and for ever. Once it is closed, whatever would have to
    ask the node raises SubscriptionClosed; `info`, `ledger` and the like go on telling what was known.
    """

    def __init__(self, receiver: Receiver, endpoint: str | None) -> None:
        super().__init__(receiver.stream, endpoint, receiver.keys)
        self._receiver = receiver
        self._life = Lifetime(self, receiver.stream, receiver.waiter, receiver.close)
        self._ended = False
        self._listening: Listening | None = None

    def __repr__(self) -> str:
        return described("Subscription", self._receiver, self._endpoint, self._life.over)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving; idempotent, from any thread. A loop over it ends, and a listener's last call is waited for."""
        self._life.close()
        if self._listening is not None:
            self._listening.stop()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches until the stream ends or is closed. What is missing between them is in their `gaps`."""
        for event in self.events():
            if isinstance(event, Batch):
                yield event

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield every event in order: Batch, Gap, Restart, DeviceEvent, Silence and, as the last one, End.

        With `timeout_s`, stops when nothing came for so long. Raises StreamUnknown, VersionMismatch, RingUnavailable,
        AccessRefused where the node does not let this client in, or not any more, and SubscriptionClosed if it was closed
        before the loop began.
        """
        self._check_alone()
        life, take = self._life, self._receiver.take
        while not self._ended:
            life.inside = True
            try:
                event = None if life.over else take()
                if event is None:
                    event = self._wait(timeout_s)
            finally:
                life.inside = False
                if life.over:
                    life.leave()
            if event is None:
                life.check_process()
                return
            if isinstance(event, End):
                self._ended = True
            yield event

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event; None if none comes within `timeout_s`, or after `close`. Raises as `events` does."""
        self._check_alone()
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float | None) -> Event | None:
        life = self._life
        life.inside = True
        try:
            event = None if life.over else self._receiver.take()
            if event is None:
                event = self._wait(timeout_s)
        finally:
            life.inside = False
            if life.over:
                life.leave()
        if event is not None:
            self._ended = isinstance(event, End)
        return event

    def _wait(self, timeout_s: float | None) -> Event | None:
        """The next event, though there is none yet; None if none comes within `timeout_s`, or it is over."""
        deadline = time.monotonic() + (FOR_EVER_S if timeout_s is None else timeout_s)
        life, receiver = self._life, self._receiver
        while not life.over:
            event: Event | None = receiver.wait(deadline - time.monotonic())
            if event is not None:
                return event
            left_s = deadline - time.monotonic()
            polled: Event | float = poll(receiver, receiver.take, left_s)
            if not isinstance(polled, float):
                return polled
            if polled > 0:
                receiver.waiter.wait(polled)
            elif left_s <= 0:
                return None
        return None

    def ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Wait until everything that comes from now on will be delivered or declared lost.

        Return False if that takes longer than `timeout_s`, or if the subscription is closed meanwhile. Raises StreamUnknown if
        the node has no such stream, and SubscriptionClosed.
        """
        self._life.check()
        return self._await(lambda: self._receiver.joined, timeout_s)

    @property
    def info(self) -> pb.StreamInfo:
        """What the node says of the stream; connects first.

        Raises NodeUnreachable after 10 s without an answer, and SubscriptionClosed if it had not connected when it was closed.
        """
        if self._receiver.info is None:
            self._life.check()
            if not self._await(lambda: self._receiver.info is not None, CONNECT_TIMEOUT_S):
                self._life.check()
                raise self.unreachable()
        assert self._receiver.info is not None
        return self._receiver.info

    def _await(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `reached`, and take no event meanwhile; False if it is not within `timeout_s`, or it is over."""
        deadline = time.monotonic() + timeout_s
        life, receiver = self._life, self._receiver
        while not reached():
            if self._is_heard_elsewhere():
                time.sleep(_LOOK_S)
            else:
                life.inside = True
                try:
                    if not life.over:
                        receiver.pump()
                        # What waits to be taken is no reason not to sleep; where it keeps the receiver from sleeping, this does.
                        if not reached() and not self._rest(deadline):
                            time.sleep(max(0.0, min(_LOOK_S, deadline - time.monotonic())))
                finally:
                    life.inside = False
                    if life.over:
                        life.leave()
            if life.over or time.monotonic() >= deadline:
                return reached()
        return True

    def _rest(self, deadline: float) -> bool:
        """Wait until something comes or is due, at most until `deadline`; return True if something has come."""
        seconds = rest_s(self._receiver, deadline - time.monotonic())
        return seconds > 0 and self._receiver.waiter.wait(seconds)

    def unreachable(self) -> NodeUnreachable:
        """What to raise when nothing was heard for as long as one is ready to wait: it says what is known of the reason."""
        return self._receiver.unreachable(CONNECT_TIMEOUT_S)

    @property
    def via(self) -> str:
        """Channel by which batches come: push, notify or ring; the one asked for until connected."""
        return self._receiver.via

    @property
    def ledger(self) -> Ledger:
        """Ledger in packets: what came in, what was delivered, and what was lost, by stage and reason.

        For the thread that takes the events, which with a listener is the listener's; for any thread once the reader has
        ended. Another thread that asks while events are taken may get, and leave behind, a ledger that does not balance.
        """
        return self._receiver.ledger()

    @property
    def lag_ns(self) -> int:
        """Nanoseconds from the last delivered packet's arrival at the host that reads the device to its delivery here.

        Between two machines, the offset of their clocks (`clock`) is subtracted as soon as it is known. For the same thread
        as `ledger`.
        """
        return self._receiver.lag_ns

    @property
    def clock(self) -> ClockOffset | None:
        """The reading host's clock against this one's: offset, uncertainty, drift, age. None until it has answered.

        Exactly zero where the stream is read on this host. Asked at the start and then every 30 s.
        """
        return self._receiver.clock

    def listen(self, listener: Listener) -> Listening:
        """Call `listener` with every event, from a thread of its own, until the stream ends or the result is stopped.

        One listener at a time: for several, call them from one. Raises UsageError, SubscriptionClosed.
        """
        self._check_alone()
        self._listening = Listening(self._receive, self._life, listener)
        return self._listening

    def _check_alone(self) -> None:
        """Raise unless this thread may take events."""
        self._life.check()
        if self._is_heard_elsewhere():
            raise UsageError(
                f"the events of this subscription to {self._receiver.stream!r} already go to a listener: stop that one first, "
                "or subscribe a second time"
            )

    def _is_heard_elsewhere(self) -> bool:
        return self._listening is not None and self._listening.is_elsewhere


def described(kind: str, receiver: Receiver, endpoint: str | None, over: str) -> str:
    """Return the `repr` of a subscription: its stream, endpoint, channel and state."""
    state = over or ("joined" if receiver.joined else "not joined yet")
    return f"<{kind} to {receiver.stream!r}{f' at {endpoint}' if endpoint is not None else ''} via {receiver.via}, {state}>"


class Listening:
    """A listener at work."""

    _TURN_S = 0.1

    def __init__(self, receive: Callable[[float | None], Event | None], life: Lifetime, listener: Listener) -> None:
        self._receive = receive
        self._life = life
        self._listener = listener
        self._stop = threading.Event()
        self.error: BaseException | None = None
        """What the listener or the subscription raised; it ended the listening."""
        self._thread = threading.Thread(target=self._run, name="usbcast-listener", daemon=True)
        self._thread.start()

    @property
    def is_elsewhere(self) -> bool:
        """Whether another thread than this one takes the events."""
        return self._thread.is_alive() and self._thread is not threading.current_thread()

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
            while not self._stop.is_set() and not self._life.over:
                event = self._receive(self._TURN_S)
                if event is not None:
                    self._listener(event)
                    if isinstance(event, End):
                        return
        except BaseException as error:
            # A sentence says all of an error of the stream; anything else is a defect of the listener, and needs its place.
            log.error(
                "the listener has stopped: %s", error, exc_info=None if isinstance(error, UsbcastError) else error
            )
            self.error = error

"""The same subscription for asyncio: `async with usbcast.aio.subscribe("imu") as stream: async for batch in stream: ...`"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from usbcast.batch import Batch
from usbcast.clock.offset import ClockOffset
from usbcast.events import End
from usbcast.node.commands import Commands
from usbcast.node.credentials import Keys
from usbcast.receiving.event_builder import Event
from usbcast.receiving.event_loop import watching
from usbcast.receiving.lifetime import Lifetime
from usbcast.receiving.open import Receiver, receive
from usbcast.receiving.polling import poll, rest_s
from usbcast.subscription import CONNECT_TIMEOUT_S, FOR_EVER_S, described
from usbcast_schemas.errors import UsageError, UsbcastError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

Listener = Callable[[Event], Awaitable[object] | object]

_TURN_EVENTS = 64
"""After so many events in a row the other tasks of the loop get their turn, however many there are."""

_LOOK_S = 0.002
"""How often to look for what another task, or an event that nobody takes, keeps this one from waiting for."""

_TURNS_TO_LEAVE = 100
"""A reader of the same loop is out after three."""


P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[Commands, P], T],
) -> Callable[Concatenate[AsyncSubscription, P], Coroutine[Any, Any, T]]:
    """Return `method` as one to await: it waits in a thread, so that the event loop goes on."""

    @functools.wraps(method)
    async def call(self: AsyncSubscription, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self._commands, *args, **kwargs)

    return call


class AsyncSubscription:
    """One stream, received in an event loop; waits for a descriptor and then takes all there is. For one task at a time.

    Once it is closed, whatever would have to ask the node raises SubscriptionClosed.
    """

    def __init__(self, receiver: Receiver, endpoint: str | None) -> None:
        self._receiver = receiver
        self._endpoint = endpoint
        self._commands = Commands(receiver.stream, endpoint, receiver.keys)
        self._life = Lifetime(self, receiver.stream, receiver.waiter, receiver.close)
        self._ended = False
        self._taken = 0
        self._listening: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return described("AsyncSubscription", self._receiver, self._endpoint, self._life.over)

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop receiving; idempotent, from any task or thread. A loop over it ends, and a listener's task is cancelled."""
        self._life.close()
        listening = self._listening
        if listening is not None and listening is not asyncio.current_task():
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        for _ in range(_TURNS_TO_LEAVE):
            if self._life.freed:
                return
            await asyncio.sleep(0.001)

    async def __aiter__(self) -> AsyncIterator[Batch]:
        async for event in self.events():
            if isinstance(event, Batch):
                yield event

    async def events(self, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Batch, Gap, Restart, DeviceEvent, Silence and, as the last one, End; stops when nothing came for `timeout_s`.

        It stops too when it is closed. Raises what `usbcast.Subscription.events` does.
        """
        self._check_alone()
        while not self._ended:
            event = await self._receive(timeout_s)
            if event is None:
                return
            yield event

    async def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None if none comes within `timeout_s`, or if it is closed meanwhile. Raises as `events` does."""
        self._check_alone()
        return await self._receive(timeout_s)

    async def _receive(self, timeout_s: float | None) -> Event | None:
        life, receiver = self._life, self._receiver
        self._taken += 1
        if self._taken % _TURN_EVENTS == 0:
            await asyncio.sleep(0)
        deadline = time.monotonic() + (FOR_EVER_S if timeout_s is None else timeout_s)
        life.inside = True
        try:
            while not life.over:
                event = receiver.take()
                if event is None:
                    left_s = deadline - time.monotonic()
                    polled: Event | float = poll(receiver, receiver.take, left_s)
                    if isinstance(polled, float):
                        await self._wait(polled)
                        if left_s <= 0:
                            return None
                        continue
                    event = polled
                self._ended = isinstance(event, End)
                return event
        finally:
            life.inside = False
            if life.over:
                life.leave()
        life.check_process()
        return None

    async def ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Wait until all that comes from now on is delivered or declared; False if that takes longer than `timeout_s`.

        False too if it is closed meanwhile. Raises StreamUnknown if the node has no such stream, and SubscriptionClosed.
        """
        self._life.check()
        life, receiver = self._life, self._receiver
        deadline = time.monotonic() + timeout_s
        while not receiver.joined:
            if self._is_heard_elsewhere():
                await asyncio.sleep(_LOOK_S)
            else:
                life.inside = True
                try:
                    if not life.over:
                        receiver.pump()
                        # What waits to be taken is no reason not to sleep.
                        if not receiver.joined:
                            await self._rest(deadline)
                finally:
                    life.inside = False
                    if life.over:
                        life.leave()
            if life.over or time.monotonic() >= deadline:
                return receiver.joined
        return True

    @property
    def info(self) -> pb.StreamInfo | None:
        """What the node says of the stream; None before it is connected."""
        return self._receiver.info

    @property
    def via(self) -> str:
        return self._receiver.via

    @property
    def ledger(self) -> Ledger:
        """As `usbcast.Subscription.ledger`; for the thread of the event loop."""
        return self._receiver.ledger()

    @property
    def lag_ns(self) -> int:
        """As `usbcast.Subscription.lag_ns`; for the thread of the event loop."""
        return self._receiver.lag_ns

    @property
    def clock(self) -> ClockOffset | None:
        """The reading host's clock against this one's: offset, uncertainty, drift, age. None until it has answered.

        Exactly zero where the stream is read on this host. Asked at the start and then every 30 s.
        """
        return self._receiver.clock

    command = _in_thread(Commands.command)
    write = _in_thread(Commands.write)

    def listen(self, listener: Listener) -> asyncio.Task[None]:
        """Call `listener`, plain or async, with every event until the stream ends, in a task of its own.

        Await the task for the end; it raises what the listener raised. Cancel it to stop. One listener at a time: for several,
        call them from one. Raises UsageError, SubscriptionClosed.
        """
        self._check_alone()
        self._listening = asyncio.create_task(self._listen(listener), name="usbcast-listener")
        return self._listening

    def _check_alone(self) -> None:
        """Raise unless this task may take events."""
        self._life.check()
        if self._is_heard_elsewhere():
            raise UsageError(
                f"the events of this subscription to {self._receiver.stream!r} already go to a listener: cancel its task first, "
                "or subscribe a second time"
            )

    def _is_heard_elsewhere(self) -> bool:
        listening = self._listening
        return listening is not None and not listening.done() and listening is not asyncio.current_task()

    async def _listen(self, listener: Listener) -> None:
        try:
            while not self._ended and (event := await self._receive(None)) is not None:
                answer = listener(event)
                if isinstance(answer, Awaitable):
                    await answer
        except Exception as error:
            # A sentence says all of an error of the stream; anything else is a defect of the listener, and needs its place.
            log.error(
                "the listener has stopped: %s", error, exc_info=None if isinstance(error, UsbcastError) else error
            )
            raise

    async def _rest(self, deadline: float) -> None:
        """Wait until something comes or is due, at most until `deadline`; a moment if something waits to be taken."""
        left_s = deadline - time.monotonic()
        seconds = rest_s(self._receiver, left_s)
        if seconds > 0:
            await self._wait(seconds)
        else:
            await asyncio.sleep(max(0.0, min(_LOOK_S, left_s)))

    async def _wait(self, timeout_s: float) -> None:
        """Wait until something comes, at most `timeout_s`; if that is 0, let the other tasks run."""
        if timeout_s <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = loop.call_later(timeout_s, wake)
        try:
            with watching(self._receiver.waiter, wake):
                await woken
        finally:
            timer.cancel()


def subscribe(
    stream: str,
    endpoint: str | None = None,
    start: str | int = "now",
    deliver: str = "all",
    via: str = "auto",
    keys: Keys = None,
    *,
    copy: bool = True,
) -> AsyncSubscription:
    """As `usbcast.subscribe`, for `async with` and `async for`."""
    return AsyncSubscription(receive(stream, endpoint, start, deliver, via, keys, copy=copy), endpoint)

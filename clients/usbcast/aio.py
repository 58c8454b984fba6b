"""The same subscription for asyncio: `async with usbcast.aio.subscribe("imu") as stream: async for batch in stream: ...`"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from usbcast.batch import Batch
from usbcast.clocks import ClockOffset
from usbcast.commands import Commands
from usbcast.credentials import Keys
from usbcast.digest import Event
from usbcast.events import End
from usbcast.reception import Reception, receive
from usbcast.subscription import CONNECT_TIMEOUT_S
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

Listener = Callable[[Event], Awaitable[object] | object]


class AsyncSubscription:
    """One stream, received in an event loop; waits for a descriptor and then takes all there is."""

    def __init__(self, receiver: Reception, endpoint: str | None) -> None:
        self._receiver = receiver
        self._commands = Commands(receiver.stream, endpoint, receiver.keys)
        self._ended = False
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        self._receiver.close()

    async def __aiter__(self) -> AsyncIterator[Batch]:
        async for event in self.events():
            if isinstance(event, Batch):
                yield event

    async def events(self, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Batch, Gap, Restart, DeviceEvent, Silence and, as the last one, End; stops when nothing came for `timeout_s`."""
        while not self._ended:
            event = await self.receive(timeout_s)
            if event is None:
                return
            yield event

    async def receive(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None if none comes within `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            event = self._receiver.take()
            if event is not None:
                self._ended = isinstance(event, End)
                return event
            if not await self._progress(deadline):
                return None

    async def ready(self, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Wait until all that comes from now on is delivered or declared; False if that takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._receiver.joined:
            if not await self._progress(deadline):
                return False
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
        return self._receiver.ledger()

    @property
    def lag_ns(self) -> int:
        return self._receiver.lag_ns

    @property
    def clock(self) -> ClockOffset | None:
        """The reading host's clock against this one's: offset, uncertainty, drift, age. None until it has answered.

        Exactly zero where the stream is read on this host. Asked at the start and then every 30 s.
        """
        return self._receiver.clock

    async def command(
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
        return await asyncio.to_thread(
            self._commands.command, request_type, request, value, index, data=data, length=length, timeout_s=timeout_s
        )

    async def write(self, endpoint: int, data: bytes, *, timeout_s: float = 1.0) -> int:
        """Send `data` to an OUT endpoint of the device; return how many bytes it took. Raises as `command` does."""
        return await asyncio.to_thread(self._commands.write, endpoint, data, timeout_s=timeout_s)

    def listen(self, listener: Listener) -> asyncio.Task[None]:
        """Call `listener`, plain or async, with every event until the stream ends, in a task of its own.

        Await the task for the end; it raises what the listener raised. Cancel it to stop.
        """
        self._listening = asyncio.create_task(self._listen(listener), name="usbcast-listener")
        return self._listening

    async def _listen(self, listener: Listener) -> None:
        try:
            async for event in self.events():
                answer = listener(event)
                if isinstance(answer, Awaitable):
                    await answer
        except Exception as error:
            log.error("the listener has stopped: %s", error, exc_info=error)
            raise

    async def _progress(self, deadline: float | None) -> bool:
        receiver = self._receiver
        rest_s = receiver.doze_s()
        dozes = rest_s > 0
        if not dozes:
            if receiver.pump():
                return True
            rest_s = receiver.rest_s()
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            rest_s = min(rest_s, left_s)
        if dozes or (rest_s > 0 and receiver.may_sleep()):
            await self._wait(rest_s)
        else:
            await asyncio.sleep(0)
        return True

    async def _wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        fd = self._receiver.waiter.fileno()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        loop.add_reader(fd, wake)
        timer = loop.call_later(timeout_s, wake)
        try:
            await woken
        finally:
            timer.cancel()
            loop.remove_reader(fd)
        self._receiver.waiter.wait(0)  # takes the edge of a fifo back, so that the descriptor is quiet again


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

"""An ordered consumer: every stored message once and in order. If one is missing, the owner makes a new consumer.

It is the server's push consumer without acknowledgements, with flow control and heartbeats: a slow reader delays only what
the server sends to it, and a missed message shows by its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from usbcast.jetstream.connection import Connection
from usbcast.jetstream.names import Names

HEARTBEAT_S = 1.0
SILENT_S = 3.5
"""No message and no heartbeat of the server's for so long: the consumer is gone."""

_INACTIVE_S = 30.0
_NAMED_IN_REPLY, _NAMED_WITH_DOMAIN = 9, 11


@dataclass(slots=True)
class Received:
    """A stored message as it came."""

    subject: str
    body: bytes
    sequence: int
    """Sequence of the message on the server."""
    pending: int
    """Number of messages stored behind it."""
    epoch: str
    """Epoch of the stream by the message id: 16 hex digits."""


class OrderedConsumer:
    """Calls `deliver` for each message, which says whether there is room for more. Used in one event loop.

    `problem` is set when it has to be made anew, from `next_sequence` on.
    """

    def __init__(self, connection: Connection, names: Names, deliver: Callable[[Received], Awaitable[bool]]) -> None:
        self.next_sequence = 0
        self.problem = asyncio.Event()
        self._connection = connection
        self._names = names
        self._deliver = deliver
        self._next_delivery = 1
        self._heard_s = time.monotonic()
        self._owed: str | None = None
        """Subject to answer on once there is room again."""
        self._full = False
        self._subscription: Subscription | None = None

    async def begin(self, sequence: int) -> None:
        """Begin at the message `sequence` of the server, or the first behind it."""
        client = self._connection.client
        inbox = client.new_inbox()
        self._subscription = await client.subscribe(inbox, cb=self._take)
        self.next_sequence = sequence
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(1, sequence),
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_S,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=_INACTIVE_S,
        )
        await self._connection.ask(
            self._connection.js.add_consumer(self._names.store, config), f"a consumer of {self._names.store}"
        )
        self._heard_s = time.monotonic()

    async def end(self) -> None:
        """Take nothing any more; the server removes a consumer that nobody listens to."""
        if self._subscription is not None:
            with contextlib.suppress(Error):
                await self._subscription.unsubscribe()

    @property
    def full(self) -> bool:
        """True while it waits for `room`."""
        return self._full

    @property
    def silent(self) -> bool:
        """True if the server has been silent for too long."""
        return not self._full and time.monotonic() - self._heard_s > SILENT_S

    async def room(self) -> None:
        """Let the server send more."""
        self._full = False
        self._heard_s = time.monotonic()
        if self._owed is not None:
            owed, self._owed = self._owed, None
            await self._connection.client.publish(owed)

    async def _take(self, message: Msg) -> None:
        self._heard_s = time.monotonic()
        headers = message.headers
        if headers is not None and "Status" in headers and not message.data:
            await self._take_control(message, headers)
            return
        try:
            sequence, delivery, pending = _numbers(message.reply.split("."))
        except ValueError:
            return  # not from the consumer
        if delivery != self._next_delivery or self.problem.is_set():
            self.problem.set()
            return
        self._next_delivery += 1
        self.next_sequence = sequence + 1
        epoch = (headers or {}).get("Nats-Msg-Id", "").split("/")[1:2]
        received = Received(message.subject, message.data, sequence, pending, epoch[0] if epoch else "")
        self._full = not await self._deliver(received)

    async def _take_control(self, message: Msg, headers: dict[str, str]) -> None:
        if message.reply:  # flow control: it goes on when this is answered
            await self._answer(message.reply)
            return
        if headers.get("Nats-Last-Consumer", str(self._next_delivery - 1)) != str(self._next_delivery - 1):
            self.problem.set()
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            await self._answer(stalled)

    async def _answer(self, to: str) -> None:
        if self._full:
            self._owed = to
        else:
            await self._connection.client.publish(to)


def _numbers(reply: list[str]) -> tuple[int, int, int]:
    """A message's sequence on the server, its place among those delivered, and how many are behind it. Raises ValueError."""
    if len(reply) == _NAMED_IN_REPLY:
        return int(reply[5]), int(reply[6]), int(reply[8])
    if len(reply) >= _NAMED_WITH_DOMAIN:
        return int(reply[7]), int(reply[8]), int(reply[10])
    raise ValueError

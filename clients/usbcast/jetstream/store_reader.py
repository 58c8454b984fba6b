"""The store reader: a thread with an event loop that brings a stored stream to a subscription, over outages of the servers.

The NATS library needs an event loop; the subscription lives in the application's thread and must not wait for either. Between
them stands one deque, `_items`: the loop appends, the application's thread pops, and both are atomic, so no lock is needed.

Waking. The application's thread sets `_sleeping` and then looks at the deque once more (`may_sleep`); the loop appends and then
looks at `_sleeping` (`_put`). Each writes before it reads, so a message that comes while the reader falls asleep is either seen
by the reader or wakes it by a byte in the pipe `wake_fd`. While the reader is awake no byte is written.

Flow. At MOST_WAITING_BYTES the consumer stops acknowledging flow control, so the server stops sending. The thread that pops the
deque below that limit asks the loop to go on (`_room`); should it miss the moment, the loop looks again every _LOOK_S.

Outages. `_bring` connects again for ever, with back-off. `_where` decides where to go on: behind the last message if the
JetStream stream is still the same one, otherwise at the position that was delivered last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error

from usbcast.jetstream.connection import Connection, Servers
from usbcast.jetstream.consumer import OrderedConsumer, Received
from usbcast.jetstream.messages import StoredGap, position_after, read, read_info
from usbcast.jetstream.names import Names
from usbcast.jetstream.seek import seek
from usbcast.jetstream.store import Store, StoreState
from usbcast.node.endpoints import Address
from usbcast.receiving.continuity import Position
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.errors import NodeUnreachable, PeerError, UsbcastError
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import decode_notification

log = logging.getLogger(__name__)

MOST_WAITING_ITEMS = 10_000
"""Number of waiting items from which signs of life and complaints are dropped: the next one says the same."""

MOST_WAITING_BYTES = 8 * 1024 * 1024
"""Bytes waiting for the subscription from which the server is not asked for more; it may send 32 MiB beyond that."""

_LOOK_S = 0.25
_IDLE_S = 2.5
"""After this time without a message, ask the server whether there is one."""

_RETRY_FIRST_S, _RETRY_MOST_S = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class Begun:
    """Reading has begun. With an epoch: epoch and sequence of the first packet to come, and its batch number, if known."""

    epoch: int | None = None
    sequence: int | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Reading has failed for good; nothing follows."""

    error: UsbcastError


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored message; in place of one that is not usbcast's, the error that says why."""

    received: Received
    item: EncodedBatch | StoredGap | PeerError


Item = Begun | Failed | Stored | pb.StreamInfo | pb.Notification | PeerError


class StoreReader:
    """Reader of one stored stream. One other thread calls `take`; `wake_fd` becomes readable if that thread sleeps."""

    def __init__(self, address: Address, names: Names, start: str | int | Position, *, latest: bool) -> None:
        self.heard_ns = time.monotonic_ns()
        """Monotonic time of the last sign of life from the forwarder of the stream."""
        self.trouble = ""
        """Why nothing arrives, if known; empty otherwise."""
        self.made_anew = 0
        self.wake_fd, self._wake_write = os.pipe()
        for fd in (self.wake_fd, self._wake_write):
            os.set_blocking(fd, False)
        self._names = names
        self._servers = Servers(address)
        self._start = start
        self._latest = latest
        self._items: deque[Item] = deque()
        self._put_bytes = self._taken_bytes = 0
        self._sleeping = False
        self._described = ""
        self._created: str | None = None
        """Creation time of the JetStream stream; None until reading has begun."""
        self._next_sequence = 0
        self._position: Position | None = None
        """Behind the last message of usbcast that was brought."""
        self._consumer: OrderedConsumer | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="usbcast-nats", daemon=True)

    # What the other thread uses

    def start(self) -> None:
        self._thread.start()

    def take(self) -> Item | None:
        """Return the next item, None if there is none."""
        if not self._items:
            return None
        item = self._items.popleft()
        if isinstance(item, Stored):
            before, size = self._waiting_bytes, len(item.received.body)
            self._taken_bytes += size
            if before >= MOST_WAITING_BYTES > before - size:
                self._call(self._room())
        return item

    @property
    def empty(self) -> bool:
        return not self._items

    def may_sleep(self) -> bool:
        """Ask to be woken; False if something has come meanwhile."""
        self._sleeping = True
        return not self._items

    def awake(self) -> None:
        """Make `wake_fd` quiet again."""
        self._sleeping = False
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 64)

    def close(self) -> None:
        """Stop, and return when the thread has."""
        with contextlib.suppress(RuntimeError):  # it has failed and its loop is closed
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        os.close(self.wake_fd)
        os.close(self._wake_write)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # it has failed and its loop is closed
            work.close()

    @property
    def _waiting_bytes(self) -> int:
        return self._put_bytes - self._taken_bytes

    # The thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            log.error("the stored stream %s can no longer be read: %s", self._names.stream, error, exc_info=error)
            self._put(Failed(UsbcastError(f"reading from {self._servers.address} has stopped: {error}")))

    async def _main(self) -> None:
        bringing = asyncio.ensure_future(self._bring())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({bringing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        while not bringing.done():  # the library may take a cancellation for its own
            bringing.cancel()
            await asyncio.wait({bringing}, timeout=_LOOK_S)
        with contextlib.suppress(asyncio.CancelledError):
            bringing.result()

    async def _bring(self) -> None:
        """Follow the stream, over outages, for ever."""
        retry_s = _RETRY_FIRST_S
        while True:
            begun_s = time.monotonic()
            try:
                async with self._servers.connection() as connection:
                    await self._follow(connection)
            except UsbcastError as error:
                if self._created is None and not isinstance(error, NodeUnreachable):
                    self._put(Failed(error))
                    return
                if self.trouble != str(error):
                    log.warning("stream %s: %s", self._names.stream, error)
                self.trouble = str(error)
            except (TimeoutError, Error, OSError) as error:
                self.trouble = f"reading from {self._servers.address} was interrupted: {error}"
                log.warning("stream %s: %s", self._names.stream, self.trouble)
            if time.monotonic() - begun_s > _RETRY_MOST_S:
                retry_s = _RETRY_FIRST_S
            await asyncio.sleep(retry_s * random.uniform(1.0, 1.5))
            retry_s = min(2 * retry_s, _RETRY_MOST_S)

    async def _follow(self, connection: Connection) -> None:
        store = Store(connection, self._names)
        standing = await store.standing()
        await self._listen(connection)
        sequence, begun = await self._where(store, standing)
        if begun is not None:  # that is decided, whatever comes of the consumer
            self._put(begun)
        while True:
            self._next_sequence, self._created = sequence, standing.created
            self._consumer = consumer = OrderedConsumer(connection, self._names, lambda got: self._deliver(store, got))
            await consumer.begin(sequence)
            self.trouble = ""
            moved_s, moved_to = time.monotonic(), consumer.next_sequence
            while not (connection.closed.is_set() or consumer.problem.is_set() or consumer.silent):
                waits = [asyncio.ensure_future(event.wait()) for event in (connection.closed, consumer.problem)]
                await asyncio.wait(waits, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                if consumer.full and self._waiting_bytes < MOST_WAITING_BYTES:
                    await consumer.room()  # the other thread may have missed the moment
                if consumer.full or consumer.next_sequence != moved_to:
                    moved_s, moved_to = time.monotonic(), consumer.next_sequence
                elif time.monotonic() - moved_s > _IDLE_S:
                    # A consumer may be on a server that has not caught up with its cluster; another may be luckier.
                    if (await store.standing()).last_sequence >= moved_to == consumer.next_sequence:
                        break
                    moved_s = time.monotonic()
            self.made_anew += 1
            if connection.closed.is_set():
                raise connection.lost(f"reading {self._names.store}")
            await consumer.end()
            standing = await store.standing()
            sequence, _ = await self._where(store, standing)

    async def _where(self, store: Store, standing: StoreState) -> tuple[int, Begun | None]:
        """Return the sequence on the server to go on at; the first time also where that is in the stream."""
        if self._created is not None:
            if (standing.created, True) == (self._created, standing.last_sequence >= self._next_sequence - 1):
                return self._next_sequence, None
            # It is not the one that was read: removed and made anew, or set back.
            if self._position is None:
                return standing.first_sequence, None
            return await seek(store, standing, self._position), None
        at, start = standing.position, self._start
        if at is not None:
            await self._describe(store, f"{at.epoch:016x}")
        if self._latest:
            return await store.newest(standing), Begun()
        if start == "oldest":
            return standing.first_sequence, Begun()
        if start == "now":
            begun = Begun() if at is None else Begun(at.epoch, at.next_sequence, at.next_number)
            return standing.last_sequence + 1, begun
        assert not isinstance(start, str)
        sequence = await seek(store, standing, start)
        if isinstance(start, Position) or at is None:
            return sequence, Begun()
        return sequence, Begun(at.epoch, start, None if start else 0)

    async def _listen(self, connection: Connection) -> None:
        """Subscribe to what is not stored in this stream: signs of life, and new descriptions."""

        async def notified(message: Msg) -> None:
            try:
                self._hear(decode_notification(message.data))
                self.heard_ns = time.monotonic_ns()
            except PeerError as error:
                self._hear(error)

        async def described(message: Msg) -> None:
            try:
                info = read_info(message.data)
            except PeerError as error:
                self._hear(error)
                return
            if f"{info.epoch:016x}" == self._described:
                self._put(info)

        await connection.client.subscribe(self._names.notify, cb=notified)
        await connection.client.subscribe(self._names.info(), cb=described)

    async def _deliver(self, store: Store, received: Received) -> bool:
        if received.epoch != self._described:
            await self._describe(store, received.epoch)
        self.heard_ns = time.monotonic_ns()
        self._put_bytes += len(received.body)
        item: EncodedBatch | StoredGap | PeerError
        try:
            item = read(received.subject, received.body)
            self._position = position_after(item)
        except PeerError as error:
            item = error
        self._put(Stored(received, item))
        self._next_sequence = received.sequence + 1
        return self._waiting_bytes < MOST_WAITING_BYTES

    async def _describe(self, store: Store, epoch: str) -> None:
        """Fetch the description of the stream in `epoch` and pass it on."""
        try:
            info = await store.description(int(epoch, 16))
            if info is not None:
                self._put(info)
        except PeerError as error:
            self._hear(error)
        except ValueError:
            pass  # the message id bears no epoch: reading the message says what is wrong with it
        self._described = epoch

    async def _room(self) -> None:
        if self._consumer is not None:
            with contextlib.suppress(Error):
                await self._consumer.room()

    def _hear(self, item: Item) -> None:
        """Pass on an item that may be dropped while many others wait."""
        if len(self._items) < MOST_WAITING_ITEMS:
            self._put(item)

    def _put(self, item: Item) -> None:
        self._items.append(item)
        if self._sleeping:
            self._sleeping = False
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

"""The forwarder of one stream: what a subscription yields goes to the server, acknowledged, and after an outage from there on.

The server is the only memory: on every connection it is asked what it holds last, and the subscription begins there, in
the node's ring. A restart of this process, of the server and of the link between them are one and the same case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nats.errors import Error
from nats.js.errors import APIError

from usbcast.events import Gap, Restart
from usbcast.jetstream.connection import Connection, Servers
from usbcast.jetstream.messages import EPOCH_OVER, Outgoing, batch_message, gap_message
from usbcast.jetstream.names import CONTRACT_HEADER, CONTRACT_VERSION, Names
from usbcast.jetstream.publisher import Answer, Publisher
from usbcast.jetstream.store import Retention, Store, StoreState
from usbcast.jetstream.window import Window
from usbcast.node.credentials import Keys
from usbcast.node.endpoints import Address
from usbcast.receiving.continuity import Delivery
from usbcast.receiving.event_builder import Record
from usbcast.receiving.event_loop import watching
from usbcast.receiving.open import Receiver, receive
from usbcast.receiving.resuming import RETRIED, ResumingReceiver
from usbcast_schemas.contract import CONTRACT, HEARTBEAT_S, SILENCE_S
from usbcast_schemas.errors import NodeUnreachable, ServerRefused, UsbcastError
from usbcast_schemas.places import host_id
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

ACK_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 10.0
HEADERS_BYTES = 1024
"""Room for the headers of a message beside its body."""

DESCRIBE_AGAIN_S = 3600.0
"""A description is stored again so often, so that it is not the oldest of many when room runs out."""

_TURN_RECORDS = 256
_RETRY_FIRST_S, _RETRY_MOST_S = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class ForwardOptions:
    """Where to and how."""

    address: Address
    upstream: str | None = None
    """A node's endpoint; None for the nodes of this machine."""
    start: str = "oldest"
    """Where to begin if the server holds nothing yet: now or oldest."""
    via: str = "auto"
    retention: Retention = field(default_factory=Retention)
    wait: bool = False
    """Go on trying where the first connection fails."""
    keys: Keys = None
    """For an upstream that asks for them."""


class Interrupted(Exception):
    """What is under way may not have arrived: ask the server how far it has come, and go on from there."""


class Forwarder:
    """`run` it in an event loop; `stop` it from there. What it has done stands in `ledger`."""

    def __init__(self, stream: str, options: ForwardOptions, warn: Callable[[str], None]) -> None:
        self.stream = stream
        self.trouble = ""
        """Why nothing is stored just now; empty while all is well."""
        self.ended = False
        self.lag_ns = 0
        """From the arrival of the last acknowledged packet at the reading host to its acknowledgement."""
        self.interruptions = 0
        self._options = options
        self._warn = warn
        self._names = Names(options.address.prefix, stream)
        self._window = Window()
        self.ledger = self._window.ledger
        self._servers = Servers(options.address)
        self._began = False
        """Both sides were there; what fails from now on is tried again."""
        self._told: set[str] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._failure = ""
        self._connection: Connection | None = None
        self._created = ""
        """Of the JetStream stream, which tells it from one of the same name."""
        self._last_seen = 0
        """The last sequence on the server that was looked at for foreign messages."""
        self._epoch = 0
        self._described: tuple[int, bytes] | None = None
        self._described_epochs: set[int] = set()
        self._held: Record | None = None
        """Waits until its epoch is described, but not for ever."""
        self._held_until_s = 0.0
        self._describe_at_s = 0.0
        self._most_bytes = 0
        self._previous_id = ""
        self._same_host = True
        self._ended = False

    def stop(self) -> None:
        """Take nothing more; `run` returns when what is under way has been acknowledged, or has not within its time."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Forward until stopped. Raises what the first connection came to; afterwards it goes on for ever."""
        retry_s = _RETRY_FIRST_S
        while not self._stopping:
            begun_s = time.monotonic()
            try:
                async with self._servers.connection() as connection:
                    await self._serve(connection)
                return
            except Interrupted as error:
                self._say(str(error))
                self.interruptions += 1
            except (UsbcastError, APIError) as error:
                refused = not isinstance(error, NodeUnreachable)
                if not self._began and (refused or not self._options.wait):
                    if isinstance(error, APIError):
                        raise ServerRefused(f"the server at {self._options.address} refuses: {error}") from None
                    raise
                self._say(str(error))
            if time.monotonic() - begun_s > _RETRY_MOST_S:
                retry_s = _RETRY_FIRST_S
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopped(), retry_s * random.uniform(1.0, 1.5))
            retry_s = min(2 * retry_s, _RETRY_MOST_S)

    async def _stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            await self._wake.wait()

    def _tell(self, sentence: str) -> None:
        """Warn, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            self._warn(sentence)

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            self._warn(f"stream {self.stream}: {trouble}")
        self.trouble = trouble

    async def _serve(self, connection: Connection) -> None:
        """Find out where things stand, and carry on from there until stopped."""
        store = Store(connection, self._names)
        self._most_bytes = await store.ensure(self._options.retention, self._tell)
        standing = await store.standing()
        self._note_foreign(standing)
        at = standing.position
        if at is None and standing.created == self._created:
            at = self._window.position  # it was stored, and its retention or somebody has removed it
        self._created = standing.created
        self._window.begin(at, standing.last_sequence)
        self._connection, self._failure = connection, ""
        self._described, self._held = None, None
        self._described_epochs.clear()
        self._previous_id = ""  # of what was stored long ago the server may not know it any more
        self._epoch = at.epoch if at else 0
        options = self._options
        receiver = ResumingReceiver(
            lambda start: receive(self.stream, options.upstream, start, "all", options.via, options.keys),
            at or options.start,
            RETRIED if self._began or options.wait else (),
        )
        try:
            await self._carry(connection, receiver)
        finally:
            receiver.close()

    def _note_foreign(self, standing: StoreState) -> None:
        """Count the messages that another program has stored behind ours, and say so once."""
        if standing.created != self._created:
            self._last_seen = 0
        new = min(standing.foreign, standing.last_sequence - self._last_seen)
        self._last_seen = standing.last_sequence
        if new > 0:
            if "foreign messages" not in self.ledger.counters:
                self._warn(
                    f"stream {self.stream}: another program publishes to {' or '.join(self._names.stored)}; its messages "
                    f"are skipped ({standing.why_foreign})"
                )
            self.ledger.count("foreign messages", new)

    async def _carry(self, connection: Connection, receiver: ResumingReceiver[Receiver]) -> None:
        """Until stopped: take, send, and look after acknowledgements."""
        closing = asyncio.ensure_future(connection.closed.wait())
        closing.add_done_callback(lambda _: self._wake.set())
        publisher = Publisher(connection, self._names.store, lambda answer: self._answered(connection, answer))
        await publisher.begin()
        notify_s = 0.0
        patient_until_s = time.monotonic() + CONNECT_TIMEOUT_S
        try:
            while not (self._stopping and self._window.empty):
                self._wake.clear()
                self._check(connection)
                receiver.pump()
                if receiver.trouble:
                    self._say(receiver.trouble)
                if not self._began and not self._options.wait and time.monotonic() > patient_until_s:
                    raise receiver.receiver.unreachable(CONNECT_TIMEOUT_S)
                moved = False
                if not self._stopping:
                    await self._describe(connection, receiver.receiver.info)
                    if self._began:
                        receiver.retried = RETRIED
                    moved = await self._take(publisher, receiver)
                now_s = time.monotonic()
                if now_s >= notify_s and not (receiver.is_away or receiver.receiver.silent):
                    notify_s = now_s + HEARTBEAT_S
                    await self._notify(connection, receiver.receiver.info)
                if moved:
                    await asyncio.sleep(0)
                else:
                    await self._rest(receiver, max(0.0, notify_s - time.monotonic()) or HEARTBEAT_S)
        except (Error, OSError) as error:
            raise Interrupted(str(connection.explained(error, f"storing in {self._names.store}"))) from None
        finally:
            closing.cancel()

    def _check(self, connection: Connection) -> None:
        """Raise Interrupted if what is under way may not have arrived."""
        if connection.closed.is_set():
            raise Interrupted(str(connection.lost(f"storing in {self._names.store}")))
        if not self._failure and connection.complaint:
            self._failure = f"the server {connection.server} refuses: {connection.complaint}"
        oldest_ns = self._window.oldest_sent_ns
        if not self._failure and oldest_ns is not None and time.monotonic_ns() - oldest_ns > ACK_TIMEOUT_S * 1e9:
            self._failure = (
                f"the server {connection.server} did not acknowledge within {ACK_TIMEOUT_S:g} s, in {self._names.store}"
            )
        if self._failure:
            raise Interrupted(self._failure)

    async def _describe(self, connection: Connection, info: pb.StreamInfo | None) -> None:
        """Store what the node says of the stream, before any batch that it is about."""
        if info is None:
            return
        said = info.epoch, info.device.SerializeToString(deterministic=True)
        if said == self._described and time.monotonic() < self._describe_at_s:
            return
        self._same_host = (info.reader_host_id or info.host_id) == host_id()
        headers = {CONTRACT_HEADER: CONTRACT_VERSION}
        body = info.SerializeToString(deterministic=True)
        publishing = connection.js.publish(self._names.info(info.epoch), body, headers=headers)
        await connection.ask(publishing, "storing a description")
        self._described, self._describe_at_s = said, time.monotonic() + DESCRIBE_AGAIN_S
        self._described_epochs.add(info.epoch)
        self._began = True
        self._check_size(connection, info)

    def _check_size(self, connection: Connection, info: pb.StreamInfo) -> None:
        most = max(info.batch_bytes, info.packet_size)
        if most + HEADERS_BYTES > self._most_bytes:
            self._tell(
                f"stream {self.stream}: its batches have up to {most:,} bytes of packets, but the server "
                f"{connection.server} takes messages up to {self._most_bytes:,} bytes: raise max_payload there, or "
                "serve with a smaller --batch-size; a batch that is too large is declared as a gap"
            )

    async def _take(self, publisher: Publisher, receiver: ResumingReceiver[Receiver]) -> bool:
        """Send what has come, as far as there is room; whether there was anything."""
        if self._described is None:
            return False
        for n in range(_TURN_RECORDS):
            if not self._window.room:
                return n > 0
            record = self._held or receiver.take_record()
            if record is None or self._undescribed(record):
                return n > 0
            for message in self._messages(record):
                await self._send(publisher, message)
        return True

    def _undescribed(self, record: Record) -> bool:
        """Whether `record` has to wait for the description of its epoch, which is on its way."""
        missing = isinstance(record, Delivery) and record.batch.epoch not in self._described_epochs
        if missing and self._held is None:
            self._held_until_s = time.monotonic() + SILENCE_S
        if missing and time.monotonic() < self._held_until_s:
            self._held = record
            return True
        self._held = None
        return False

    def _messages(self, record: Record) -> Iterator[Outgoing]:
        """What is to be stored of one record, in order."""
        if isinstance(record, Delivery):
            batch = record.batch
            self._epoch = batch.epoch
            self.trouble = ""
            for gap in record.gaps:
                yield gap_message(self._names, batch.epoch, gap, batch.number)
            message = batch_message(self._names, batch)
            if len(message.body) + HEADERS_BYTES <= self._most_bytes:
                yield message
            else:
                yield self._too_large(message, batch.first_sequence, batch.packet_count, batch.number + 1)
            if batch.end is not None:
                self._ended = True
        elif isinstance(record, Gap):
            yield gap_message(self._names, self._epoch, record, None)
        elif isinstance(record, Restart):
            self._epoch, self._ended = record.new_epoch, False

    def _too_large(self, message: Outgoing, first: int, count: int, next_number: int) -> Outgoing:
        reason = f"a batch of {len(message.body):,} bytes is more than the server takes"
        return gap_message(
            self._names,
            self._epoch,
            Gap(first, first + count - 1, count, "bridge", reason, epoch=self._epoch),
            next_number,
        )

    async def _send(self, publisher: Publisher, message: Outgoing) -> None:
        sequence = self._window.add(message, time.monotonic_ns())
        headers = {
            "Nats-Msg-Id": message.message_id,
            "Nats-Expected-Stream": self._names.store,
            "Nats-Expected-Last-Sequence": str(sequence - 1),
            CONTRACT_HEADER: CONTRACT_VERSION,
        }
        if self._previous_id:  # a stranger's message in between would have a sequence just as well
            headers["Nats-Expected-Last-Msg-Id"] = self._previous_id
        self._previous_id = message.message_id
        await publisher.publish(sequence, message.subject, message.body, headers)

    def _answered(self, connection: Connection, answer: Answer) -> None:
        self._wake.set()
        if connection is not self._connection:
            return
        if answer.refusal:
            self._failure = self._failure or answer.refusal
            return
        message = None
        # What was removed since may be known by its id still: it was stored, and is not to be again.
        if answer.sequence == answer.number or answer.duplicate:
            message = self._window.acknowledged(answer.number, duplicate=answer.duplicate)
        if message is None:
            self._failure = self._failure or (
                f"the server {connection.server} stored a message of {self._names.store} at sequence {answer.sequence}, "
                f"but it belongs at {answer.number}"
            )
            return
        if message.packets:
            if self._same_host:
                self.lag_ns = time.monotonic_ns() - message.monotonic_ns
            else:
                self.lag_ns = time.time_ns() - message.realtime_ns
        self.ended = self._ended and self._window.empty

    async def _notify(self, connection: Connection, info: pb.StreamInfo | None) -> None:
        """Send a sign of life, which is not stored and says how far the server has come."""
        if info is None:
            return
        at = self._window.position
        news = pb.Notification(
            contract=CONTRACT,
            epoch=info.epoch,
            sent_realtime_ns=time.time_ns(),
            sent_monotonic_ns=time.monotonic_ns(),
        )
        if at is not None and at.epoch == news.epoch and at.next_number != EPOCH_OVER:
            news.next_sequence, news.next_number, news.ended = at.next_sequence, at.next_number, self.ended
        headers = {CONTRACT_HEADER: CONTRACT_VERSION}
        await connection.client.publish(self._names.notify, news.SerializeToString(), headers=headers)

    async def _rest(self, receiver: ResumingReceiver[Receiver], most_s: float) -> None:
        """Wait until something comes from either side, or is due."""
        is_taking = self._window.room and not self._stopping
        rest_s = min(most_s, receiver.park_s()) if is_taking else most_s
        if rest_s <= 0:
            await asyncio.sleep(0)
            return
        watched = watching(receiver.waiter, self._wake.set) if is_taking else contextlib.nullcontext()
        with watched, contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), rest_s)

"""The publisher: turns the pipelines, writes the rings and sends on the PUB socket, all under one lock.

Whoever brings something new may do the work: the thread that has just read a transfer turns its pipeline itself when the
stream is idle, so that the packet's way to the ring has no change of threads on it. When packets come close together, much
has accumulated, or another thread is at it, the publisher's own thread does it, and the device's thread goes back to
reading. The lock makes every use of the socket and the pipelines one after another, with a memory barrier between, as
libzmq demands where a socket changes threads; nobody waits for it but the publisher's thread and questions about health.

Between two turns a pipeline's short way may be open: then its feed writes into the ring, and sends, without the lock; what went
is settled in the next turn, and somebody knocks only if something is due. The GIL then does what the lock does otherwise: the
native core holds it for a whole message, and before pyzmq touches the socket the short ways are closed.

The socket is an XPUB: a PUB that also says what is subscribed to. What nobody wants is not sent, which spares a copy of
every batch where all subscribers read the ring. It is looked at before each notification, so whoever has heard one is sent
everything from then on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import zmq

from usbcast_broker.audience import Audience
from usbcast_broker.binding import bind_first
from usbcast_broker.doorbell import Doorbell
from usbcast_broker.gatekeeper import DATA, Gatekeeper
from usbcast_broker.moderation import GATHERED_BYTES, INLINE_BYTES, LEFT_NS
from usbcast_broker.outlet import Outlet
from usbcast_broker.pacer import HEARTBEAT_NS
from usbcast_broker.pipeline import Line, Publish
from usbcast_schemas.batch import Buffer
from usbcast_schemas.messages import Messages, messages_of
from usbcast_schemas.sockets import readable, set_up
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

MAX_SUBSCRIPTION_BYTES = 1024
"""Subscribers send the topics they want, and those are short; who sends more is disconnected."""

HEAR_NS = 50_000_000
"""While nobody wants to be notified of news, it is not looked more often than that whether somebody does now."""

HEARD_AT_ONCE = 1_000
"""So many subscriptions are looked at before publishing goes on."""


class Publisher:
    """One PUB socket and one thread for all streams of a node. All public calls are for any thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], gatekeeper: Gatekeeper) -> None:
        self._context = context
        self._gatekeeper = gatekeeper
        self._doorbell = Doorbell()
        self._turning = threading.Lock()
        self._pipelines: Sequence[Line] = ()
        self._socket: zmq.Socket[bytes] | None = None
        self._messages: Messages | None = None
        self._senders: dict[bytes, Callable[[Buffer], None]] = {}
        """What sends on each topic."""
        self._audience = Audience()
        self._hears_at_ns = 0
        """From when on it is looked who has come, though nobody wants to be notified."""
        self._stopping = False
        self._wakes_at_ns = 0
        """When the publisher's thread, which sleeps, will look again by itself."""
        self._thread: threading.Thread | None = None
        self.turned_ns: int | None = None
        """When its thread last went round, on the monotonic clock; it does so with every heartbeat."""
        self.problem: BaseException | None = None
        """Why nothing is published any more, which should never be."""

    def start(self, pipelines: Sequence[Line], endpoints: Sequence[Sequence[str]]) -> list[str]:
        """Bind to the first free one of each list of `endpoints` and begin; return them as bound. Raises EndpointTaken."""
        socket = self._context.socket(zmq.XPUB)
        try:
            set_up(socket, max_message_bytes=MAX_SUBSCRIPTION_BYTES)
            self._gatekeeper.guard(socket, DATA)
            bound = [bind_first(socket, choice) for choice in endpoints]
        except BaseException:
            self._gatekeeper.release(socket)
            socket.close()
            raise
        with self._turning:
            self._pipelines = pipelines
            self._socket, self._messages = socket, messages_of(socket)
        self._thread = threading.Thread(target=self._run, name="usbcast-publisher", daemon=True)
        self._thread.start()
        return bound

    def stop(self) -> None:
        """Stop without ending the streams; return when the thread is gone and the socket closed."""
        self._stopping = True
        self._doorbell.ring()
        if self._thread is not None:
            self._thread.join()
        with self._turning:
            for pipeline in self._pipelines:
                pipeline.close_short_way()
            if self._socket is not None and self._messages is not None:
                # What has been handed to ZeroMQ is sent, if somebody takes it soon.
                self._gatekeeper.release(self._socket)
                self._messages.close()
                self._socket.close(linger=200)
                self._socket = self._messages = None
                self._senders.clear()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def knock(self, pipeline: Line) -> None:
        """Something has come for an idle `pipeline`: handle it here and now, or leave it to the publisher's thread."""
        due_ns = 0
        if self._turning.acquire(blocking=False):
            try:
                running = self._socket is not None and self.problem is None
                due_ns = self._answer(pipeline) if running else self._due_at_ns(pipeline)
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                self._turning.release()
        if due_ns < self._wakes_at_ns:  # only the publisher's thread keeps time
            self._wakes_at_ns = due_ns
            self._doorbell.ring()

    def beat(self, pipeline: Line) -> None:
        """Notify though there is no news, for somebody who has just come; the pacer bounds how often."""
        pipeline.outlet.pacer.news()
        pipeline.outlet.tail.at_once()
        self._hears_at_ns = self._wakes_at_ns = 0
        self._doorbell.ring()

    def end(self, pipeline: Line, reason: str) -> None:
        """Publish what the stopped feed of `pipeline` has left, and the end of its stream; idempotent."""
        with self._turning:
            if self._socket is not None and not pipeline.over:
                pipeline.end(reason, self._sender(pipeline.outlet.data_topic))
                pipeline.outlet.tail.at_once()
        self._doorbell.ring()

    def health(self) -> list[pb.StreamHealth]:
        """The books of all streams, taken between two turns."""
        with self._turning:
            found = [pipeline.health() for pipeline in self._pipelines]
            for pipeline in self._pipelines:
                self._open_short_way(pipeline)
            return found

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.turned_ns = time.monotonic_ns()
                with self._turning:
                    for pipeline in self._pipelines:
                        if not self._is_looked_after(pipeline, self.turned_ns):
                            self._turn(pipeline)
                    self._wakes_at_ns = self._rest_until_ns()
                # In this order: who brings something after this look sees when this thread wakes, and rings if that is late.
                lines = [line for line in self._pipelines if not line.over]
                if any(line.waiting_bytes > line.patience_bytes for line in lines):
                    continue
                if any(line.waiting_bytes for line in lines):
                    self._wakes_at_ns = min(self._wakes_at_ns, time.monotonic_ns() + LEFT_NS)
                self._sleep()
        except BaseException as error:
            self._fail(error)
            raise

    def _is_looked_after(self, pipeline: Line, now_ns: int) -> bool:
        """Whether the thread of its feed has just had a turn, and will have the next one."""
        outlet = pipeline.outlet
        return (
            now_ns - outlet.moderation.turned_ns < LEFT_NS
            and pipeline.waiting_bytes <= pipeline.patience_bytes
            and now_ns < self._due_at_ns(pipeline)
        )

    def _sleep(self) -> None:
        """Until something is due; who rings has made that earlier."""
        while not self._stopping:
            rest_ns = self._wakes_at_ns - time.monotonic_ns()
            if rest_ns <= 0 or not self._doorbell.wait(rest_ns / 1e9):
                break
        self._wakes_at_ns = 0

    def _answer(self, pipeline: Line) -> int:
        """Do what is not to be left to the publisher's thread, the lock being held; return when that is to look."""
        outlet = pipeline.outlet
        publish = self._publish_for(outlet)
        now_ns = time.monotonic_ns()
        if publish is not None:
            # It is in the ring already; those who get it otherwise should not wait for what is to be done besides.
            pipeline.send_written(publish)
            if not pipeline.waiting_bytes and not self._audience.wants(outlet.notify_topic):
                outlet.tail.news(now_ns)
                due_ns = self._due_at_ns(pipeline)
                if now_ns < due_ns and now_ns < self._hears_at_ns:
                    pipeline.stay_quiet(min(due_ns, self._hears_at_ns))
                    return due_ns
        reads_ahead, waiting_bytes = pipeline.feed.reads_ahead, pipeline.waiting_bytes
        if now_ns < outlet.moderation.next_ns and not (reads_ahead and waiting_bytes >= GATHERED_BYTES):
            return now_ns + LEFT_NS
        if not reads_ahead and waiting_bytes > INLINE_BYTES:
            return now_ns
        return self._turn(pipeline)

    def _publish_for(self, outlet: Outlet) -> Publish:
        """What sends the batches of a stream to those who want them, if anybody does."""
        wanted = self._audience.anybody and self._audience.wants(outlet.data_topic)
        return self._sender(outlet.data_topic) if wanted else None

    def _sender(self, topic: bytes) -> Callable[[Buffer], None]:
        """What sends on `topic`. It never blocks: what a slow peer's queue does not take is dropped, which the peer finds out."""
        assert self._messages is not None
        sender = self._senders.get(topic)
        if sender is None:
            sender = self._senders[topic] = self._messages.sender(topic)
        return sender

    def _fail(self, error: BaseException) -> None:
        self.problem = error
        for pipeline in self._pipelines:
            pipeline.close_short_way()
        log.error("publishing has stopped", exc_info=error)

    def _turn(self, pipeline: Line) -> int:
        """Publish what has accumulated in `pipeline`, the lock being held; return when it needs a turn though nothing comes."""
        begun_ns = time.monotonic_ns()
        publish = self._publish_for(pipeline.outlet)
        # A feed that hung may wake up after its stream has ended; nothing follows an end.
        busy = not pipeline.over and pipeline.turn(publish)
        now_ns = time.monotonic_ns()
        outlet = pipeline.outlet  # after the turn: a relay may have begun a new epoch
        if busy:
            outlet.moderation.turned(begun_ns, now_ns)
            if outlet.ended:
                outlet.tail.at_once()
        due_ns = self._due_at_ns(pipeline)
        if now_ns >= due_ns or now_ns >= self._hears_at_ns:
            self._notify(outlet, now_ns)
            due_ns = self._due_at_ns(pipeline)
        self._open_short_way(pipeline)
        return due_ns

    def _open_short_way(self, pipeline: Line) -> None:
        """Until something is due, the feed of `pipeline` may write and send itself; all that it has brought is written."""
        if self.problem is not None or pipeline.over or self._socket is None:
            return
        outlet, audience = pipeline.outlet, self._audience
        until_ns = min(self._hears_at_ns, outlet.pacer.heartbeat_at_ns)
        if audience.anybody:
            if audience.wants(outlet.notify_topic):
                until_ns = 0
            elif audience.wants(outlet.tail_topic):
                # The first one that ends a rest is to be heard of, so that the next rest is told.
                until_ns = 0 if outlet.tail.rests else min(until_ns, outlet.tail.due_at_ns)
        pipeline.open_short_way(until_ns, self._publish_for(outlet))

    def _notify(self, outlet: Outlet, now_ns: int) -> None:
        """Say how far the stream has come, if that is due or there are news."""
        if outlet.pacer.take(now_ns):
            outlet.ring.beat(now_ns, outlet.source_silent_ns(now_ns))
            self._hear()
            self._hears_at_ns = now_ns + HEAR_NS
            if self._audience.wants(outlet.notify_topic):
                self._send(outlet.notify_topic, outlet.notification(time.time_ns(), now_ns))
        if self._audience.wants(outlet.tail_topic) and outlet.tail.take(now_ns):
            self._send(outlet.tail_topic, outlet.notification(time.time_ns(), now_ns))

    def _hear(self) -> None:
        """Take notice of who has come and who has gone."""
        assert self._socket is not None
        for pipeline in self._pipelines:
            # It may send through the same socket, and pyzmq lets go of the GIL.
            pipeline.close_short_way()
        for _ in range(HEARD_AT_ONCE):
            if not readable(self._socket):
                return
            said = self._socket.recv(zmq.DONTWAIT, copy=False)
            if not self._audience.tell(said.bytes):
                self._gatekeeper.talked(DATA, said)

    def _send(self, topic: bytes, body: Buffer) -> None:
        self._sender(topic)(body)

    def _rest_until_ns(self) -> int:
        """Until when nothing is due, and nothing can have been left over by a feed's thread."""
        now_ns = time.monotonic_ns()
        due_ns = min(map(self._due_at_ns, self._pipelines), default=now_ns + HEARTBEAT_NS)
        for pipeline in self._pipelines:
            moderation = pipeline.outlet.moderation
            if moderation.is_busy(now_ns):
                left_ns = moderation.turned_ns + LEFT_NS
                due_ns = min(due_ns, left_ns if left_ns > now_ns else now_ns + LEFT_NS)
        return due_ns

    def _due_at_ns(self, pipeline: Line) -> int:
        """When `pipeline` needs a turn though nothing comes: a batch reaches its age, a notification or a heartbeat is due."""
        outlet, audience = pipeline.outlet, self._audience
        due_ns = outlet.pacer.heartbeat_at_ns
        if audience.anybody:
            if audience.wants(outlet.notify_topic):
                due_ns = outlet.pacer.due_at_ns
            if audience.wants(outlet.tail_topic):
                due_ns = min(due_ns, outlet.tail.due_at_ns)
        held_until_ns = pipeline.due_at_ns
        return due_ns if held_until_ns is None else min(due_ns, held_until_ns)

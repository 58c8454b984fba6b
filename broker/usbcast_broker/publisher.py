"""The publisher: turns the pipelines, writes the rings and sends on the PUB socket, all under one lock.

Whoever brings something new may do the work: the thread that has just read a transfer turns its pipeline itself when the
stream is idle, so that the packet's way to the ring has no change of threads on it. When much has accumulated, or
another thread is at it, the publisher's own thread does it, and the device's thread goes back to reading. The lock makes
every use of the socket and the pipelines one after another, with a memory barrier between, as libzmq demands where a
socket changes threads; nobody waits for it but the publisher's thread and questions about health.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import zmq

from usbcast_broker.batcher import Encoded
from usbcast_broker.binding import bind_first
from usbcast_broker.doorbell import Doorbell
from usbcast_broker.pacer import HEARTBEAT_NS
from usbcast_broker.pipeline import Line
from usbcast_schemas.sockets import set_up
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_DATA_BYTES

log = logging.getLogger(__name__)

INLINE_BYTES = 16 * 1024
"""A feed's thread handles up to so much itself; with more waiting, its next read is worth more than this packet's lag."""


class Publisher:
    """One PUB socket and one thread for all streams of a node. All public calls are for any thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._doorbell = Doorbell()
        self._turning = threading.Lock()
        self._pipelines: Sequence[Line] = ()
        self._socket: zmq.Socket[bytes] | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.problem: BaseException | None = None
        """Why nothing is published any more, which should never be."""

    def start(self, pipelines: Sequence[Line], endpoints: Sequence[Sequence[str]]) -> list[str]:
        """Bind to the first free one of each list of `endpoints` and begin; return them as bound. Raises EndpointTaken."""
        socket = self._context.socket(zmq.PUB)
        try:
            set_up(socket, max_message_bytes=MAX_DATA_BYTES)
            bound = [bind_first(socket, choice) for choice in endpoints]
        except BaseException:
            socket.close()
            raise
        with self._turning:
            self._pipelines = pipelines
            self._socket = socket
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
            if self._socket is not None:
                # What has been handed to ZeroMQ is sent, if somebody takes it soon.
                self._socket.close(linger=200)
                self._socket = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def knock(self, pipeline: Line) -> None:
        """Something has come for an idle `pipeline`: handle it here and now, or leave it to the publisher's thread."""
        if pipeline.waiting_bytes > INLINE_BYTES or not self._turning.acquire(blocking=False):
            self._doorbell.ring()
            return
        try:
            if self._socket is not None and self.problem is None:
                self._turn(pipeline)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._turning.release()
        if pipeline.outlet.pacer.pending or pipeline.due_at_ns is not None:
            self._doorbell.ring()  # something is due soon, and only the publisher's thread keeps time

    def end(self, pipeline: Line, reason: str) -> None:
        """Publish what the stopped feed of `pipeline` has left, and the end of its stream; idempotent."""
        with self._turning:
            if self._socket is not None and not pipeline.outlet.ended:
                pipeline.end(reason, lambda batch: self._send(pipeline.outlet.data_topic, batch))
        self._doorbell.ring()

    def health(self) -> list[pb.StreamHealth]:
        """The books of all streams, taken between two turns."""
        with self._turning:
            return [pipeline.health() for pipeline in self._pipelines]

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self._turning:
                    busy = [self._turn(pipeline) for pipeline in self._pipelines]
                if not any(busy):
                    self._doorbell.wait(self._rest_s())
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        self.problem = error
        log.error("publishing has stopped", exc_info=error)

    def _turn(self, pipeline: Line) -> bool:
        """Publish what has accumulated in `pipeline`; the lock is held."""
        outlet = pipeline.outlet
        # A feed that hung may wake up after its stream has ended; nothing follows an end.
        busy = not outlet.ended and pipeline.turn(lambda batch: self._send(outlet.data_topic, batch))
        now_ns = time.monotonic_ns()
        if outlet.pacer.take(now_ns):
            outlet.ring.beat(now_ns)
            self._send_frames(outlet.notify_topic, outlet.notification(time.time_ns(), now_ns))
        return busy

    def _send(self, topic: bytes, batch: Encoded) -> None:
        self._send_frames(topic, batch.raw)

    def _send_frames(self, topic: bytes, body: bytes) -> None:
        assert self._socket is not None
        # PUB never blocks: what a slow peer's queue does not take is dropped, and the peer finds out by sequence.
        self._socket.send_multipart((topic, body), zmq.DONTWAIT)

    def _rest_s(self) -> float:
        """How long nothing is due."""
        now_ns = time.monotonic_ns()
        due_ns = now_ns + HEARTBEAT_NS
        for pipeline in self._pipelines:
            due_ns = min(due_ns, pipeline.outlet.pacer.due_at_ns)
            if pipeline.due_at_ns is not None:
                due_ns = min(due_ns, pipeline.due_at_ns)
        return (due_ns - now_ns) / 1e9

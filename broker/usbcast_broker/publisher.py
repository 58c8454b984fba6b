"""The publisher: the one thread that turns the pipelines, writes the rings and owns the PUB socket."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import zmq

from usbcast_broker.batcher import Encoded
from usbcast_broker.binding import bind_first
from usbcast_broker.doorbell import Doorbell
from usbcast_broker.pacer import HEARTBEAT_NS
from usbcast_broker.pipeline import Pipeline
from usbcast_schemas.sockets import set_up
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_DATA_BYTES

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Publisher:
    """Starts, stops and serves one thread. All public calls are for other threads."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], doorbell: Doorbell) -> None:
        self._context = context
        self._doorbell = doorbell
        self._pipelines: Sequence[Pipeline] = ()
        self._calls: deque[Callable[[], None]] = deque(maxlen=1000)
        self._stopping = False
        self._bound: Future[list[str]] = Future()
        self._thread: threading.Thread | None = None
        self.problem: BaseException | None = None
        """Why the thread ended by itself, which it never should."""

    def start(self, pipelines: Sequence[Pipeline], endpoints: Sequence[Sequence[str]]) -> list[str]:
        """Bind to the first free one of each list of `endpoints` and begin; return them as bound. Raises EndpointTaken."""
        self._pipelines = pipelines
        self._thread = threading.Thread(target=self._run, args=(endpoints,), name="usbcast-publisher", daemon=True)
        self._thread.start()
        return self._bound.result()

    def stop(self) -> None:
        """Stop without ending the streams; return when the thread is gone."""
        self._stopping = True
        self._doorbell.ring()
        if self._thread is not None:
            self._thread.join()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def end(self, pipeline: Pipeline, reason: str) -> None:
        """Publish what the stopped feed of `pipeline` has left, and the end of its stream; return when that is done."""
        self._call(lambda: self._end(pipeline, reason)).result()

    def health(self) -> Future[list[pb.StreamHealth]]:
        """The books of all streams, taken between two turns."""
        return self._call(lambda: [pipeline.health() for pipeline in self._pipelines])

    def _call(self, function: Callable[[], _T]) -> Future[_T]:
        answer: Future[_T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                answer.set_exception(error)

        self._calls.append(run)
        self._doorbell.ring()
        return answer

    def _run(self, endpoints: Sequence[Sequence[str]]) -> None:
        socket = self._context.socket(zmq.PUB)
        try:
            set_up(socket, max_message_bytes=MAX_DATA_BYTES)
            self._bound.set_result([bind_first(socket, choice) for choice in endpoints])
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller of start
            socket.close()
            self._bound.set_exception(error)
            return
        self._socket = socket
        try:
            while not self._stopping:
                busy = self._turn()
                if not busy:
                    self._doorbell.wait(self._rest_s())
        except BaseException as error:
            self.problem = error
            log.exception("the publisher has stopped")
            raise
        finally:
            # What has been handed to ZeroMQ is sent, if somebody takes it soon.
            socket.close(linger=200)

    def _turn(self) -> bool:
        busy = False
        for pipeline in self._pipelines:
            outlet = pipeline.outlet
            topic = outlet.data_topic
            busy |= pipeline.turn(lambda batch, topic=topic: self._send(topic, batch))  # type: ignore[misc]
            self._notify(pipeline)
        while self._calls:
            self._calls.popleft()()
        return busy

    def _notify(self, pipeline: Pipeline) -> None:
        outlet = pipeline.outlet
        now_ns = time.monotonic_ns()
        if outlet.pacer.take(now_ns):
            outlet.ring.beat(now_ns)
            body = outlet.notification(time.time_ns(), now_ns)
            self._socket.send_multipart((outlet.notify_topic, body), zmq.DONTWAIT)

    def _send(self, topic: bytes, batch: Encoded) -> None:
        # PUB never blocks: what a slow peer's queue does not take is dropped, and the peer finds out by sequence.
        self._socket.send_multipart((topic, batch.raw), zmq.DONTWAIT)

    def _end(self, pipeline: Pipeline, reason: str) -> None:
        topic = pipeline.outlet.data_topic
        pipeline.end(reason, lambda batch: self._send(topic, batch))
        self._notify(pipeline)

    def _rest_s(self) -> float:
        """How long nothing is due."""
        now_ns = time.monotonic_ns()
        due_ns = now_ns + HEARTBEAT_NS
        for pipeline in self._pipelines:
            due_ns = min(due_ns, pipeline.outlet.pacer.due_at_ns)
            if pipeline.due_at_ns is not None:
                due_ns = min(due_ns, pipeline.due_at_ns)
        return (due_ns - now_ns) / 1e9

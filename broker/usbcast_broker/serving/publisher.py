"""The publisher: give each pipeline its turns, write the rings and send on the data sockets, under one lock.

Two kinds of threads do this work. The thread of a feed, which has just read a transfer, turns its pipeline itself while the
stream is idle, so that a packet reaches the ring without a change of threads. The publisher's own thread does it when packets
come close together, when much has accumulated, or when another thread holds the lock; the feed's thread then goes back to
reading. A feed's thread only tries the lock and never waits for it; the publisher's thread, `end` and `health` wait.

Only the publisher's thread keeps time; schedule.py says when it wakes, and how a feed's thread that leaves something behind finds
out whether that is in time.

Between two turns the writer of a stream's outlet may be open (pipeline.py has the drawing): the feed's thread then writes into
the ring, and sends, without this lock. The next turn closes it and settles what was written, before anything else is numbered.

A message goes to the data sockets that have a subscriber for its topic (data_socket.py); a topic without subscribers costs no
copy. No thread here waits for what subscribers cause: when their interest changes, the socket's thread sets a flag, and the
next turn closes the fast paths, sends what was meant for the previous subscribers, and looks up the senders anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import zmq

from usbcast_broker.access.authenticator import DATA_SOCKETS, Authenticator
from usbcast_broker.doorbell import Doorbell
from usbcast_broker.serving.data_socket import DataSocket
from usbcast_broker.serving.interest import Topics
from usbcast_broker.serving.schedule import AWAKE, Schedule
from usbcast_broker.stream.outlet import Outlet
from usbcast_broker.stream.pipeline import Publish, Stream
from usbcast_schemas.fanout import sender_of
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)


class Publisher:
    """The data sockets and one thread for all streams of a node. All public calls are for any thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], authenticator: Authenticator) -> None:
        self._context = context
        self._authenticator = authenticator
        self._doorbell = Doorbell()
        self._turning = threading.Lock()
        self._pipelines: Sequence[Stream] = ()
        self._sockets: list[DataSocket] = []
        """None before it has started, and after it has stopped."""
        self._topics = 0, Topics(())
        """Of how many pipelines, and the topics of these."""
        self._senders: dict[bytes, Publish] = {}
        """What sends on each topic to those who want it; looked up anew when an audience has changed."""
        self._audience_changed = False
        self._stopping = False
        self._schedule: Schedule[Stream] = Schedule(lambda topic: self._sender(topic) is not None)
        self._thread: threading.Thread | None = None
        self.turned_ns: int | None = None
        """When its thread last went round, on the monotonic clock; it does so with every heartbeat."""
        self.problem: BaseException | None = None
        """Why nothing is published any more, which should never be."""

    def start(self, pipelines: Sequence[Stream], endpoints: Sequence[Sequence[str]]) -> list[str]:
        """Bind to the first free one of each list of `endpoints` and begin; return them as bound. Raises EndpointTaken."""
        self._pipelines = self._schedule.streams = pipelines
        sockets: list[DataSocket] = []
        bound: list[str] = []
        try:
            for which, choice in zip(DATA_SOCKETS, endpoints, strict=False):
                sockets.append(
                    DataSocket(self._context, self._authenticator, which, self._existing, self._hear, self._fail)
                )
                bound.append(sockets[-1].bind(choice))
        except BaseException:
            for socket in sockets:
                socket.close()
            raise
        with self._turning:
            self._sockets = sockets
            self._audience_changed = True
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
                pipeline.outlet.writer.close()
            sockets, self._sockets = self._sockets, []
            self._forget_senders()
        for socket in sockets:
            socket.close()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def on_data(self, pipeline: Stream) -> None:
        """Something has come for an idle `pipeline`: handle it here and now, or leave it to the publisher's thread."""
        due_ns = AWAKE
        if self._turning.acquire(blocking=False):
            try:
                running = bool(self._sockets) and self.problem is None
                due_ns = self._answer(pipeline) if running else self._schedule.of(pipeline).due_at_ns
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                self._turning.release()
        else:  # the publisher's thread may be past this pipeline, and not know of what the fast path leaves to it
            self._schedule.left_behind = True
        if self._schedule.wake_by(due_ns):
            self._doorbell.ring()

    def notify_now(self, pipeline: Stream) -> None:
        """Notify though there is no news, for somebody who has just come; the pacer bounds how often."""
        pipeline.outlet.pacer.mark_new()
        pipeline.outlet.tail.at_once()
        for socket in self._sockets:
            socket.look()
        self._schedule.wake()
        self._doorbell.ring()

    def end(self, pipeline: Stream, reason: str) -> None:
        """Publish what the stopped feed of `pipeline` has left, and the end of its stream; idempotent."""
        with self._turning:
            if self._sockets and not pipeline.over:
                self._look_up()
                pipeline.end(reason, self._sender(pipeline.outlet.data_topic))
                pipeline.outlet.tail.at_once()
        self._doorbell.ring()

    def health(self) -> list[pb.StreamHealth]:
        """The books of all streams, taken between two turns."""
        with self._turning:
            found = [pipeline.health() for pipeline in self._pipelines]
            for pipeline in self._pipelines:
                self._open_fast_path(pipeline)
            return found

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.turned_ns = time.monotonic_ns()
                with self._turning:
                    self._look_up()
                    for pipeline in self._schedule.due(self.turned_ns):
                        self._turn(pipeline)
                    self._schedule.fall_asleep(time.monotonic_ns())
                if self._schedule.may_sleep(time.monotonic_ns()):
                    self._sleep()
        except BaseException as error:
            self._fail(error)
            raise

    def _sleep(self) -> None:
        """Until something is due; who rings has made that earlier."""
        while not self._stopping:
            rest_ns = self._schedule.wakes_at_ns - time.monotonic_ns()
            if rest_ns <= 0 or not self._doorbell.wait(rest_ns / 1e9):
                break
        self._schedule.wake()

    def _answer(self, pipeline: Stream) -> int:
        """Do what is not to be left to the publisher's thread, the lock being held; return when that is to look."""
        self._look_up()
        outlet, times = pipeline.outlet, self._schedule.of(pipeline)
        publish = self._sender(outlet.data_topic)
        now_ns = time.monotonic_ns()
        if publish is not None:
            # It is in the ring already; those who get it otherwise should not wait for what is to be done besides.
            outlet.writer.send_unsent(publish)
            if not pipeline.waiting_bytes and not times.notify_wanted:
                outlet.tail.mark_new(now_ns)
                due_ns = times.due_at_ns
                if now_ns < due_ns:
                    outlet.writer.bell_at_ns = due_ns
                    return due_ns
        left_until_ns = times.left_until_ns(now_ns, pipeline.feed.reads_ahead)
        return self._turn(pipeline) if left_until_ns is None else left_until_ns

    def _sender(self, topic: bytes) -> Publish:
        """What sends on `topic` to those who want it; None if nobody does.

        It never waits: what a slow peer's queue does not take is dropped, which the peer finds out.
        """
        try:
            return self._senders[topic]
        except KeyError:
            fanouts = [socket.fanout for socket in self._sockets if socket.interest.wants(topic)]
            sender = self._senders[topic] = sender_of(fanouts, topic) if fanouts else None
            return sender

    def _existing(self) -> Topics:
        """The topics of all streams. For the data sockets' threads."""
        count, topics = self._topics
        if count != len(self._pipelines):  # streams are added, and never taken away
            outlets = [pipeline.outlet for pipeline in self._pipelines]
            topics = Topics(
                topic for outlet in outlets for topic in (outlet.data_topic, outlet.notify_topic, outlet.tail_topic)
            )
            self._topics = len(outlets), topics
        return topics

    def _hear(self) -> None:
        """An audience has changed. For the data sockets' threads."""
        self._audience_changed = True
        self._schedule.wake()
        self._doorbell.ring()

    def _look_up(self) -> None:
        """If an audience has changed, look up anew who wants what, the lock being held."""
        if not self._audience_changed:
            return
        self._audience_changed = False
        for pipeline in self._pipelines:
            pipeline.outlet.writer.close()
            pipeline.outlet.writer.send_unsent(self._sender(pipeline.outlet.data_topic))  # to whom it was for
        self._forget_senders()
        for pipeline in self._pipelines:
            self._open_fast_path(pipeline)

    def _forget_senders(self) -> None:
        """Look up anew who wants what, as each is needed."""
        self._senders = {}
        self._schedule.forget_audiences()

    def _fail(self, error: BaseException) -> None:
        self.problem = error
        for pipeline in self._pipelines:
            pipeline.outlet.writer.close()
        log.error("the node has stopped publishing", exc_info=error)

    def _turn(self, pipeline: Stream) -> int:
        """Publish what has accumulated in `pipeline`, the lock being held; return when it needs a turn though nothing comes."""
        begun_ns = time.monotonic_ns()
        publish = self._sender(pipeline.outlet.data_topic)
        # A feed that hung may wake up after its stream has ended; nothing follows an end.
        busy = not pipeline.over and pipeline.process(publish)
        now_ns = time.monotonic_ns()
        outlet = pipeline.outlet  # after the turn: a relay may have begun a new epoch
        if busy:
            outlet.coalescer.turned(begun_ns, now_ns)
            if outlet.ended:
                outlet.tail.at_once()
        times = self._schedule.of(pipeline)
        due_ns = times.due_at_ns
        if now_ns >= due_ns:
            self._notify(outlet, now_ns)
            due_ns = times.due_at_ns
        self._open_fast_path(pipeline)
        return due_ns

    def _open_fast_path(self, pipeline: Stream) -> None:
        """Let the feed's thread of `pipeline` write and send by itself until something is due."""
        if self.problem is not None or pipeline.over or not self._sockets:
            return
        outlet = pipeline.outlet
        outlet.open_fast_path(self._schedule.of(pipeline).bell_at_ns, self._sender(outlet.data_topic))

    def _notify(self, outlet: Outlet, now_ns: int) -> None:
        """Say how far the stream has come, if that is due or there are news."""
        if outlet.pacer.take(now_ns):
            outlet.ring.beat(now_ns, outlet.source_silent_ns(now_ns))
            if (notify := self._sender(outlet.notify_topic)) is not None:
                notify(outlet.notification(time.time_ns(), now_ns))
        if (tell := self._sender(outlet.tail_topic)) is not None and outlet.tail.take(now_ns):
            tell(outlet.notification(time.time_ns(), now_ns))

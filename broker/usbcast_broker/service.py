"""The replay service: the one thread that owns the ROUTER socket and answers describe, fetch, clock, command and health."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import zmq

from usbcast_broker import replay
from usbcast_broker.binding import bind
from usbcast_broker.budget import Budgets, Verdict
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.gatekeeper import REQUESTS, Gatekeeper
from usbcast_broker.memory import resident_bytes
from usbcast_broker.outlet import Outlet
from usbcast_broker.peers import peer_of, property_of
from usbcast_broker.pipeline import Line
from usbcast_broker.reading_host import reading_host_of
from usbcast_broker.refusals import Refusals
from usbcast_broker.turns import Turns
from usbcast_broker.undelivered import Undelivered
from usbcast_schemas.batch import Buffer
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import PeerError, RingUnavailable, UsbcastError, VersionMismatch
from usbcast_schemas.ring import RingReader
from usbcast_schemas.sockets import set_up
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_REQUEST_BYTES, decode_request

log = logging.getLogger(__name__)

MAX_WAITING_ANSWERS = 1000
"""Commands under way; beyond it a client is told to try again."""

MAX_QUEUED = 16
"""Requests of a client that wait, and replies that it does not take: with at most 4 MiB each, 64 MiB."""

LOOK_MS = 1000
"""So often its thread goes round though nobody asks anything, so that a watchdog can see that it lives."""

SLICE_NS = 5_000_000
"""For so long requests are answered before it is looked at what has come meanwhile."""

RETRY_MS = 2
"""An answer that a client had no room for is tried again so soon."""

TOO_SLOW = "client too slow for its answers"

MAX_REPORTS = 1024
REPORT_KEPT_S = 10.0
ALIVE_S = 1.5
"""A subscription reports every second; one whose last report is older than this is taken for stopped or gone."""

FLOODS = "floods with requests"
RING = "ring"

Describe = Callable[[Line], pb.StreamInfo]


class Refused(UsbcastError):
    """A request that cannot be answered; carries the code of the error reply."""

    def __init__(self, code: pb.ErrorReply.Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, frozen=True)
class _Asked:
    """A request, and the connection that it came by."""

    envelope: list[bytes]
    fd: int
    request: pb.Request


class _Served:
    """One stream, and the ring of its current epoch as any other reader reads it."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.asked_monotonic_ns: int | None = None
        self._of = line.outlet
        self.ring = RingReader(self._of.ring.path, self._of.ring.nonce)

    def current(self) -> tuple[Outlet, RingReader]:
        """The outlet and a reader of its ring. Raises Refused while a new epoch is just beginning."""
        outlet = self.line.outlet
        if outlet is not self._of:
            try:
                ring = RingReader(outlet.ring.path, outlet.ring.nonce)
            except RingUnavailable as error:
                raise Refused(
                    pb.ErrorReply.CODE_BUSY, f"stream {outlet.stream!r} is beginning a new epoch: {error}"
                ) from None
            self.ring.close()
            self.ring, self._of = ring, outlet
        return self._of, self.ring


class ReplayService:
    """Starts, stops and serves one thread. All public calls are for other threads."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        gatekeeper: Gatekeeper,
        refusals: Refusals,
        budgets: Budgets,
        describe: Describe,
        health: Callable[[], list[pb.StreamHealth]],
        beat: Callable[[Line], None],
        node: pb.HealthReply,
    ) -> None:
        self._context = context
        self._gatekeeper = gatekeeper
        self._refusals = refusals
        self._budgets = budgets
        self._describe = describe
        self._health = health
        self._beat = beat
        self._node = node
        self._streams: dict[str, _Served] = {}
        """Replaced as a whole, never changed: its thread may be going through it."""
        self._bell = PollableDoorbell()
        self._answers: deque[tuple[list[bytes], pb.Reply]] = deque()
        self._waiting = 0
        self._stopping = False
        self._admitting = threading.Event()
        self._bound: Future[str] = Future()
        self._thread: threading.Thread | None = None
        self.turned_ns: int | None = None
        """When its thread last went round, on the monotonic clock; it does so at least once in LOOK_MS."""
        self._undelivered = Undelivered()
        self._turns: Turns[_Asked] = Turns(budgets.forgotten_ns)
        self._reports: OrderedDict[tuple[str, str], tuple[float, pb.SubscriptionReport]] = OrderedDict()
        self.problem: BaseException | None = None
        """Why nothing is answered any more, which should never be."""
        self.last_fetch_monotonic = 0.0
        """When somebody last fetched, so that a node that ends can wait for those who still catch up."""

    def start(self, pipelines: Sequence[Line], endpoint: str) -> str:
        """Bind to `endpoint`; return it as bound. Requests wait until `admit`. Raises EndpointTaken."""
        for pipeline in pipelines:
            self.adopt(pipeline)
        self._thread = threading.Thread(target=self._run, args=(endpoint,), name="usbcast-service", daemon=True)
        self._thread.start()
        return self._bound.result()

    def adopt(self, pipeline: Line) -> None:
        """Answer for this stream too."""
        self._streams = {**self._streams, pipeline.outlet.stream: _Served(pipeline)}

    def admit(self) -> None:
        """Begin to answer, now that there is all that the answers speak of."""
        self._admitting.set()

    def stop(self) -> None:
        """Return when the thread is gone."""
        self._stopping = True
        self._admitting.set()
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()
        for served in self._streams.values():
            served.ring.close()
        self._bell.close()

    def reports(self, stream: str) -> list[pb.SubscriptionReport]:
        """What the subscriptions of `stream` last said of themselves, not longer ago than REPORT_KEPT_S."""
        now = time.monotonic()
        found = []
        for (of, _), (at, report) in list(self._reports.items()):
            if of == stream and now - at <= REPORT_KEPT_S:
                report.age_ns = int((now - at) * 1e9)
                found.append(report)
        return found

    @property
    def is_awaited(self) -> bool:
        """Whether a live subscription that needs this node has not got all that there is of its stream."""
        return any(
            report.next_number < served.line.outlet.next_number
            for stream, served in self._streams.items()
            for report in self.reports(stream)
            # Who reads the ring has it in its own memory.
            if report.via != RING
            and (report.joining or report.HasField("next_number"))
            and report.age_ns < ALIVE_S * 1e9
        )

    def _run(self, endpoint: str) -> None:
        socket = self._context.socket(zmq.ROUTER)
        try:
            set_up(socket, max_message_bytes=2 * MAX_REQUEST_BYTES)  # so that what is too long can be refused in words
            socket.setsockopt(zmq.RCVHWM, MAX_QUEUED)
            socket.setsockopt(zmq.SNDHWM, MAX_QUEUED)
            # An answer that cannot be sent is counted, not dropped in silence.
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._gatekeeper.guard(socket, REQUESTS)
            self._bound.set_result(bind(socket, endpoint))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller of start
            self._gatekeeper.release(socket)
            socket.close()
            self._bound.set_exception(error)
            return
        self._socket = socket
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._bell.fileno(), zmq.POLLIN)
        try:
            self._admitting.wait()
            while not self._stopping:
                self.turned_ns = time.monotonic_ns()
                poller.poll(self._sleep_ms())
                for _ in range(self._undelivered.retry(self._try, time.monotonic_ns())):
                    self._refusals.count(TOO_SLOW)
                self._bell.quiet()
                while self._answers:
                    envelope, reply = self._answers.popleft()
                    self._waiting -= 1
                    self._send(envelope, reply)
                for _ in range(100):
                    try:
                        frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
                    except zmq.Again:
                        break
                    self._handle(frames)
                self._answer_in_turn()
        except BaseException as error:
            self.problem = error
            log.exception("answering has stopped")
            raise
        finally:
            self._gatekeeper.release(socket)
            socket.close(linger=200)

    def _sleep_ms(self) -> int:
        """How long nothing is to be done, if nobody asks anything."""
        most = RETRY_MS if self._undelivered else LOOK_MS
        due_ns = self._turns.due_ns()
        if due_ns is None:
            return most
        left_ms = (due_ns - time.monotonic_ns()) / 1e6
        return min(most, math.ceil(left_ms)) if left_ms > 0 else 0

    def _handle(self, frames: list[zmq.Frame]) -> None:
        """Take a message: refuse it, carry it out if that is no work, or let it wait for its turn."""
        envelope = [frames[0].bytes]
        self._gatekeeper.heard(REQUESTS, frames[0])
        verdict = self._budgets.spend(envelope[0], peer_of(frames[0]), time.monotonic_ns())
        if verdict in (Verdict.CUT, Verdict.IGNORED):
            self._turns.forget(envelope[0])
            self._cut(frames[0], verdict)
            return
        try:
            request = decode_request([frame.bytes for frame in frames[1:]])
        except PeerError as error:
            reason = "another version" if isinstance(error, VersionMismatch) else "malformed"
            self._refusals.refuse(reason, peer_of(frames[0]), f"what it sends is no request: {error}")
            code = pb.ErrorReply.CODE_VERSION if isinstance(error, VersionMismatch) else pb.ErrorReply.CODE_MALFORMED
            self._send(envelope, pb.Reply(error=pb.ErrorReply(code=code, message=str(error))))
            return
        try:
            if verdict is Verdict.WAIT:
                raise Refused(pb.ErrorReply.CODE_BUSY, "these are too many requests a second: ask again later")
            self._check_rights(frames[0], request)
            self._take(_Asked(envelope, int(frames[0].get(zmq.SRCFD)), request))
        except Refused as error:
            self._refuse(envelope, request, error)

    def _take(self, asked: _Asked) -> None:
        """Carry out what is no work; let all else wait for its turn. Raises Refused."""
        request = asked.request
        kind = request.WhichOneof("body")
        if kind == "report":
            self._note(request.report)
        elif kind == "command":
            line = self._stream(request.command.stream).line
            self._later(asked.envelope, request.request_id, line.feed.command(request.command))
        else:
            request.DiscardUnknownFields()  # which may be large
            stream = getattr(getattr(request, kind or ""), "stream", "")
            if kind == "fetch" or stream:
                self._stream(stream)
            if not self._turns.add(asked.envelope[0], asked):
                raise Refused(pb.ErrorReply.CODE_BUSY, "too many requests wait for an answer: ask again later")

    def _answer_in_turn(self) -> None:
        """Answer requests that wait, for some milliseconds."""
        until_ns = time.monotonic_ns() + SLICE_NS
        while (now_ns := time.monotonic_ns()) < until_ns:
            asked = self._turns.next(now_ns)
            if asked is None:
                return
            if not self._gatekeeper.has(REQUESTS, asked.fd):
                continue  # it has gone, so the work would be in vain
            began_ns = time.thread_time_ns()
            try:
                reply, batches = self._answer(asked.request)
                reply.request_id = asked.request.request_id
                self._budgets.charge(asked.envelope[0], sum(map(len, batches)))
                self._send(asked.envelope, reply, batches)
            except Refused as error:
                self._refuse(asked.envelope, asked.request, error)
            self._budgets.worked(asked.envelope[0], time.thread_time_ns() - began_ns, now_ns)

    def _refuse(self, envelope: list[bytes], request: pb.Request, error: Refused) -> None:
        if error.code != pb.ErrorReply.CODE_FORBIDDEN:  # counted and named where it was found
            self._refusals.count(pb.ErrorReply.Code.Name(error.code).removeprefix("CODE_").lower().replace("_", " "))
        reply = pb.Reply(request_id=request.request_id)
        reply.error.code, reply.error.message = error.code, str(error)
        self._send(envelope, reply)

    def _cut(self, frame: zmq.Frame, verdict: Verdict) -> None:
        """End the connection of a client that floods; what of it has come already is passed over."""
        self._refusals.refuse(FLOODS, peer_of(frame), "it goes on asking though it was told to wait, so it is cut off")
        if verdict is Verdict.CUT:
            self._gatekeeper.cut(REQUESTS, int(frame.get(zmq.SRCFD)))

    def _check_rights(self, frame: zmq.Frame, request: pb.Request) -> None:
        """Raise Refused if the client may not ask this, or not any more."""
        admission = self._gatekeeper.admission
        if not admission.keyed:
            return
        refusal = admission.may_ask(property_of(frame, "User-Id"), request.WhichOneof("body") or "")
        if refusal is not None:
            self._refusals.refuse(refusal.reason, refusal.who, refusal.sentence)
            raise Refused(pb.ErrorReply.CODE_FORBIDDEN, refusal.sentence)

    def _answer(self, request: pb.Request) -> tuple[pb.Reply, list[Buffer]]:
        """The reply and its batches. Raises Refused."""
        kind = request.WhichOneof("body")
        if kind == "fetch":
            return self._fetch(request.fetch)
        if kind == "describe":
            wanted = [self._stream(request.describe.stream)] if request.describe.stream else self._streams.values()
            infos = [self._describe(served.line) for served in wanted]
            return pb.Reply(described=pb.DescribeReply(streams=infos)), []
        if kind == "clock":
            return pb.Reply(clock=self._clock(request.clock)), []
        return self._health_reply(), []

    def _clock(self, request: pb.ClockRequest) -> pb.ClockReply:
        realtime_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        reply = pb.ClockReply(
            sent_monotonic_ns=request.sent_monotonic_ns,
            received_realtime_ns=realtime_ns,
            received_monotonic_ns=monotonic_ns,
        )
        if request.stream:
            reader = reading_host_of(self._stream(request.stream).line.feed)
            if reader.ahead_ns is not None:
                reply.reader_ahead_ns, reply.reader_uncertainty_ns = reader.ahead_ns, reader.uncertainty_ns
        reply.replied_realtime_ns, reply.replied_monotonic_ns = time.time_ns(), time.monotonic_ns()
        return reply

    def _fetch(self, request: pb.FetchRequest) -> tuple[pb.Reply, list[Buffer]]:
        self.last_fetch_monotonic = time.monotonic()
        outlet, ring = self._stream(request.stream).current()
        if request.HasField("epoch") and request.epoch != outlet.epoch:
            raise Refused(
                pb.ErrorReply.CODE_EPOCH_OVER,
                f"epoch {request.epoch:016x} of stream {request.stream!r} is over; it is now {outlet.epoch:016x}",
            )
        budget = min(request.byte_budget or replay.DEFAULT_BUDGET_BYTES, replay.DEFAULT_BUDGET_BYTES)
        if request.newest_only:
            batches = replay.newest(
                ring,
                from_sequence=request.from_sequence if request.HasField("from_sequence") else None,
                from_number=request.from_number,
                budget_bytes=budget,
            )
            fetched = replay.Fetched(batches, [], complete=True)
        else:
            fetched = replay.fetch(
                ring,
                from_sequence=request.from_sequence,
                until_sequence=request.until_sequence if request.HasField("until_sequence") else None,
                from_number=request.from_number,
                budget_bytes=budget,
            )
        reply = pb.FetchReply(
            batch_count=len(fetched.batches),
            epoch=outlet.epoch,
            oldest_sequence=outlet.oldest_sequence,
            next_sequence=outlet.next_sequence,
            next_number=outlet.next_number,
            lost=fetched.lost,
            complete=fetched.complete,
        )
        return pb.Reply(fetched=reply), fetched.batches

    def asked_monotonic_ns(self, stream: str) -> int | None:
        """When somebody last asked for this stream by its name."""
        served = self._streams.get(stream)
        return served.asked_monotonic_ns if served is not None else None

    def _stream(self, name: str) -> _Served:
        try:
            served = self._streams[name]
            served.asked_monotonic_ns = time.monotonic_ns()
            return served
        except KeyError:
            raise Refused(
                pb.ErrorReply.CODE_STREAM_UNKNOWN,
                f"this node has no stream {name[:200]!r}; it has {', '.join(sorted(self._streams)) or 'none'}",
            ) from None

    def _note(self, request: pb.ReportRequest) -> None:
        served = self._stream(request.stream)
        if request.report.joining:
            self._beat(served.line)
        key = (request.stream, request.report.name[:200])
        if key not in self._reports:
            log.info("stream %s: %s has joined, by %s", key[0], key[1], request.report.via[:20])
        self._reports[key] = (time.monotonic(), request.report)
        self._reports.move_to_end(key)
        while len(self._reports) > MAX_REPORTS:
            self._reports.popitem(last=False)

    def _later(self, envelope: list[bytes], request_id: int, future: Future[pb.CommandReply]) -> None:
        """Send the reply when the command is done, by this thread."""
        if self._waiting >= MAX_WAITING_ANSWERS:
            raise Refused(pb.ErrorReply.CODE_BUSY, f"{MAX_WAITING_ANSWERS} commands wait for an answer; try again")
        self._waiting += 1

        def done(answered: Future[pb.CommandReply]) -> None:
            error = answered.exception()
            if error is None:
                reply = pb.Reply(commanded=answered.result())
            else:
                if not isinstance(error, UsbcastError):
                    log.error("a command failed", exc_info=error)
                reply = pb.Reply(error=pb.ErrorReply(code=pb.ErrorReply.CODE_DEVICE, message=str(error)))
            reply.request_id = request_id
            self._answers.append((envelope, reply))
            self._bell.ring()

        future.add_done_callback(done)

    def _health_reply(self) -> pb.Reply:
        streams = self._health()
        for stream in streams:
            stream.subscriptions.extend(self.reports(stream.stream))
        health = pb.HealthReply()
        health.CopyFrom(self._node)
        health.node_memory_bytes = resident_bytes()
        health.streams.extend(streams)
        health.refused.update(self._refusals.by_reason())
        return pb.Reply(health=health)

    def _send(self, envelope: list[bytes], reply: pb.Reply, batches: Sequence[Buffer] = ()) -> None:
        reply.contract = CONTRACT
        frames: list[Buffer] = [*envelope, reply.SerializeToString(), *batches]
        client, now_ns = envelope[0], time.monotonic_ns()
        if not self._undelivered.waits(client) and self._try(frames):
            return
        # Who asks too much is told so before it gets what it has asked for.
        first = reply.error.code == pb.ErrorReply.CODE_BUSY
        if not self._undelivered.keep(client, frames, now_ns, first=first):
            self._refusals.count(TOO_SLOW)

    def _try(self, frames: Sequence[Buffer]) -> bool:
        """Send, unless the client has no room now."""
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._refusals.count("client gone before its answer")
        return True

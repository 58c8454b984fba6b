"""The replay service: the one thread that owns the ROUTER socket and answers describe, fetch, clock, command and health."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import zmq

from usbcast_broker.access.authenticator import REQUESTS, TOO_SLOW, Authenticator
from usbcast_broker.access.binding import bind
from usbcast_broker.access.memory import resident_bytes
from usbcast_broker.access.peers import peer_of
from usbcast_broker.access.rate_limit import RateLimiter, Verdict
from usbcast_broker.access.refusals import Refusals
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.serving import replay
from usbcast_broker.serving.outbox import Outbox
from usbcast_broker.serving.reports import MAX_NAME, Reports
from usbcast_broker.serving.turns import Turns
from usbcast_broker.stream.outlet import Outlet
from usbcast_broker.stream.pipeline import Stream
from usbcast_broker.stream.reading_host import reading_host_of
from usbcast_schemas.batch import Buffer
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import PeerError, RingUnavailable, UsbcastError, VersionMismatch
from usbcast_schemas.ring import RingReader
from usbcast_schemas.sockets import property_of, set_up
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_REQUEST_BYTES, decode_request

log = logging.getLogger(__name__)

MAX_COMMANDS = 1000
"""Commands under way; beyond it a client is told to try again."""

MAX_QUEUED = 16
"""Requests of a client that wait, and replies that it does not take: with at most 4 MiB each, 64 MiB."""

RECEIVE_BUFFER_BYTES = 64 * 1024
"""The system's, of each connection: what waits there counts as a request that is not whole."""

LOOK_MS = 1000
"""So often its thread goes round though nobody asks anything, so that a watchdog can see that it lives."""

SLICE_NS = 5_000_000
"""For so long requests are answered before it is looked at what has come meanwhile."""

RETRY_MS = 2
"""An answer that a client had no room for is tried again so soon."""


MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""All commands under way."""

MAX_OWED_BYTES = 64 * 1024 * 1024
"""What all clients together have not taken of their answers."""

FEW_OWE, LEAST_OWED_BYTES = 8, 128 * 1024
"""Each may owe an equal part of what the others leave of that, as if at least so many owed; and this much in any case."""

ALWAYS_BYTES = 4096
"""An answer no larger than this is given whatever the client owes; ZeroMQ's queue bounds how many wait."""

FLOODS = "floods with requests"
NO_ROOM = "there are answers that were not taken: take your own, and ask again later"
LEFT_OUT = "report left out of this answer"

Describe = Callable[[Stream], pb.StreamInfo]


class Refused(UsbcastError):
    """A request that cannot be answered; carries the code of the error reply."""

    def __init__(self, code: pb.ErrorReply.Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, frozen=True)
class _Client:
    """The connection that a request came by."""

    identity: bytes
    fd: int


@dataclass(slots=True, frozen=True)
class _Asked:
    client: _Client
    request: pb.Request


class _Served:
    """One stream, and the ring of its current epoch as any other reader reads it."""

    def __init__(self, line: Stream) -> None:
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
        authenticator: Authenticator,
        refusals: Refusals,
        rate_limiter: RateLimiter,
        describe: Describe,
        health: Callable[[], list[pb.StreamHealth]],
        beat: Callable[[Stream], None],
        node: pb.HealthReply,
    ) -> None:
        self._context = context
        self._authenticator = authenticator
        self._refusals = refusals
        self._rate_limiter = rate_limiter
        self._describe = describe
        self._health = health
        self._beat = beat
        self._node = node
        self._streams: dict[str, _Served] = {}
        """Replaced as a whole, never changed: its thread may be going through it."""
        self._bell = PollableDoorbell()
        self._answers: deque[tuple[_Client, pb.Reply, int]] = deque()
        """Of commands, each with the size of its request."""
        self._commands = self._command_bytes = 0
        self._stopping = False
        self._admitting = threading.Event()
        self._bound: Future[str] = Future()
        self._thread: threading.Thread | None = None
        self.turned_ns: int | None = None
        """When its thread last went round, on the monotonic clock; it does so at least once in LOOK_MS."""
        self._outbox: Outbox[_Client] = Outbox()
        self._turns: Turns[_Asked] = Turns(rate_limiter.forgotten_ns)
        self._reports = Reports()
        self.problem: BaseException | None = None
        """Why nothing is answered any more, which should never be."""
        self.last_fetch_monotonic = 0.0
        """When somebody last fetched, so that a node that ends can wait for those who still catch up."""

    def start(self, pipelines: Sequence[Stream], endpoint: str) -> str:
        """Bind to `endpoint`; return it as bound. Requests wait until `admit`. Raises EndpointTaken."""
        for pipeline in pipelines:
            self.adopt(pipeline)
        self._thread = threading.Thread(target=self._run, args=(endpoint,), name="usbcast-service", daemon=True)
        self._thread.start()
        return self._bound.result()

    def adopt(self, pipeline: Stream) -> None:
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
        """What the subscriptions of `stream` last said of themselves, not too long ago."""
        return self._reports.of(stream, time.monotonic_ns())

    @property
    def is_awaited(self) -> bool:
        """Whether a live subscription that needs this node has not got all that there is of its stream."""
        now_ns = time.monotonic_ns()
        return any(
            self._reports.waits_for(stream, served.line.outlet.next_number, now_ns)
            for stream, served in self._streams.items()
        )

    def _run(self, endpoint: str) -> None:
        socket = self._context.socket(zmq.ROUTER)
        try:
            set_up(socket, max_message_bytes=2 * MAX_REQUEST_BYTES)  # so that what is too long can be refused in words
            socket.setsockopt(zmq.RCVHWM, MAX_QUEUED)
            socket.setsockopt(zmq.SNDHWM, MAX_QUEUED)
            socket.setsockopt(zmq.RCVBUF, RECEIVE_BUFFER_BYTES)
            # An answer that cannot be sent is counted, not dropped in silence.
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._authenticator.guard(socket, REQUESTS)
            self._bound.set_result(bind(socket, endpoint))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller of start
            self._authenticator.release(socket)
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
                for _ in range(self._outbox.retry(self._try, time.monotonic_ns())):
                    self._refusals.count(TOO_SLOW)
                self._bell.quiet()
                self._reports.forget(self.turned_ns)
                while self._answers:
                    client, reply, size_bytes = self._answers.popleft()
                    self._commands -= 1
                    self._command_bytes -= size_bytes
                    self._send(client, reply)
                for _ in range(100):
                    try:
                        frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
                    except zmq.Again:
                        self._authenticator.caught_up = True
                        break
                    self._authenticator.caught_up = False
                    self._handle(frames)
                self._answer_in_turn()
        except BaseException as error:
            self.problem = error
            log.exception("the node has stopped answering requests")
            raise
        finally:
            self._authenticator.release(socket)
            socket.close(linger=200)

    def _sleep_ms(self) -> int:
        """How long nothing is to be done, if nobody asks anything."""
        most = RETRY_MS if self._outbox else LOOK_MS
        due_ns = self._turns.due_ns()
        if due_ns is None:
            return most
        left_ms = (due_ns - time.monotonic_ns()) / 1e6
        return min(most, math.ceil(left_ms)) if left_ms > 0 else 0

    def _handle(self, frames: list[zmq.Frame]) -> None:
        """Take a message: refuse it, carry it out if that is no work, or let it wait for its turn."""
        client = _Client(frames[0].bytes, int(frames[0].get(zmq.SRCFD)))
        self._authenticator.heard(REQUESTS, client.fd, sum(map(len, frames)))
        verdict = self._rate_limiter.spend(client.identity, peer_of(frames[0]), time.monotonic_ns())
        if verdict in (Verdict.CUT, Verdict.IGNORED):
            self._turns.forget(client.identity)
            self._cut(frames[0], verdict)
            return
        try:
            request = decode_request([frame.bytes for frame in frames[1:]])
        except PeerError as error:
            reason = "another version" if isinstance(error, VersionMismatch) else "malformed"
            self._refusals.refuse(reason, peer_of(frames[0]), f"it sent an invalid request: {error}")
            code = pb.ErrorReply.CODE_VERSION if isinstance(error, VersionMismatch) else pb.ErrorReply.CODE_MALFORMED
            self._send(client, pb.Reply(error=pb.ErrorReply(code=code, message=str(error))))
            return
        try:
            if verdict is Verdict.WAIT:
                raise Refused(pb.ErrorReply.CODE_BUSY, "too many requests per second: ask again later")
            self._check_rights(frames[0], request)
            self._take(client, request)
        except Refused as error:
            self._refuse(client, request, error)

    def _take(self, client: _Client, request: pb.Request) -> None:
        """Carry out what is no work; let all else wait for its turn. Raises Refused."""
        kind = request.WhichOneof("body")
        if kind == "report":
            self._note(request.report)
        elif kind == "command":
            self._command(client, request)
        else:
            request.DiscardUnknownFields()  # which may be large
            stream = getattr(getattr(request, kind or ""), "stream", "")
            if kind == "fetch" or stream:
                self._stream(stream)
            if not self._turns.add(client.identity, _Asked(client, request)):
                raise Refused(pb.ErrorReply.CODE_BUSY, "too many requests are waiting for an answer: ask again later")

    def _answer_in_turn(self) -> None:
        """Answer requests that wait, for some milliseconds."""
        until_ns = time.monotonic_ns() + SLICE_NS
        while (now_ns := time.monotonic_ns()) < until_ns:
            asked = self._turns.next(now_ns)
            if asked is None:
                return
            client = asked.client
            if not self._authenticator.has(REQUESTS, client.fd):
                continue  # it has gone, so the work would be in vain
            began_ns = time.thread_time_ns()
            try:
                reply, batches = self._answer(asked.request, self._room(client))
                reply.request_id = asked.request.request_id
                self._rate_limiter.charge(client.identity, sum(map(len, batches)))
                self._send(client, reply, batches)
            except Refused as error:
                self._refuse(client, asked.request, error)
            self._rate_limiter.worked(client.identity, time.thread_time_ns() - began_ns, now_ns)

    def _room(self, client: _Client) -> int:
        """How many bytes an answer to this client may have; below 0 if it has taken too little of earlier ones."""
        owed_bytes, owing = self._authenticator.owed_by_all()
        part = (MAX_OWED_BYTES - owed_bytes) // max(FEW_OWE, owing + 1)
        return max(part, LEAST_OWED_BYTES) - self._authenticator.owed(REQUESTS, client.fd)

    def _refuse(self, client: _Client, request: pb.Request, error: Refused) -> None:
        if error.code != pb.ErrorReply.CODE_FORBIDDEN:  # counted and named where it was found
            self._refusals.count(pb.ErrorReply.Code.Name(error.code).removeprefix("CODE_").lower().replace("_", " "))
        reply = pb.Reply(request_id=request.request_id)
        reply.error.code, reply.error.message = error.code, str(error)
        self._send(client, reply)

    def _cut(self, frame: zmq.Frame, verdict: Verdict) -> None:
        """End the connection of a client that floods; what of it has come already is passed over."""
        self._refusals.refuse(FLOODS, peer_of(frame), "it goes on asking though it was told to wait, so it is cut off")
        if verdict is Verdict.CUT:
            self._authenticator.cut(REQUESTS, int(frame.get(zmq.SRCFD)))

    def _check_rights(self, frame: zmq.Frame, request: pb.Request) -> None:
        """Raise Refused if the client may not ask this, or not any more."""
        admission = self._authenticator.admission
        if not admission.keyed:
            return
        refusal = admission.may_ask(property_of(frame, "User-Id") or "", request.WhichOneof("body") or "")
        if refusal is not None:
            self._refusals.refuse(refusal.reason, refusal.who, refusal.sentence)
            raise Refused(pb.ErrorReply.CODE_FORBIDDEN, refusal.sentence)

    def _answer(self, request: pb.Request, most_bytes: int) -> tuple[pb.Reply, list[Buffer]]:
        """The reply and its batches, of about so many bytes at the most. Raises Refused."""
        kind = request.WhichOneof("body")
        if kind == "fetch":
            return self._fetch(request.fetch, most_bytes)
        if kind == "describe":
            wanted = [self._stream(request.describe.stream)] if request.describe.stream else self._streams.values()
            infos = [self._describe(served.line) for served in wanted]
            reply = pb.Reply(described=pb.DescribeReply(streams=infos))
        elif kind == "clock":
            reply = pb.Reply(clock=self._clock(request.clock))
        else:
            reply = self._health_reply(most_bytes)
        if reply.ByteSize() > max(most_bytes, ALWAYS_BYTES):
            raise Refused(pb.ErrorReply.CODE_BUSY, NO_ROOM)
        return reply, []

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

    def _fetch(self, request: pb.FetchRequest, most_bytes: int) -> tuple[pb.Reply, list[Buffer]]:
        self.last_fetch_monotonic = time.monotonic()
        if most_bytes <= 0:
            raise Refused(pb.ErrorReply.CODE_BUSY, NO_ROOM)
        outlet, ring = self._stream(request.stream).current()
        if request.HasField("epoch") and request.epoch != outlet.epoch:
            raise Refused(
                pb.ErrorReply.CODE_EPOCH_OVER,
                f"epoch {request.epoch:016x} of stream {request.stream!r} is over; it is now {outlet.epoch:016x}",
            )
        budget = min(request.byte_budget or replay.DEFAULT_BUDGET_BYTES, replay.DEFAULT_BUDGET_BYTES, most_bytes)
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
        name, via = request.report.name[:MAX_NAME], request.report.via[:20]
        if self._reports.note(request.stream, request.report, time.monotonic_ns()):
            log.info("stream %s: %s has joined, by %s", request.stream, name, via)

    def _command(self, client: _Client, request: pb.Request) -> None:
        """Have the device do it, and send the reply by this thread when it is done. Raises Refused."""
        line, size_bytes, request_id = self._stream(request.command.stream).line, request.ByteSize(), request.request_id
        if self._commands >= MAX_COMMANDS or self._command_bytes + size_bytes > MAX_COMMAND_BYTES:
            raise Refused(
                pb.ErrorReply.CODE_BUSY,
                f"{self._commands} commands of {self._command_bytes} bytes are waiting for an answer: try again later",
            )
        future = line.feed.command(request.command)
        self._commands += 1
        self._command_bytes += size_bytes

        def done(answered: Future[pb.CommandReply]) -> None:
            error = answered.exception()
            if error is None:
                reply = pb.Reply(commanded=answered.result())
            else:
                if not isinstance(error, UsbcastError):
                    log.error("a command failed", exc_info=error)
                reply = pb.Reply(error=pb.ErrorReply(code=pb.ErrorReply.CODE_DEVICE, message=str(error)))
            reply.request_id = request_id
            self._answers.append((client, reply, size_bytes))
            self._bell.ring()

        future.add_done_callback(done)

    def _health_reply(self, most_bytes: int) -> pb.Reply:
        """With the reports for which there is room, the newest."""
        health = pb.HealthReply()
        health.CopyFrom(self._node)
        health.node_memory_bytes = resident_bytes()
        health.streams.extend(self._health())
        health.refused.update(self._refusals.by_reason())
        left_bytes = most_bytes - health.ByteSize() - 1000
        for stream in health.streams:
            told = []
            for report in reversed(self.reports(stream.stream)):
                left_bytes -= report.ByteSize() + 8
                if left_bytes >= 0:
                    told.append(report)
                else:
                    health.refused[LEFT_OUT] += 1
            stream.subscriptions.extend(reversed(told))
        return pb.Reply(health=health)

    def _send(self, client: _Client, reply: pb.Reply, batches: Sequence[Buffer] = ()) -> None:
        reply.contract = CONTRACT
        frames: list[Buffer] = [client.identity, reply.SerializeToString(), *batches]
        now_ns = time.monotonic_ns()
        if not self._outbox.waits(client) and self._try(client, frames):
            return
        # Who asks too much is told so before it gets what it has asked for.
        first = reply.error.code == pb.ErrorReply.CODE_BUSY
        if not self._outbox.keep(client, frames, now_ns, first=first):
            self._refusals.count(TOO_SLOW)

    def _try(self, client: _Client, frames: Sequence[Buffer]) -> bool:
        """Send, unless the client has no room now."""
        size_bytes = sum(map(len, frames[1:]))
        self._authenticator.gave(REQUESTS, client.fd, size_bytes)
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            self._authenticator.gave(REQUESTS, client.fd, -size_bytes)
            if error.errno == zmq.EAGAIN:
                return False
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._refusals.count("client gone before its answer")
        return True

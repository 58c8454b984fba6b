"""The replay service: the thread that owns the ROUTER socket, and decides which request is answered when.

A request passes the rate limit and the client's rights. What takes no work (a report, the start of a command) is carried out at
once; everything else waits for its turn (`turns.py`), so that a client that asks much delays itself. `answers.py` makes the
answers, `commands.py` holds the commands under way, and an answer that its client has no room for waits in the outbox.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import zmq

from usbcast_broker.access.authenticator import REQUESTS, TOO_SLOW, Authenticator
from usbcast_broker.access.binding import bind
from usbcast_broker.access.peers import peer_of
from usbcast_broker.access.rate_limit import RateLimiter, Verdict
from usbcast_broker.access.refusals import Refusals
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.serving.answers import Answers, Describe
from usbcast_broker.serving.commands import CommandsUnderWay
from usbcast_broker.serving.outbox import Outbox
from usbcast_broker.serving.reports import MAX_NAME, Reports
from usbcast_broker.serving.streams import Refused, ServedStreams
from usbcast_broker.serving.turns import Turns
from usbcast_broker.stream.pipeline import Stream
from usbcast_schemas.batch import Buffer
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import PeerError, VersionMismatch
from usbcast_schemas.sockets import property_of, set_up
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_REQUEST_BYTES, decode_request

log = logging.getLogger(__name__)

MAX_QUEUED = 16
"""Requests of a client that wait, and replies that it has not taken: with at most 4 MiB each, 64 MiB."""

RECEIVE_BUFFER_BYTES = 64 * 1024
"""The operating system's buffer of each connection; bytes in it count as an unfinished request."""

LOOK_MS = 1000
"""Longest time between two rounds of the thread, so that a watchdog can see that it lives."""

SLICE_NS = 5_000_000
"""Time for which requests are answered before new ones are received."""

MOST_RECEIVED = 100
"""Requests taken before some are answered."""

RETRY_MS = 2
"""Time after which an answer that its client had no room for is tried again."""

MAX_OWED_BYTES = 64 * 1024 * 1024
"""Most bytes of answers that all clients together have not taken."""

FEW_OWE, LEAST_OWED_BYTES = 8, 128 * 1024
"""Each client may leave an equal share untaken, as if at least FEW_OWE clients did, and LEAST_OWED_BYTES in any case."""

FLOODS = "floods with requests"


@dataclass(slots=True, frozen=True)
class _Client:
    """The connection that a request came by."""

    identity: bytes
    fd: int


@dataclass(slots=True, frozen=True)
class _Asked:
    client: _Client
    request: pb.Request


class ReplayService:
    """Starts, stops and is one thread. All public calls are for other threads."""

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
        self._beat = beat
        self._streams = ServedStreams()
        self._reports = Reports()
        self._answers = Answers(self._streams, self._reports, refusals, describe, health, node)
        self._bell = PollableDoorbell()
        self._commands: CommandsUnderWay[_Client] = CommandsUnderWay(self._bell.ring)
        self._stopping = False
        self._admitting = threading.Event()
        self._bound: Future[str] = Future()
        self._thread: threading.Thread | None = None
        self.turned_ns: int | None = None
        """Monotonic time of the thread's last round; None before the first. There is one at least every LOOK_MS."""
        self._outbox: Outbox[_Client] = Outbox()
        self._turns: Turns[_Asked] = Turns(rate_limiter.forgotten_ns)
        self.problem: BaseException | None = None
        """Exception that ended the thread: the node answers nothing any more."""

    def start(self, pipelines: Sequence[Stream], endpoint: str) -> str:
        """Bind to `endpoint`; return it as bound. Requests wait until `admit`. Raises EndpointTaken."""
        for pipeline in pipelines:
            self.adopt(pipeline)
        self._thread = threading.Thread(target=self._run, args=(endpoint,), name="usbcast-service", daemon=True)
        self._thread.start()
        return self._bound.result()

    def adopt(self, pipeline: Stream) -> None:
        """Answer for this stream too."""
        self._streams.add(pipeline)

    def admit(self) -> None:
        """Begin to answer, once everything that the answers describe exists."""
        self._admitting.set()

    def stop(self) -> None:
        """Return when the thread is gone."""
        self._stopping = True
        self._admitting.set()
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()
        self._streams.close()
        self._bell.close()

    @property
    def last_fetch_monotonic(self) -> float:
        """Time of the last fetch; 0 if there was none."""
        return self._answers.last_fetch_monotonic

    def asked_monotonic_ns(self, stream: str) -> int | None:
        """Return when a client last asked for this stream by its name; None if none has."""
        return self._streams.asked_monotonic_ns(stream)

    def reports(self, stream: str) -> list[pb.SubscriptionReport]:
        """Return the latest reports of the subscriptions of `stream`, except old ones."""
        return self._reports.of(stream, time.monotonic_ns())

    @property
    def is_awaited(self) -> bool:
        """True while a live subscription that depends on this node has not received everything of its stream."""
        now_ns = time.monotonic_ns()
        outlets = [served.line.outlet for served in self._streams]
        return any(self._reports.waits_for(outlet.stream, outlet.next_number, now_ns) for outlet in outlets)

    def _run(self, endpoint: str) -> None:
        socket = self._context.socket(zmq.ROUTER)
        try:
            self._bound.set_result(self._bind(socket, endpoint))
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
                self._bell.quiet()
                self._reports.forget(self.turned_ns)
                self._send_what_is_ready()
                self._receive()
                self._answer_in_turn()
        except BaseException as error:
            self.problem = error
            log.exception("the node has stopped answering requests")
            raise
        finally:
            self._authenticator.release(socket)
            socket.close(linger=200)

    def _bind(self, socket: zmq.Socket[bytes], endpoint: str) -> str:
        set_up(socket, max_message_bytes=2 * MAX_REQUEST_BYTES)  # so that a longer request can be refused in words
        socket.setsockopt(zmq.RCVHWM, MAX_QUEUED)
        socket.setsockopt(zmq.SNDHWM, MAX_QUEUED)
        socket.setsockopt(zmq.RCVBUF, RECEIVE_BUFFER_BYTES)
        # An answer that cannot be sent is counted, not dropped in silence.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._authenticator.guard(socket, REQUESTS)
        return bind(socket, endpoint)

    def _send_what_is_ready(self) -> None:
        """Send answers that waited for room, and the replies of commands."""
        for _ in range(self._outbox.retry(self._try, time.monotonic_ns())):
            self._refusals.count(TOO_SLOW)
        for client, reply in self._commands.pop_answers():
            self._send(client, reply)

    def _receive(self) -> None:
        """Take the requests that have come, up to a bound."""
        for _ in range(MOST_RECEIVED):
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                self._authenticator.caught_up = True
                break
            self._authenticator.caught_up = False
            self._handle(frames)

    def _sleep_ms(self) -> int:
        """Return the milliseconds for which there is nothing to do if no request comes."""
        most = RETRY_MS if self._outbox else LOOK_MS
        due_ns = self._turns.due_ns()
        if due_ns is None:
            return most
        left_ms = (due_ns - time.monotonic_ns()) / 1e6
        return min(most, math.ceil(left_ms)) if left_ms > 0 else 0

    def _handle(self, frames: list[zmq.Frame]) -> None:
        """Take a message: refuse it, carry it out if that takes no work, or let it wait for its turn."""
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
        """Carry out what takes no work; let everything else wait for its turn. Raises Refused."""
        kind = request.WhichOneof("body")
        if kind == "report":
            self._note(request.report)
        elif kind == "command":
            self._commands.begin(client, self._streams.asked(request.command.stream).line.feed, request)
        else:
            request.DiscardUnknownFields()  # which may be large
            stream = getattr(getattr(request, kind or ""), "stream", "")
            if kind == "fetch" or stream:
                self._streams.asked(stream)
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
                reply, batches = self._answers.answer(asked.request, self._room(client))
                reply.request_id = asked.request.request_id
                self._rate_limiter.charge(client.identity, sum(map(len, batches)))
                self._send(client, reply, batches)
            except Refused as error:
                self._refuse(client, asked.request, error)
            self._rate_limiter.worked(client.identity, time.thread_time_ns() - began_ns, now_ns)

    def _room(self, client: _Client) -> int:
        """Return how many bytes an answer to this client may have; below 0 if it has taken too little of earlier ones."""
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
        """End the connection of a client that floods; skip its requests that have come already."""
        self._refusals.refuse(FLOODS, peer_of(frame), "it goes on asking though it was told to wait, so it is cut off")
        if verdict is Verdict.CUT:
            self._authenticator.cut(REQUESTS, int(frame.get(zmq.SRCFD)))

    def _check_rights(self, frame: zmq.Frame, request: pb.Request) -> None:
        """Raise Refused if the client does not, or no longer, have the right to ask this."""
        admission = self._authenticator.admission
        if not admission.keyed:
            return
        refusal = admission.may_ask(property_of(frame, "User-Id") or "", request.WhichOneof("body") or "")
        if refusal is not None:
            self._refusals.refuse(refusal.reason, refusal.who, refusal.sentence)
            raise Refused(pb.ErrorReply.CODE_FORBIDDEN, refusal.sentence)

    def _note(self, request: pb.ReportRequest) -> None:
        served = self._streams.asked(request.stream)
        if request.report.joining:
            self._beat(served.line)
        name, via = request.report.name[:MAX_NAME], request.report.via[:20]
        if self._reports.note(request.stream, request.report, time.monotonic_ns()):
            log.info("stream %s: %s has joined, by %s", request.stream, name, via)

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

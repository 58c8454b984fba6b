"""The receiver of one stream: finds the node, keeps one channel alive over restarts, and fetches what is missing.

It never waits and has no thread. A shell drives it: `subscription` in the calling thread, `aio` in an event loop. The shell's
loop, with the receiver's part in it:

1. `take` returns the next event. While nothing is due it reads from the channel by itself (the fast path, `fast_path.py`).
2. When `take` returns None, `pump` does everything that can be done now: it reads the channel into continuity, takes replies
   from the link, notices silence, and sends the requests and reports that are due. Then `take` is asked again.
3. When both have nothing, the shell sleeps, for `rest_s` at most. Before that it calls `may_sleep`, which tells the writer of
   a ring that this reader sleeps and then checks once more: a batch that came in between would otherwise wake nobody.

Steps 2 and 3 cost far more than a batch. So `housekeeping.py` decides how often `pump` goes beyond the channel: at once when
something other than data may have come (`called`), otherwise a few times a second. `park_s` and `wait` are shortcuts for a
reader on the fast path: they sleep without any of this as long as nothing but data can be due.

The fast path counts what it delivers. Whoever looks at continuity or the ledger settles it first, which brings them up to date.
"""

from __future__ import annotations

import logging
import math
import os
import socket as host
import time
from collections.abc import Callable
from itertools import count

from usbcast.batch import Batch
from usbcast.clock.clock_watch import ClockWatch
from usbcast.clock.offset import ClockOffset
from usbcast.events import Gap, Silence
from usbcast.node.credentials import Keys, credentials
from usbcast.node.discovery import is_lan, not_found
from usbcast.node.locate import locate
from usbcast.node.requests import raise_error
from usbcast.receiving.channels import Channel
from usbcast.receiving.channels.choice import connect
from usbcast.receiving.continuity import Continuity, Position
from usbcast.receiving.event_builder import Event, EventBuilder, Record
from usbcast.receiving.fast_path import FastPath
from usbcast.receiving.fetching import Fetching, Gate
from usbcast.receiving.housekeeping import BUSY_NS, Housekeeping
from usbcast.receiving.life_cycle import LifeCycle
from usbcast.receiving.link import Link
from usbcast.receiving.subscribe_options import SubscribeOptions, check_options
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.contract import SILENCE_S
from usbcast_schemas.engine.protocols import Limits
from usbcast_schemas.engine.pure_reader import ClosedReader
from usbcast_schemas.errors import NodeUnreachable, PeerError, VersionMismatch, WireError
from usbcast_schemas.interfaces import ALL
from usbcast_schemas.lan import SCHEME
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

OUT_BATCHES = 64
"""How many batches may wait for the application before the receiver takes no more from the channel."""

TURN_REPLIES = 100
"""Replies taken in one turn: a node that sends replies without end cannot keep the caller from its deadline."""

_MOST_LAG_NS = 2**63 - 1
"""A report has 64 bits for the lag, and a node may claim any arrival time."""

_numbers = count(1)


class NodeReceiver:
    """One subscription's state. Used by one thread. Raises UsageError for a wrong argument, KeysError for keys of no use.

    With a Position as its `start` it goes on where another one stood, also over a restart of the stream.
    """

    def __init__(
        self,
        stream: str,
        endpoint: str | None,
        start: str | int | Position,
        deliver: str,
        via: str,
        keys: Keys = None,
        gate: Gate | None = None,
        *,
        copy: bool = True,
    ) -> None:
        check_options(stream, start, deliver, via)
        resumed = start if isinstance(start, Position) else None
        start = "oldest" if isinstance(start, Position) else start
        self.keys = credentials(keys)
        """What is shown to the node; None to connect without encryption."""
        self.stream = stream
        self.waiter = Waiter()
        self.info: pb.StreamInfo | None = None
        self.name = f"{host.gethostname()}:{os.getpid()}:{next(_numbers)}"
        self._endpoint = endpoint
        self._options = SubscribeOptions(stream, start, via, deliver == "latest", copy)
        self._core = Continuity(latest=self._options.latest)
        if resumed is not None:
            self._core.start(resumed.epoch, resumed.next_sequence, resumed.next_number)
        self._clock = ClockWatch(stream, self.keys)
        self._event_builder = EventBuilder(self._core, self._clock)
        self._fast_path = FastPath(self._core, self._event_builder)
        self._link = Link(stream, endpoint, self.waiter, self.keys)
        self._channel: Channel | None = None
        self._life = LifeCycle(time.monotonic_ns())
        self._fetching = Fetching(self._core, gate)
        self._house = Housekeeping()
        self._link_is_quiet = False
        """Whether the link was seen to have nothing, and has not been used since: then whatever comes wakes."""

    # What the shells use

    @property
    def take(self) -> Callable[[], Event | None]:
        """Return the next event; None if there is none. A loop looks this up once, and calls it for each batch."""
        return self._fast_path.next_event

    def take_record(self) -> Record | None:
        """As `take`, but batches as they were published, those without packets too. One of the two is used, not both."""
        return self._fast_path.next_record()

    def wait(self, most_s: float) -> Batch | None:
        """Sleep up to `most_s` until a batch comes; return None, without sleep, if `pump` and the others must be called."""
        return self._fast_path.wait_for_batch(most_s)

    def park_s(self) -> float:
        """Return for how many seconds one may wait on `waiter` at once; 0 if `pump`, `rest_s` and `may_sleep` must be called."""
        return self._fast_path.park_s()

    def pump(self) -> bool:
        """Take what has come and do what is due; return True if `take` has something.

        Raises StreamUnknown, VersionMismatch, AccessRefused, KeysError.
        """
        came = self._channel is not None and self._read(self._channel)
        if self._channel is None or not self._house.can_wait(time.monotonic_ns(), came, self._core):
            self._keep_house()
            came = False  # it may have been rubbish, or of another channel
        return self._open_fast_path() or bool(self._event_builder) or came

    def _read(self, channel: Channel) -> bool:
        """Bring continuity up to date with what has come, and return True if there is something to take.

        If the reader of the fast path can deliver what comes next, that is left to it.
        """
        self._note_what_woke(has_delivered=self._fast_path.settle())
        self._event_builder.return_loan()  # a caller that asks for more has finished with the last batch
        if self._fast_path.can_open:
            return channel.has_more
        channel.pump(self)
        return bool(self._core.out)

    def _note_what_woke(self, *, has_delivered: bool) -> None:
        """If this caller has slept, a batch ended that if one was delivered since; else anything may have come."""
        if self._fast_path.was_parked_in_vain:
            self._house.called = True
        elif has_delivered:
            self._house.called = False

    def _keep_house(self) -> None:
        """Look after everything but the data: replies, silence, requests and reports that are due."""
        now_ns = time.monotonic_ns()
        self._link.check()
        if self._channel is not None:
            self._channel.check()
        self._take_replies(now_ns)
        self._watch(now_ns)
        self._ask(now_ns)
        self._link_is_quiet = False
        busy = self._fetching.under_way or self._check_rest_s() < math.inf
        calm = self._life.is_calm and not busy
        self._house.done(now_ns, calm=calm, until_ns=self._life.calm_until_ns(self._heard_ns()))

    def _open_fast_path(self) -> bool:
        """Open the fast path until something is due; return True if a batch waits in the ring."""
        house = self._house
        return self._fast_path.open(Limits(house.due_ns, house.calm_until_ns if self._link_is_quiet else 0))

    @property
    def has_events(self) -> bool:
        """Whether `take` has something, or would have after `pump`."""
        self._fast_path.settle()
        return bool(self._event_builder) or (self._channel is not None and self._channel.has_more)

    @property
    def lag_ns(self) -> int:
        self._fast_path.settle()
        return self._event_builder.lag_ns

    @property
    def clock(self) -> ClockOffset | None:
        """Offset of the reading host's clock; None while unknown."""
        return self._clock.offset()

    @property
    def joined(self) -> bool:
        """True once everything that comes from now on will be delivered or declared lost."""
        return self._core.epoch is not None

    @property
    def silent(self) -> bool:
        """True while the node has given no sign of life for SILENCE_S; the application was told by a Silence."""
        return self._life.is_silent

    @property
    def position(self) -> Position | None:
        """Position behind everything received so far, including what waits to be taken; None before joining."""
        self._fast_path.settle()
        return self._core.position

    def pass_over(self, stage: str, reason: str) -> Gap | None:
        """Skip on purpose what has not come; return the resulting gap. Nothing may wait to be taken."""
        self._fetching.given_up()
        self._fast_path.settle()
        gap = self._core.pass_over(stage, reason)
        if gap is not None:
            self._event_builder.left_out(gap)
        return gap

    @property
    def behind(self) -> int:
        """Number of packets that are known to exist but have not come."""
        self._fast_path.settle()
        return max(0, self._core.known_until - self._core.next_sequence)

    @property
    def silent_ns(self) -> int:
        """Nanoseconds for which the node, or its upstream, has been silent; 0 while all is well."""
        if self._life.is_silent:
            return time.monotonic_ns() - self._heard_ns()
        return self._channel.source_silent_ns if self._channel else 0

    @property
    def via(self) -> str:
        """Name of the channel in use; of the one asked for until connected."""
        return self._channel.via if self._channel else self._options.via

    def may_sleep(self) -> bool:
        """Ask to be woken; return True if nothing has come meanwhile, so that waiting on `waiter` is safe."""
        self._house.called = True  # anything may end the wait
        if not self._link_is_quiet:
            self._link_is_quiet = self._link.may_sleep()
        return self._link_is_quiet and (self._channel is None or self._channel.may_sleep())

    def rest_s(self) -> float:
        """Seconds until something is due, if nothing comes."""
        ask_at_ns = self._question_due_ns()
        if self._house.rest_ns > 0:
            rest_ns = self._house.rest_ns
            if ask_at_ns is not None:
                rest_ns = min(rest_ns, ask_at_ns - time.monotonic_ns())
            if rest_ns > 0:
                return rest_ns / 1e9
        due = [self._life.due_ns(self._heard_ns())]
        fetch_at_ns = self._fetching.due_ns()
        if fetch_at_ns is not None:
            due.append(fetch_at_ns)
        if ask_at_ns is not None:
            due.append(ask_at_ns)
        rest_s = min((min(due) - time.monotonic_ns()) / 1e9, self._check_rest_s())
        if rest_s > 0:
            return rest_s
        self._house.called = True
        return 0.0

    def _question_due_ns(self) -> int | None:
        """Return when to ask what there is if nothing comes by the channel; None while that is no question."""
        if self._channel is None or self._life.is_silent or self.full:
            return None
        return self._fetching.question_due_ns(self._channel)

    def _check_rest_s(self) -> float:
        """Seconds until the `check` of the link or the channel has something to do."""
        return min(self._link.rest_s, self._channel.rest_s if self._channel is not None else math.inf)

    def ledger(self) -> Ledger:
        """The ledger of this subscription as of now, in packets."""
        self._fast_path.settle()
        books = self._event_builder.ledger()
        books.counters["fetched" if self.via == "notify" else "refilled"] = self._core.fetched_packets
        return books

    def unreachable(self, timeout_s: float) -> NodeUnreachable:
        """The error to raise when no node answered within `timeout_s`."""
        if not self._link.reached_by and self._endpoint is not None and is_lan(self._endpoint):
            return NodeUnreachable(not_found(self.stream, self._endpoint.removeprefix(SCHEME) or ALL, []))
        at = self._link.reached_by or locate(self.stream, self._endpoint)
        return NodeUnreachable(
            f"no node with stream {self.stream!r} answered at {at} within {timeout_s:g} s: is one running? "
            "`usbcast serve PROFILE` starts one (without a device: `usbcast serve --simulate`), "
            f"`usbcast doctor {at}` says where it fails"
        )

    def close(self) -> None:
        """Send the node a last report and free everything."""
        self._fast_path.settle()
        self._event_builder.return_loan()
        if self._channel is not None:
            self._send_report()
            self._channel.close()
            self._channel = None
        self._clock.close()
        self._link.close(linger_ms=200)
        self.waiter.close()

    # What a channel uses: this is its Sink

    def live(self, batch: EncodedBatch) -> None:
        if self._core.epoch is None:
            self._options.begin(self._core, batch.epoch, batch.first_sequence, batch.number)
        self._core.live(batch)

    def known(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool) -> None:
        if self._core.epoch is None:
            self._options.begin(self._core, epoch, next_sequence, next_number)
        self._core.known(epoch, next_sequence, next_number, ended=ended)

    def malformed(self, error: Exception) -> None:
        self._core.unreadable()
        books = self._event_builder.books
        books.count("malformed")
        if books.counters["malformed"] == 1:
            log.warning(
                "stream %s: the node at %s sent an invalid message: %s", self.stream, self._link.reached_by, error
            )

    @property
    def full(self) -> bool:
        return len(self._core.out) >= OUT_BATCHES and not self._options.latest

    # Life

    def _heard_ns(self) -> int:
        """The stream's last sign of life: what came by the channel, or an answer of a node that has the stream.

        A node that has come back without it refuses every report, and must not pass for the one that published.
        """
        return max(self._life.answered_ns, self._channel.heard_ns if self._channel else 0)

    def _watch(self, now_ns: int) -> None:
        """Notice silence, its end, and a restart that only the data told of."""
        heard_ns = self._heard_ns()
        if self._life.listen(heard_ns, now_ns):
            if self.info is None:  # an application that only iterates over batches would wait without any message
                log.warning("%s; still looking for it", self.unreachable(SILENCE_S))
            self._event_builder.say(Silence(now_ns - heard_ns))
        elif self.info and self._core.epoch is not None and self._core.epoch != self.info.epoch:
            self._life.describing.doubt(now_ns)
        if self._channel is None:
            return
        source_silent_ns = self._channel.source_silent_ns
        if self._life.listen_upstream(source_silent_ns):
            self._event_builder.say(Silence(source_silent_ns, upstream=True))
        if self._channel.can_fetch:
            self._fetching.expectation.learn(now_ns, self._channel.news)
            if self._fetching.expectation.is_mute(now_ns, self._channel.heard_ns):
                self._life.describing.doubt(now_ns)
        if self._channel.over:  # a bridge goes on in another ring when its upstream begins a new epoch
            self._life.describing.doubt(now_ns + BUSY_NS)

    def _ask(self, now_ns: int) -> None:
        """Send the requests that are due; give up those that were not answered."""
        describing = self._life.describing
        if describing.is_overdue(now_ns):
            self._drop_link(now_ns)
        if self._fetching.is_overdue(now_ns):
            self._drop_link(now_ns)  # so that the node drops the answer if it is still sending it
        if describing.may_ask(now_ns):
            self._drop_link(now_ns)  # the node may be at another address now
            if not self._link.find():
                describing.not_found(now_ns)
                return
            request = pb.Request(describe=pb.DescribeRequest(stream=self.stream))
            describing.asked(self._link.send(request), now_ns)
        if self._channel is None:
            return
        if not self._fetching.under_way and not self.full:
            fetch = self._fetching.request(self.stream, now_ns, pushed=self._channel.via == "push")
            if fetch is None and not self._life.is_silent:
                fetch = self._fetching.question(self.stream, now_ns, self._channel)
            if fetch is not None:
                self._fetching.sent(self._link.send(pb.Request(fetch=fetch)), now_ns)
        if self.joined:
            self._life.joined()
        # A node that sends to its subscribers only goes on sending because of the report.
        if self._life.may_report(now_ns) and self._fetching.counts(now_ns):
            self._send_report()

    def _drop_link(self, now_ns: int) -> None:
        """Drop the connection and repeat the pending requests over a new one."""
        self._link.drop()
        self._life.describing.dropped(now_ns)
        if self._fetching.under_way:
            self._fetching.failed(now_ns + self._life.describing.back_off_ns())

    def _send_report(self) -> None:
        report = pb.SubscriptionReport(
            name=self.name,
            via=self.via,
            ledger=self.ledger().to_proto(),
            lag_ns=min(max(-_MOST_LAG_NS, self.lag_ns), _MOST_LAG_NS),
            next_sequence=self._core.next_sequence,
        )
        if not self.joined:
            report.joining = True
        if self._core.position is not None:
            report.next_number = self._core.position.next_number
        self._link.send(pb.Request(report=pb.ReportRequest(stream=self.stream, report=report)))

    def _take_replies(self, now_ns: int) -> None:
        for _ in range(TURN_REPLIES):
            try:
                received = self._link.receive()
                if received is None:
                    return
                if received.reply.error.code != pb.ErrorReply.CODE_STREAM_UNKNOWN:
                    self._life.answered_ns = now_ns
                for error in received.unreadable:
                    self.malformed(error)
                self._take_reply(received.reply, received.batches, len(received.unreadable), now_ns)
            except VersionMismatch:
                raise
            except PeerError as error:
                self.malformed(error)

    def _take_reply(self, reply: pb.Reply, batches: list[EncodedBatch], unreadable: int, now_ns: int) -> None:
        kind = reply.WhichOneof("body")
        if kind == "error" and reply.error.code == pb.ErrorReply.CODE_FORBIDDEN:
            raise_error(reply.error)  # also as the answer to a report: a reader of a ring may send nothing else
        if self._life.describing.is_answer(reply.request_id):
            try:
                self._take_described(reply, now_ns)
            except BaseException:
                self._life.describing.refused(now_ns)
                raise
        elif self._fetching.is_answer(reply.request_id):
            if kind == "error":
                self._fetching.failed(now_ns + self._life.describing.back_off_ns())
                if reply.error.code == pb.ErrorReply.CODE_EPOCH_OVER:
                    self._life.describing.doubt(now_ns)
                return
            self._life.describing.went_well()
            pushed = self._channel is not None and self._channel.via == "push"
            self._fetching.answered(reply.fetched, batches, now_ns, pushed=pushed, unreadable=unreadable)

    def _take_described(self, reply: pb.Reply, now_ns: int) -> None:
        """Take the answer to a request for the description. Raises what it says, and PeerError if it is of no use."""
        if reply.WhichOneof("body") == "error":
            if self.info is None or reply.error.code != pb.ErrorReply.CODE_STREAM_UNKNOWN:
                raise_error(reply.error)
            # The stream existed: the node restarted and still waits for its device or upstream.
            self._life.describing.refused(now_ns)
            return
        if not reply.described.streams:
            raise WireError(f"the node at {self._link.reached_by} answered without a description of {self.stream!r}")
        self._take_description(reply.described.streams[0], now_ns)
        self._life.describing.described()

    def _take_description(self, info: pb.StreamInfo, now_ns: int) -> None:
        """Connect; connect again if the node has changed or was silent."""
        if self._core.is_former(info.epoch):
            return  # the data of a newer epoch overtook this description; `_watch` asks again
        before, self.info = self.info, info
        self._event_builder.describe(info)
        self._clock.follow(self._link.reached_by, info.reader_host_id or info.host_id)
        if self._core.epoch is not None and info.epoch != self._core.epoch:
            self._core.restart(info.epoch)
        unchanged = before is not None and (before.data_endpoints, before.ring) == (info.data_endpoints, info.ring)
        heard_ns = None
        if self._channel is not None:
            heard_ns = self._channel.heard_ns
            mute = self._fetching.expectation.is_mute(now_ns, heard_ns)
            if unchanged and not self._life.is_silent and not mute:
                return
            if mute:
                self._fetching.expectation.replaced(now_ns)
            self._fast_path.read_by(ClosedReader())
            self._channel.close()
            self._channel = None
            self._life.lost()
        self._channel = connect(
            self._options,
            info,
            self._core,
            self.waiter,
            reached_by=self._link.reached_by,
            keys=self.keys,
            heard_ns=heard_ns,
        )
        self._life.connected()
        self._fast_path.read_by(self._channel.reader)
        self._core.set_can_fetch(self._channel.can_fetch)
        if self._core.epoch is not None:
            self._core.known(info.epoch, info.next_sequence, info.next_number, ended=info.ended)

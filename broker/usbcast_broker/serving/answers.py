"""The answers of the replay service: to describe, fetch, clock and health. It has neither socket nor thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from usbcast_broker.access.memory import resident_bytes
from usbcast_broker.access.refusals import Refusals
from usbcast_broker.serving import replay
from usbcast_broker.serving.reports import Reports
from usbcast_broker.serving.streams import Refused, ServedStreams
from usbcast_broker.stream.pipeline import Stream
from usbcast_broker.stream.reading_host import reading_host_of
from usbcast_schemas.batch import Buffer
from usbcast_schemas.v1 import usbcast_pb2 as pb

ALWAYS_BYTES = 4096
"""An answer no larger than this is sent whatever the client owes; ZeroMQ's queue bounds how many wait."""

NO_ROOM = "there are answers that were not taken: take your own, and ask again later"
LEFT_OUT = "report left out of this answer"

Describe = Callable[[Stream], pb.StreamInfo]


class Answers:
    """Makes the answers of one node. Used by one thread."""

    def __init__(
        self,
        streams: ServedStreams,
        reports: Reports,
        refusals: Refusals,
        describe: Describe,
        health: Callable[[], list[pb.StreamHealth]],
        node: pb.HealthReply,
    ) -> None:
        self._streams = streams
        self._reports = reports
        self._refusals = refusals
        self._describe = describe
        self._health = health
        self._node = node
        self.last_fetch_monotonic = 0.0
        """Time of the last fetch, so that a node that ends can wait for subscribers that still catch up."""

    def answer(self, request: pb.Request, most_bytes: int) -> tuple[pb.Reply, list[Buffer]]:
        """Return the reply and its batches, of about `most_bytes` at most. Raises Refused."""
        kind = request.WhichOneof("body")
        if kind == "fetch":
            return self._fetch(request.fetch, most_bytes)
        if kind == "describe":
            reply = self._described(request.describe.stream)
        elif kind == "clock":
            reply = pb.Reply(clock=self._clock(request.clock))
        else:
            reply = self._healthy(most_bytes)
        if reply.ByteSize() > max(most_bytes, ALWAYS_BYTES):
            raise Refused(pb.ErrorReply.CODE_BUSY, NO_ROOM)
        return reply, []

    def _described(self, stream: str) -> pb.Reply:
        wanted = [self._streams.asked(stream)] if stream else self._streams
        return pb.Reply(described=pb.DescribeReply(streams=[self._describe(served.line) for served in wanted]))

    def _clock(self, request: pb.ClockRequest) -> pb.ClockReply:
        realtime_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        reply = pb.ClockReply(
            sent_monotonic_ns=request.sent_monotonic_ns,
            received_realtime_ns=realtime_ns,
            received_monotonic_ns=monotonic_ns,
        )
        if request.stream:
            reader = reading_host_of(self._streams.asked(request.stream).line.feed)
            if reader.ahead_ns is not None:
                reply.reader_ahead_ns, reply.reader_uncertainty_ns = reader.ahead_ns, reader.uncertainty_ns
        reply.replied_realtime_ns, reply.replied_monotonic_ns = time.time_ns(), time.monotonic_ns()
        return reply

    def _fetch(self, request: pb.FetchRequest, most_bytes: int) -> tuple[pb.Reply, list[Buffer]]:
        self.last_fetch_monotonic = time.monotonic()
        if most_bytes <= 0:
            raise Refused(pb.ErrorReply.CODE_BUSY, NO_ROOM)
        outlet, ring = self._streams.asked(request.stream).current()
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

    def _healthy(self, most_bytes: int) -> pb.Reply:
        """Return the node's health, with as many of the newest reports as there is room for."""
        health = pb.HealthReply()
        health.CopyFrom(self._node)
        health.node_memory_bytes = resident_bytes()
        health.streams.extend(self._health())
        health.refused.update(self._refusals.by_reason())
        left_bytes = most_bytes - health.ByteSize() - 1000
        for stream in health.streams:
            told = []
            for report in reversed(self._reports.of(stream.stream, time.monotonic_ns())):
                left_bytes -= report.ByteSize() + 8
                if left_bytes >= 0:
                    told.append(report)
                else:
                    health.refused[LEFT_OUT] += 1
            stream.subscriptions.extend(reversed(told))
        return pb.Reply(health=health)

"""The feed of one bridged stream: a thread that receives it and offers its batches, as they are, to the relay of a node."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from usbcast.bridge.carrier import Carrier, Level, Whole
from usbcast.bridge.choice import EVERYTHING, LEFT_OUT, Choice
from usbcast.bridge.decimation import EveryNth
from usbcast.bridge.gates import DemandGate, gate_of
from usbcast.events import Gap, Restart
from usbcast.node.credentials import Keys
from usbcast.node.requests import NodeClient
from usbcast.receiving.continuity import SKIPPED, Delivery, Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.receiver import NodeReceiver
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.stream.batcher import Encoded
from usbcast_broker.stream.outlet import Description, Source
from usbcast_broker.stream.reading_host import ReadingHost
from usbcast_broker.stream.relay import EpochChange, RelayQueue
from usbcast_schemas.errors import CommandFailed, PeerError, UsbcastError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

TURN_RECORDS = 64
"""So many are taken before the upstream is listened to again."""

FULL_S = 0.005
"""How long to wait where the publisher has not taken what was offered."""

TROUBLE_S = 1.0
"""How long to wait where the upstream answers and does not have the stream."""

DESCRIBED_S = 3.0
"""How long a new epoch waits for its description, before it begins with that of the last one."""

PASS_OVER_NS = 2_000_000_000
"""What a limit has kept the bridge from for so long is left out, and the newest is next."""

IDLE_NS = 1_000_000_000
"""While nobody asks for a stream that is carried on demand, it says so often how far that has come."""

MAX_COMMANDS = 64
"""Commands of one stream that wait for the upstream."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Which stream a feed has, and from where."""

    endpoint: str
    stream: str
    """As the upstream calls it."""
    local: str
    start: str
    via: str
    commands: bool
    keys: Keys
    choice: Choice = EVERYTHING

    def carrier(self, upstream_epoch: int, level: Level | None = None) -> Carrier:
        """What makes of this epoch of the upstream, which is told to be at `level`, what is published."""
        if self.choice.every > 1:
            return EveryNth(upstream_epoch, self.choice.every, self.choice.reason)
        if self.choice.asks:
            return Whole(upstream_epoch, level, self.choice.reason)
        if self.start == "now":
            return Whole(upstream_epoch, level, f"{LEFT_OUT}: from before the bridge began")
        return Whole(upstream_epoch, level, "gone before the bridge had it", on_purpose=False)


class BridgedFeed:
    """Stands for the device of one stream. Started and stopped by the node; its state is read by any thread."""

    def __init__(
        self,
        which: Upstream,
        info: pb.StreamInfo,
        queue: RelayQueue,
        source: Source,
        asked_ns: Callable[[], int | None],
    ) -> None:
        self._which = which
        self._info = info
        self._queue = queue
        self._source = source
        self._asked_ns = asked_ns
        self._gate = gate_of(which.choice)
        self._carrier = which.carrier(info.epoch, Level(info.next_sequence, info.next_number))
        self._upstream_epoch = info.epoch
        self._caught_up_ns = time.monotonic_ns()
        self._bell = PollableDoorbell()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Guards the receiver and the books, so that these can be told of from one moment."""
        self._receiver: NodeReceiver | None = None
        self._position: Position | None = None
        self._made: deque[Encoded | EpochChange] = deque()
        """On its way into the queue."""
        self._last: set[int] = set()
        """Numbers among them that end their epoch."""
        self._restart: tuple[Restart, float] | None = None
        """A restart that waits for its description, and until when."""
        self._books = Ledger("bridge", "packets")
        self._former = Ledger("upstream", "packets")
        """The books of receivers that were given up."""
        self.turned_ns: int | None = None
        """When its thread last went round; it wakes at least as often as a request or a report is due."""
        self._trouble = ""
        self._trouble_until_s = 0.0
        self._attached = info.attached
        self.reads_ahead = True
        self.held_ns = 0
        self._counters = {"batches": 0, "bytes": 0, "outages": 0, "clock_steps": 0}
        self._commander = ThreadPoolExecutor(1, thread_name_prefix="usbcast-bridge-commands")
        self._commanding = 0

    # What a node uses

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"usbcast-bridge-{self._which.local}", daemon=True)
        self._thread.start()

    def stop(self, *, drain: bool = True) -> None:  # noqa: ARG002 - what the upstream holds stays there
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()
        self._commander.shutdown(cancel_futures=True)
        self._bell.close()

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have the upstream's device do it, in order with other commands."""
        refusal = ""
        if not self._which.commands:
            refusal = f"the bridge does not forward commands to {self._which.endpoint}"
        elif self._commanding >= MAX_COMMANDS:
            refusal = f"{MAX_COMMANDS} commands are already waiting for {self._which.endpoint}: try again"
        elif self._stopping.is_set():
            refusal = "the bridge is stopping"
        if refusal:
            refused: Future[pb.CommandReply] = Future()
            refused.set_exception(CommandFailed(refusal))
            return refused
        forwarded = pb.CommandRequest()
        forwarded.CopyFrom(request)
        forwarded.stream = self._which.stream
        self._commanding += 1
        answer = self._commander.submit(self._forward, forwarded)
        answer.add_done_callback(self._answered)
        return answer

    @property
    def identity(self) -> DeviceIdentity | None:
        device = self._info.device
        if not device.ByteSize():
            return None
        return DeviceIdentity(
            device.vendor_id, device.product_id, device.serial, device.manufacturer, device.product, device.bus_path
        )

    @property
    def attached(self) -> bool:
        """Whether the device is, as far as is known."""
        return self._attached and self._source.silent_since_ns is None

    @property
    def problem(self) -> str:
        since_ns = self._source.silent_since_ns
        if since_ns is None:
            return self._trouble
        silent_s = (time.monotonic_ns() - since_ns) / 1e9
        return self._trouble or f"{self._which.endpoint} has not answered for {silent_s:.0f} s: still reconnecting"

    @property
    def counters(self) -> Mapping[str, int]:
        return self._counters

    def reading_host(self) -> ReadingHost:
        """The host that reads the device: the upstream's, or one behind that."""
        receiver = self._receiver
        clock = receiver.clock if receiver is not None else None
        return ReadingHost(
            self._info.reader_host_id or self._info.host_id,
            clock.ahead_ns(time.time_ns()) if clock is not None else None,
            clock.uncertainty_ns if clock is not None else 0,
        )

    def ledgers(self) -> Sequence[Ledger]:
        """What came of the upstream, and what became of it here."""
        with self._lock:
            upstream = Ledger.from_proto(self._former.to_proto())
            receiver = self._receiver
            if receiver is not None:
                _add(upstream, receiver.ledger())
                self._books.counters["behind"] = receiver.behind
                self._books.counters["lag_us"] = receiver.lag_ns // 1000
            # By its own account the receiver skipped them for the newest; that is what somebody chose.
            skipped = upstream.lost.pop(f"subscription: {SKIPPED}", 0)
            if skipped:
                upstream.overhead += skipped
                upstream.count(f"left out: {self._which.choice.reason}", skipped)
            self._books.held = sum(item.packet_count for item in self._made if isinstance(item, Encoded))
            self._books.counters.update(self._counters)
            return upstream, Ledger.from_proto(self._books.to_proto())

    # The thread

    def _run(self) -> None:
        which = self._which
        self._receive_from(which.start)
        try:
            while not self._stopping.is_set():
                self.turned_ns = time.monotonic_ns()
                with self._lock:
                    busy = self._turn()
                if not busy:
                    self._rest()
        except PeerError as error:
            log.error("stream %s: the bridge has stopped: %s", which.local, error)
            self._trouble = f"the bridge has stopped: {error}"
        except BaseException as error:
            log.exception("stream %s: the bridge has stopped", which.local)
            self._trouble = f"the bridge has stopped: {error}"
            raise
        finally:
            with self._lock:
                self._give_up()

    def _receive_from(self, start: str | Position) -> None:
        which = self._which
        deliver = "latest" if which.choice.latest_hz else "all"
        via = "notify" if which.choice.asks else which.via
        self._receiver = NodeReceiver(which.stream, which.endpoint, start, deliver, via, which.keys, self._gate)
        self._receiver.waiter.add(self._bell.fileno())

    def _give_up(self) -> None:
        """Let go of the receiver; its books stay."""
        if self._receiver is not None:
            _add(self._former, self._receiver.ledger())
            self._former.entered -= self._former.held  # they come again
            self._former.held = 0
            self._receiver.waiter.remove(self._bell.fileno())
            self._receiver.close()
            self._receiver = None

    def _turn(self) -> bool:
        """Take what has come and pass it on; True if there may be more at once."""
        if self._receiver is None:
            if time.monotonic() < self._trouble_until_s:
                return False
            self._receive_from(self._position or self._which.start)
        receiver = self._receiver
        assert receiver is not None
        try:
            receiver.pump()
        except UsbcastError as error:
            # The upstream answers, but not with the stream: it waits for its device, or is of another version.
            self._say(str(error))
            self._note_silence(1)
            self._give_up()
            return False
        silent_ns = receiver.silent_ns
        if silent_ns or receiver.info is not None:
            self._note_silence(silent_ns)
        if receiver.info is not None and receiver.info is not self._info:
            self._describe(receiver.info)
        self._pass_over(receiver, time.monotonic_ns())
        for _ in range(TURN_RECORDS):
            if not self._offer():
                return False
            if self._restart is not None:
                if not self._may_begin(receiver):
                    return False
                continue
            record = receiver.take_record()
            if record is None:
                return False
            self._take(record)
        return True

    def _rest(self) -> None:
        """Wait until there is something to do."""
        receiver = self._receiver
        if receiver is None:
            self._stopping.wait(TROUBLE_S / 10)
        elif self._made:
            self._stopping.wait(FULL_S)
        elif (rest_s := receiver.rest_s()) > 0 and receiver.may_sleep():
            receiver.waiter.wait(min(rest_s, 0.02 if self._restart else 0.1 if self._gate else rest_s))

    def _take(self, record: Record) -> None:
        match record:
            case Delivery():
                batch = record.batch
                if batch.epoch != self._upstream_epoch:
                    self._begin(batch.epoch)
                entered = batch.packet_count - record.skip
                self._books.enter(entered)
                self._position = Position(batch.epoch, batch.end_sequence, batch.number + 1)
                self._counters["batches"] += 1
                self._counters["bytes"] += len(batch.raw)
                for event in batch.events:
                    if event.kind in (pb.DeviceEvent.KIND_ATTACHED, pb.DeviceEvent.KIND_DETACHED):
                        self._attached = event.kind == pb.DeviceEvent.KIND_ATTACHED
                    elif event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED:
                        self._counters["clock_steps"] += 1
                if self._which.choice.latest_hz:
                    record.gaps = tuple(self._chosen(gap) for gap in record.gaps)
                made = self._carrier.deliver(record)
                left_out = entered - sum(one.packet_count for one in made)
                if left_out:
                    self._books.overhead += left_out
                    self._books.count(f"left out: {self._which.choice.reason}", left_out)
                if batch.end is not None:
                    self._last.add(made[-1].number)
                self._made.extend(made)
            case Gap():
                self._made.extend(self._carrier.lose(self._chosen(record)))
            case Restart():
                self._restart = record, time.monotonic() + DESCRIBED_S
            case _:
                pass  # silence is looked at all the time

    def _may_begin(self, receiver: NodeReceiver) -> bool:
        """Begin the epoch that waits, if there is its description, or none comes."""
        assert self._restart is not None
        restart, until_s = self._restart
        described = receiver.info is not None and receiver.info.epoch == restart.new_epoch
        if not described and time.monotonic() < until_s:
            return False
        self._restart = None
        self._position = Position(restart.new_epoch, 0, 0)
        self._begin(restart.new_epoch)
        return True

    def _begin(self, epoch: int) -> None:
        log.info("stream %s: %s has begun epoch %016x", self._which.local, self._which.endpoint, epoch)
        self._upstream_epoch = epoch
        self._carrier = self._which.carrier(epoch)
        self._made.append(EpochChange(self._carrier.epoch, describe(self._which.local, self._info)))

    def _chosen(self, gap: Gap) -> Gap:
        """The gap as it is told: what was skipped for the newest was left out on purpose."""
        if gap.reason != SKIPPED:
            return gap
        return replace(gap, stage="bridge", reason=self._which.choice.reason, on_purpose=True)

    def _pass_over(self, receiver: NodeReceiver, now_ns: int) -> None:
        """Leave out what the choice keeps the bridge from."""
        gate = self._gate
        if gate is None or self._which.choice.latest_hz or receiver.has_events or self._made:
            return
        if isinstance(gate, DemandGate):
            gate.asked_ns = self._asked_ns()
            due = not gate.is_open(now_ns) and now_ns - self._caught_up_ns >= IDLE_NS
        else:
            if not receiver.behind:
                self._caught_up_ns = now_ns
            due = now_ns - self._caught_up_ns >= PASS_OVER_NS
        if not due:
            return
        self._caught_up_ns = now_ns
        gap = receiver.pass_over("bridge", self._which.choice.reason)
        position = receiver.position
        if gap is not None and position is not None:
            self._position = position
            self._made.extend(self._carrier.lose(gap, position.next_number))

    def _offer(self) -> bool:
        """Give on what was made; False if the publisher has no room for it now."""
        while self._made:
            item = self._made[0]
            if isinstance(item, EpochChange):
                if not self._queue.renew(item):
                    return False
            else:
                if not self._queue.offer(item, last=item.number in self._last):
                    return False
                self._last.discard(item.number)
                self._books.leave(item.packet_count)
            self._made.popleft()
        return True

    def _describe(self, info: pb.StreamInfo) -> None:
        self._info = info
        self._attached = info.attached
        self._trouble = ""

    def _say(self, sentence: str) -> None:
        if sentence != self._trouble:
            log.warning("stream %s: %s", self._which.local, sentence)
        self._trouble = sentence
        self._trouble_until_s = time.monotonic() + TROUBLE_S

    def _note_silence(self, silent_ns: int) -> None:
        if not silent_ns:
            if self._source.silent_since_ns is not None:
                log.warning("stream %s: %s answers again", self._which.local, self._which.endpoint)
            self._source.silent_since_ns = None
        elif self._source.silent_since_ns is None:
            self._source.silent_since_ns = time.monotonic_ns() - silent_ns
            self._counters["outages"] += 1
            log.warning("stream %s: %s no longer answers", self._which.local, self._which.endpoint)

    def _forward(self, request: pb.CommandRequest) -> pb.CommandReply:
        with NodeClient(self._which.endpoint, keys=self._which.keys) as node:
            return node.command(request)

    def _answered(self, _answer: Future[pb.CommandReply]) -> None:
        self._commanding -= 1


def describe(local: str, info: pb.StreamInfo) -> Description:
    """The description of an upstream's stream, as it is called here."""
    return Description(
        local, info.profile_name, info.profile_toml, tuple(info.fields), info.packet_size, info.nominal_rate_hz
    )


def _add(total: Ledger, books: Ledger) -> None:
    """Add the books of one receiver to those of all before it."""
    total.entered += books.entered
    total.left += books.left
    total.overhead += books.overhead
    total.held += books.held
    for mine, theirs in ((total.lost, books.lost), (total.counters, books.counters)):
        for name, n in theirs.items():
            mine[name] = mine.get(name, 0) + n

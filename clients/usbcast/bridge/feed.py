"""The feed of one bridged stream: a thread that receives records from the upstream and offers batches to the relay of a node."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from usbcast.bridge.commands import CommandForwarder
from usbcast.bridge.gates import DemandGate, gate_of
from usbcast.bridge.restart import EpochTracker
from usbcast.bridge.upstream import Upstream
from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import SKIPPED, Delivery, Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.receiver import NodeReceiver
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.stream.batcher import Encoded
from usbcast_broker.stream.outlet import Source
from usbcast_broker.stream.reading_host import ReadingHost
from usbcast_broker.stream.relay import EpochChange, RelayQueue
from usbcast_schemas.errors import PeerError, UsbcastError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

MAX_RECORDS = 64
"""Records processed before the receiver is pumped again."""

FULL_S = 0.005
"""How long to wait while the relay's queue is full."""

TROUBLE_S = 1.0
"""How long to wait before asking again an upstream that answers but does not have the stream."""

PASS_OVER_NS = 2_000_000_000
"""How long a limit may hold batches back; then they are left out, and the newest comes next."""

IDLE_NS = 1_000_000_000
"""How often a stream that is carried on demand reports its position while nobody subscribes."""


class BridgedFeed:
    """Takes the place of the device of one stream. The node starts and stops it; any thread may read its state."""

    def __init__(
        self,
        which: Upstream,
        info: pb.StreamInfo,
        queue: RelayQueue,
        source: Source,
        asked_ns: Callable[[], int | None],
    ) -> None:
        self._which = which
        self._queue = queue
        self._source = source
        self._asked_ns = asked_ns
        self._gate = gate_of(which.choice)
        self._epochs = EpochTracker(which, info)
        self._caught_up_ns = time.monotonic_ns()
        self._bell = PollableDoorbell()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Guards the receiver and the ledgers, so that all ledgers are of one moment."""
        self._receiver: NodeReceiver | None = None
        self._position: Position | None = None
        self._made: deque[Encoded | EpochChange] = deque()
        """Items that wait for room in the queue."""
        self._last: set[int] = set()
        """Numbers of the batches in `_made` that end their epoch."""
        self._ledger = Ledger("bridge", "packets")
        self._former = Ledger("upstream", "packets")
        """The sum of the ledgers of the receivers that were closed."""
        self.turned_ns: int | None = None
        """When the thread last went through its loop; it does so at least as often as a request or a report is due."""
        self._trouble = ""
        self._trouble_until_s = 0.0
        self._attached = info.attached
        self.reads_ahead = True
        self.held_ns = 0
        self._counters = {"batches": 0, "bytes": 0, "outages": 0, "clock_steps": 0}
        self._commands = CommandForwarder(which, self._stopping)

    # Interface for the node

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
        self._commands.close()
        self._bell.close()

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have the upstream's device execute the command, in order with other commands."""
        return self._commands.forward(request)

    @property
    def identity(self) -> DeviceIdentity | None:
        device = self._epochs.info.device
        if not device.ByteSize():
            return None
        return DeviceIdentity(
            device.vendor_id, device.product_id, device.serial, device.manufacturer, device.product, device.bus_path
        )

    @property
    def attached(self) -> bool:
        """True if the device is attached, as far as the bridge knows."""
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
        """The host that reads the device: the upstream, or a node behind it."""
        receiver = self._receiver
        clock = receiver.clock if receiver is not None else None
        return ReadingHost(
            self._epochs.info.reader_host_id or self._epochs.info.host_id,
            clock.ahead_ns(time.time_ns()) if clock is not None else None,
            clock.uncertainty_ns if clock is not None else 0,
        )

    def ledgers(self) -> Sequence[Ledger]:
        """Ledgers of what the upstream sent, and of what the bridge made of it."""
        with self._lock:
            upstream = Ledger.from_proto(self._former.to_proto())
            receiver = self._receiver
            if receiver is not None:
                _add(upstream, receiver.ledger())
                self._ledger.counters["behind"] = receiver.behind
                self._ledger.counters["lag_us"] = receiver.lag_ns // 1000
            # The receiver counts as lost what it skipped for the newest packets; here that is the user's choice.
            skipped = upstream.lost.pop(f"subscription: {SKIPPED}", 0)
            if skipped:
                upstream.overhead += skipped
                upstream.count(f"left out: {self._which.choice.reason}", skipped)
            self._ledger.held = sum(item.packet_count for item in self._made if isinstance(item, Encoded))
            self._ledger.counters.update(self._counters)
            return upstream, Ledger.from_proto(self._ledger.to_proto())

    # The thread

    def _run(self) -> None:
        which = self._which
        self._receive_from(which.start)
        try:
            while not self._stopping.is_set():
                self.turned_ns = time.monotonic_ns()
                with self._lock:
                    busy = self._process()
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
                self._close_receiver()

    def _receive_from(self, start: str | Position) -> None:
        which = self._which
        deliver = "latest" if which.choice.latest_hz else "all"
        via = "notify" if which.choice.asks else which.via
        self._receiver = NodeReceiver(which.stream, which.endpoint, start, deliver, via, which.keys, self._gate)
        self._receiver.waiter.add(self._bell.fileno())

    def _close_receiver(self) -> None:
        """Close the receiver; keep its ledger."""
        if self._receiver is not None:
            _add(self._former, self._receiver.ledger())
            self._former.entered -= self._former.held  # the next receiver gets them again
            self._former.held = 0
            self._receiver.waiter.remove(self._bell.fileno())
            self._receiver.close()
            self._receiver = None

    def _process(self) -> bool:
        """Receive and publish what is there; return True if there may be more at once."""
        if self._receiver is None:
            if time.monotonic() < self._trouble_until_s:
                return False
            self._receive_from(self._position or self._which.start)
        receiver = self._receiver
        assert receiver is not None
        try:
            receiver.pump()
        except UsbcastError as error:
            # The upstream answers, but without the stream: it waits for its device, or has another version.
            self._note_trouble(str(error))
            self._note_silence(1)
            self._close_receiver()
            return False
        silent_ns = receiver.silent_ns
        if silent_ns or receiver.info is not None:
            self._note_silence(silent_ns)
        if receiver.info is not None and receiver.info is not self._epochs.info:
            self._describe(receiver.info)
        self._pass_over(receiver, time.monotonic_ns())
        for _ in range(MAX_RECORDS):
            if not self._offer():
                return False
            if self._epochs.is_waiting:
                if not self._begin_waiting(receiver):
                    return False
                continue
            record = receiver.take_record()
            if record is None:
                return False
            self._record(record)
        return True

    def _rest(self) -> None:
        """Wait until there is something to do."""
        receiver = self._receiver
        if receiver is None:
            self._stopping.wait(TROUBLE_S / 10)
        elif self._made:
            self._stopping.wait(FULL_S)
        elif (rest_s := receiver.rest_s()) > 0 and receiver.may_sleep():
            receiver.waiter.wait(min(rest_s, 0.02 if self._epochs.is_waiting else 0.1 if self._gate else rest_s))

    def _record(self, record: Record) -> None:
        """Make batches of a record, and count it."""
        match record:
            case Delivery():
                batch = record.batch
                if batch.epoch != self._epochs.epoch:
                    self._made.append(self._epochs.begin(batch.epoch))
                entered = batch.packet_count - record.skip
                self._ledger.enter(entered)
                self._position = Position(batch.epoch, batch.end_sequence, batch.number + 1)
                self._counters["batches"] += 1
                self._counters["bytes"] += len(batch.raw)
                for event in batch.events:
                    if event.kind in (pb.DeviceEvent.KIND_ATTACHED, pb.DeviceEvent.KIND_DETACHED):
                        self._attached = event.kind == pb.DeviceEvent.KIND_ATTACHED
                    elif event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED:
                        self._counters["clock_steps"] += 1
                if self._which.choice.latest_hz:
                    record.gaps = tuple(self._as_chosen(gap) for gap in record.gaps)
                made = self._epochs.carrier.deliver(record)
                left_out = entered - sum(one.packet_count for one in made)
                if left_out:
                    self._ledger.overhead += left_out
                    self._ledger.count(f"left out: {self._which.choice.reason}", left_out)
                if batch.end is not None:
                    self._last.add(made[-1].number)
                self._made.extend(made)
            case Gap():
                self._made.extend(self._epochs.carrier.lose(self._as_chosen(record)))
            case Restart():
                self._epochs.wait_for_description(record, time.monotonic())
            case _:
                pass  # `_process` watches for silence itself

    def _begin_waiting(self, receiver: NodeReceiver) -> bool:
        """Begin the epoch that waits; return False if it has to wait on."""
        change = self._epochs.begin_waiting(
            receiver.info.epoch if receiver.info is not None else None, time.monotonic()
        )
        if change is None:
            return False
        self._position = Position(self._epochs.epoch, 0, 0)
        self._made.append(change)
        return True

    def _as_chosen(self, gap: Gap) -> Gap:
        """Return the gap as it is published: packets skipped for the newest were left out on purpose."""
        if gap.reason != SKIPPED:
            return gap
        return replace(gap, stage="bridge", reason=self._which.choice.reason, on_purpose=True)

    def _pass_over(self, receiver: NodeReceiver, now_ns: int) -> None:
        """Leave out the packets that the choice has held back for too long."""
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
            self._made.extend(self._epochs.carrier.lose(gap, position.next_number))

    def _offer(self) -> bool:
        """Put what was made into the queue; return False if the queue is full."""
        while self._made:
            item = self._made[0]
            if isinstance(item, EpochChange):
                if not self._queue.renew(item):
                    return False
            else:
                if not self._queue.offer(item, last=item.number in self._last):
                    return False
                self._last.discard(item.number)
                self._ledger.leave(item.packet_count)
            self._made.popleft()
        return True

    def _describe(self, info: pb.StreamInfo) -> None:
        self._epochs.info = info
        self._attached = info.attached
        self._trouble = ""

    def _note_trouble(self, sentence: str) -> None:
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


def _add(total: Ledger, ledger: Ledger) -> None:
    """Add the ledger of one receiver to the sum of all before it."""
    total.entered += ledger.entered
    total.left += ledger.left
    total.overhead += ledger.overhead
    total.held += ledger.held
    for mine, theirs in ((total.lost, ledger.lost), (total.counters, ledger.counters)):
        for name, n in theirs.items():
            mine[name] = mine.get(name, 0) + n

"""The feed of one bridged stream: a thread that receives records from the upstream and offers batches to the relay of a node."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from usbcast.bridge.commands import CommandForwarder
from usbcast.bridge.gates import DemandGate, gate_of
from usbcast.bridge.listener import BridgeListener
from usbcast.bridge.upstream import Upstream
from usbcast.receiving.continuity import Position
from usbcast.receiving.receiver import NodeReceiver
from usbcast.receiving.resuming import ResumingReceiver
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.stream.outlet import Source
from usbcast_broker.stream.reading_host import ReadingHost
from usbcast_broker.stream.relay import RelayQueue
from usbcast_schemas.errors import PeerError, UsbcastError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

MAX_RECORDS = 64
"""Records processed before the receiver is pumped again."""

FULL_S = 0.005
"""How long to wait while the relay's queue is full."""

DESCRIBED_S = 0.02
"""How often to look for the description that a new epoch waits for."""

GATED_S = 0.1
"""How often to look at the gate of a stream that is carried in part."""

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
        self._listener = BridgeListener(which, info)
        self._caught_up_ns = time.monotonic_ns()
        self._bell = PollableDoorbell()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Guards the receiver and the listener, so that all ledgers are of one moment."""
        self._resuming = ResumingReceiver(self._receive_from, which.start, (UsbcastError,))
        self._resuming.watch(self._bell.fileno())
        self.turned_ns: int | None = None
        """When the thread last went through its loop; it does so at least as often as a request or a report is due."""
        self._trouble = ""
        self.reads_ahead = True
        self.held_ns = 0
        self._commands = CommandForwarder(which, self._stopping)

    def _receive_from(self, start: str | Position) -> NodeReceiver:
        which = self._which
        deliver = "latest" if which.choice.latest_hz else "all"
        via = "notify" if which.choice.asks else which.via
        return NodeReceiver(which.stream, which.endpoint, start, deliver, via, which.keys, self._gate)

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
        self._resuming.close()
        self._commands.close()
        self._bell.close()

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Have the upstream's device execute the command, in order with other commands."""
        return self._commands.forward(request)

    @property
    def identity(self) -> DeviceIdentity | None:
        device = self._listener.epochs.info.device
        if not device.ByteSize():
            return None
        return DeviceIdentity(
            device.vendor_id, device.product_id, device.serial, device.manufacturer, device.product, device.bus_path
        )

    @property
    def attached(self) -> bool:
        """True if the device is attached, as far as the bridge knows."""
        return self._listener.attached and self._source.silent_since_ns is None

    @property
    def problem(self) -> str:
        since_ns = self._source.silent_since_ns
        if since_ns is None:
            return self._trouble
        silent_s = (time.monotonic_ns() - since_ns) / 1e9
        return self._trouble or f"{self._which.endpoint} has not answered for {silent_s:.0f} s: still reconnecting"

    @property
    def counters(self) -> Mapping[str, int]:
        return self._listener.counters

    def reading_host(self) -> ReadingHost:
        """The host that reads the device: the upstream, or a node behind it."""
        info, clock = self._listener.epochs.info, self._resuming.receiver.clock
        return ReadingHost(
            info.reader_host_id or info.host_id,
            clock.ahead_ns(time.time_ns()) if clock is not None else None,
            clock.uncertainty_ns if clock is not None else 0,
        )

    def ledgers(self) -> Sequence[Ledger]:
        """Ledgers of what the upstream sent, and of what the bridge made of it."""
        with self._lock:
            upstream, figures = self._resuming.ledger(), {}
            upstream.stage = "upstream"
            if not self._resuming.is_away:
                receiver = self._resuming.receiver
                figures = {"behind": receiver.behind, "lag_us": receiver.lag_ns // 1000}
            return self._listener.ledgers(upstream, figures)

    # The thread

    def _run(self) -> None:
        which = self._which
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
                self._resuming.close()

    def _process(self) -> bool:
        """Receive and publish what is there; return True if there may be more at once."""
        resuming, listener = self._resuming, self._listener
        resuming.pump()
        self._watch()
        if resuming.is_away:
            return False
        self._pass_over(time.monotonic_ns())
        for _ in range(MAX_RECORDS):
            if not listener.offer(self._queue):
                return False
            if listener.epochs.is_waiting:
                info = resuming.receiver.info
                if not listener.begin_epoch(info.epoch if info is not None else None, time.monotonic()):
                    return False
                continue
            record = resuming.take_record()
            if record is None:
                return False
            listener.take(record, time.monotonic())
        return True

    def _rest(self) -> None:
        """Wait until there is something to do."""
        if self._listener.is_waiting:
            self._stopping.wait(FULL_S)
            return
        most_s = DESCRIBED_S if self._listener.epochs.is_waiting else GATED_S if self._gate else math.inf
        rest_s = min(self._resuming.park_s(), most_s)
        if rest_s > 0:
            self._resuming.waiter.wait(rest_s)

    def _pass_over(self, now_ns: int) -> None:
        """Leave out the packets that the choice has held back for too long."""
        gate, receiver = self._gate, self._resuming.receiver
        if gate is None or self._which.choice.latest_hz or receiver.has_events or self._listener.is_waiting:
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
            self._resuming.point.start = position
            self._listener.leave_out(gap, position.next_number)

    def _watch(self) -> None:
        """Note what the upstream says of the stream, whether it has it, and whether it is heard."""
        resuming = self._resuming
        if resuming.is_away:
            # The upstream answers, but without the stream: it waits for its device, or has another version.
            if resuming.trouble != self._trouble:
                log.warning("stream %s: %s", self._which.local, resuming.trouble)
            self._trouble = resuming.trouble
            self._note_silence(1)
            return
        info, silent_ns = resuming.receiver.info, resuming.receiver.silent_ns
        if silent_ns or info is not None:
            self._note_silence(silent_ns)
        if info is not None and info is not self._listener.epochs.info:
            self._listener.describe(info)
            self._trouble = ""

    def _note_silence(self, silent_ns: int) -> None:
        if not silent_ns:
            if self._source.silent_since_ns is not None:
                log.warning("stream %s: %s answers again", self._which.local, self._which.endpoint)
            self._source.silent_since_ns = None
        elif self._source.silent_since_ns is None:
            self._source.silent_since_ns = time.monotonic_ns() - silent_ns
            self._listener.counters["outages"] += 1
            log.warning("stream %s: %s no longer answers", self._which.local, self._which.endpoint)

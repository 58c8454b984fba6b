"""The recorder: one thread that reads every stream and appends to the store, until a limit is reached or it is stopped.

After a turn with records it sleeps for a moment, in which more accumulate: the ring holds them, and a recorder needs no low
latency. After a turn without any it waits as every reader does, until something comes or is due. While the store is paused it
reads nothing, so memory stays bounded and the ring decides what is lost.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usbcast.events import Gap
from usbcast.node.credentials import Keys
from usbcast.node.endpoints import is_stored
from usbcast.node.locate import endpoints
from usbcast.node.requests import NodeClient
from usbcast.receiving.continuity import Delivery, Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.resuming import wait_for_any
from usbcast.recording.claim import Claim
from usbcast.recording.entries import Annotation, Entry, annotation_entry
from usbcast.recording.policy import Limits
from usbcast.recording.store import Store, StoreOptions
from usbcast.recording.stream_recorder import StreamRecorder
from usbcast.service_manager import ServiceManager
from usbcast_schemas.errors import AccessRefused, NodeUnreachable, UsageError
from usbcast_schemas.registry import local_nodes

ACCUMULATE_S = 0.01
"""How long records accumulate before the next turn."""

LOOK_S = 0.05
"""How often to look at the limits and for a signal while nothing comes."""

MAX_RECORDS = 2000
"""Records read from one stream before the others are served."""

STALL_NS = 2_000_000_000
DISCOVER_NS = 2_000_000_000
HOUSEKEEPING_NS = 250_000_000
CONNECT_S = 10.0
CLOCK_S = 2.0
"""How long to wait for the clock offset of a node on another host, before the recording begins without it."""
PRE_BYTES = 256 * 1024 * 1024
"""Memory for records that wait for a trigger; beyond it the oldest are dropped and declared."""

Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a recording begins or continues."""

    recording: str = ""
    """Identifier of the recording to continue; empty for a new one."""
    positions: dict[str, Position] = field(default_factory=dict)
    written: tuple[tuple[int, Path], ...] = ()
    dropped_before: int = 0
    claim: Claim | None = None
    """Closed by the recorder when it ends."""


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record and for how long."""

    streams: tuple[str, ...]
    """Names, or patterns with `*` and `?`."""
    store: StoreOptions
    endpoint: str | None = None
    start: str = "now"
    via: str = "auto"
    limits: Limits = field(default_factory=Limits)
    wait: bool = False
    pre_s: float | None = None
    post_s: float | None = None
    keys: Keys = None

    @property
    def armed(self) -> bool:
        """True if it waits for triggers."""
        return self.pre_s is not None or self.post_s is not None


class Recorder:
    """`run` it; from other threads and signal handlers, `stop` and `trigger` it."""

    def __init__(self, options: RecordOptions, start: Start, tell: Tell) -> None:
        self.options = options
        self.taps: dict[str, StreamRecorder] = {}
        self.store = Store(
            options.store,
            self,
            start.recording or os.urandom(8).hex(),
            start.written,
            start.dropped_before,
            start.claim,
        )
        self.reason = ""
        self.refused: dict[str, str] = {}
        """Streams whose nodes refuse this recorder, each with the reason."""
        self._start = start
        self._tell = tell
        self._begun = False
        self._stopping = False
        """Not an Event: a signal handler sets it, possibly while this thread holds the Event's lock, and would wait for ever."""
        self._wanted_until_ns = 0
        self._triggered = False
        self._before: deque[tuple[int, StreamRecorder, Record, int]] = deque()
        self._before_bytes = 0
        self._discover_ns = self._house_ns = 0
        self._shown: Path | None = None
        self._awake_ns = 0
        self.manager = ServiceManager()

    def stop(self, reason: str) -> None:
        """Stop soon. Takes no lock, so a signal handler may call it at any point of the program."""
        self.reason = self.reason or reason
        self._stopping = True

    def trigger(self) -> None:
        """Record from --pre seconds ago until --post seconds from now."""
        self._triggered = True

    @property
    def packets(self) -> int:
        return sum(tap.packets for tap in self.taps.values())

    def run(self, look: Callable[[], None] = lambda: None) -> None:
        """Record until a limit is reached or `stop` is called; `look` is called several times a second.

        Raises StreamUnknown, NodeUnreachable, AccessRefused, RecordingError before the recording has begun; then it goes on.
        """
        try:
            self._connect()
            self._begun = True
            for tap in self.taps.values():
                tap.be_patient()
            begin_ns = self._awake_ns = time.monotonic_ns()
            self.store.tend(begin_ns, time.time_ns())
            self.manager.ready()
            was_busy = True
            while not self._stopping:
                now_ns, realtime_ns = time.monotonic_ns(), time.time_ns()
                self._look_for_stall(now_ns, realtime_ns)
                busy = self._process(now_ns, realtime_ns)
                self._tend(now_ns, realtime_ns, look)
                reached = self.options.limits.reached(
                    packets=self.packets,
                    elapsed_s=(now_ns - begin_ns) / 1e9,
                    realtime_ns=realtime_ns,
                    ended=bool(self.taps) and all(tap.ended for tap in self.taps.values()),
                )
                if reached:
                    self.stop(reached)
                elif not busy:
                    self._rest(may_park=not was_busy)
                was_busy = busy
            self._finish()
        finally:
            self.manager.stopping()
            for tap in self.taps.values():
                tap.close()
            if self._start.claim is not None:
                self._start.claim.close()

    # The Contents protocol of the store

    def heads(self, realtime_ns: int) -> Sequence[Entry]:
        entries = [entry for tap in self.taps.values() for entry in tap.head(realtime_ns)]
        return entries + [tap.clock(realtime_ns) for tap in self.taps.values()]

    def tails(self) -> dict[str, object]:
        return {name: tap.tail() for name, tap in self.taps.items()}

    def synced(self) -> None:
        for tap in self.taps.values():
            tap.note_synced()

    # One pass of the loop

    def _process(self, now_ns: int, realtime_ns: int) -> bool:
        """Process the records that have arrived; return True if there were any. While the store is paused, read none."""
        if self._triggered:
            self._triggered = False
            self._on_trigger(now_ns, realtime_ns)
        paused = self.store.paused
        busy = False
        for tap in list(self.taps.values()):
            tap.pump()
            if paused:
                tap.excuse_for(paused, now_ns)
                continue
            for entry in tap.described(realtime_ns):
                self.store.append(entry)
            for _ in range(MAX_RECORDS):
                record = tap.next_record()
                if record is None:
                    tap.pump()
                    record = tap.next_record()
                    if record is None:
                        tap.caught_up(now_ns)
                        break
                busy = True
                self._record(tap, record, now_ns, realtime_ns)
        if self.options.armed:
            self._forget(now_ns, realtime_ns)
        self._note_refusals(realtime_ns)
        return busy

    def _rest(self, *, may_park: bool) -> None:
        """Wait until a stream has something or something is due, if `may_park` and that takes a while; else accumulate."""
        resuming = [tap.resuming for tap in self.taps.values() if not tap.refused]
        is_reading = may_park and not (self.store.paused or self.options.armed)
        if not (is_reading and wait_for_any(resuming, LOOK_S)):
            time.sleep(ACCUMULATE_S)

    def _note_refusals(self, realtime_ns: int) -> None:
        """Report the streams whose nodes refuse this recorder; stop if no other stream is left."""
        for tap in self.taps.values():
            if tap.refused and tap.stream not in self.refused:
                self.refused[tap.stream] = tap.refused
                self._tell("warning", {"message": tap.refused, "stream": tap.stream})
                self.store.append(
                    annotation_entry(Annotation("refused", realtime_ns, tap.stream, {"reason": tap.refused}))
                )
                if all(one.refused or one.ended for one in self.taps.values()):
                    self.stop(tap.refused)

    def _record(self, tap: StreamRecorder, record: Record, now_ns: int, realtime_ns: int) -> None:
        if isinstance(record, Gap) or (isinstance(record, Delivery) and record.gaps):
            self._look_for_stall(time.monotonic_ns(), realtime_ns)
        if not self.options.armed or now_ns < self._wanted_until_ns:
            for entry in tap.entries(record, realtime_ns):
                self.store.append(entry)
            return
        size = len(record.batch.raw) + 200 if isinstance(record, Delivery) else 200
        self._before.append((now_ns, tap, record, size))
        self._before_bytes += size

    def _forget(self, now_ns: int, realtime_ns: int) -> None:
        """Skip records older than --pre; and when a trigger's time is over, close its segment."""
        if self._wanted_until_ns and now_ns >= self._wanted_until_ns:
            self._wanted_until_ns = 0
            self.store.rotate("the trigger's time is over", now_ns, realtime_ns)
        oldest_ns = now_ns - int((self.options.pre_s or 0) * 1e9)
        while self._before and (self._before[0][0] < oldest_ns or self._before_bytes > PRE_BYTES):
            _, tap, record, size = self._before.popleft()
            self._before_bytes -= size
            for entry in tap.skip(record, realtime_ns):
                self.store.append(entry)

    def _on_trigger(self, now_ns: int, realtime_ns: int) -> None:
        self._tell("trigger", {})
        self.store.append(annotation_entry(Annotation("trigger", realtime_ns)))
        self._wanted_until_ns = now_ns + max(1, int((self.options.post_s or 0) * 1e9))
        while self._before:
            _, tap, record, _ = self._before.popleft()
            for entry in tap.entries(record, realtime_ns):
                self.store.append(entry)
        self._before_bytes = 0

    def _tend(self, now_ns: int, realtime_ns: int, look: Callable[[], None]) -> None:
        was_paused = self.store.paused
        self.store.tend(now_ns, realtime_ns)
        if self.store.paused and not was_paused:
            self._tell("warning", {"message": f"recording pauses: {self.store.paused}"})
        if self.store.path != self._shown:
            self._shown = self.store.path
            if self._shown is not None:
                self._tell("segment", {"file": str(self._shown)})
        self.manager.alive(now_ns)
        if now_ns >= self._house_ns:
            self._house_ns = now_ns + HOUSEKEEPING_NS
            self._watch_rates(now_ns, realtime_ns)
            for tap in self.taps.values():
                if tap.clock_has_changed:
                    self.store.append(tap.clock(realtime_ns))
            look()
        if now_ns >= self._discover_ns and self.options.endpoint is None:
            self._discover_ns = now_ns + DISCOVER_NS
            self._discover([name for node in local_nodes() for name in node.streams])

    def _watch_rates(self, now_ns: int, realtime_ns: int) -> None:
        if self.options.armed or self.store.paused:
            return
        for tap in self.taps.values():
            if tap.ended:
                continue
            said = tap.rate_watch.look(tap.packets, tap.info.nominal_rate_hz if tap.info else 0.0, now_ns / 1e9)
            if said:
                sentence = f"stream {tap.stream} {said}"
                self._tell("warning", {"message": sentence, "stream": tap.stream})
                self.store.append(annotation_entry(Annotation("rate", realtime_ns, tap.stream, {"reason": sentence})))

    def _look_for_stall(self, now_ns: int, realtime_ns: int) -> None:
        """Detect that this process did not run for a while; called before a gap is written, as that may be its cause."""
        duration_ns, self._awake_ns = now_ns - self._awake_ns, now_ns
        if duration_ns <= STALL_NS:
            return
        reason = (
            f"the recorder did not run for {duration_ns / 1e9:.1f} s: stopped, suspended, or kept waiting by the disk"
        )
        self._tell("warning", {"message": reason})
        self.store.append(
            annotation_entry(Annotation("stalled", realtime_ns, "", {"duration_ns": duration_ns, "reason": reason}))
        )
        for tap in self.taps.values():
            tap.excuse_for(reason, now_ns)

    def _finish(self) -> None:
        """Process what has arrived until now, and close the store."""
        now_ns, realtime_ns = time.monotonic_ns(), time.time_ns()
        if self.options.limits.packets is None and not self.store.paused:
            self._process(now_ns, realtime_ns)
        while self._before:
            _, tap, record, _ = self._before.popleft()
            for entry in tap.skip(record, realtime_ns):
                self.store.append(entry)
        for tap in self.taps.values():
            for entry in tap.finish(realtime_ns):
                self.store.append(entry)
        self.store.close(self.reason, now_ns, realtime_ns)

    # Streams

    def _connect(self) -> None:
        """Subscribe to the streams, and wait until all named streams have answered."""
        named = [name for name in self.options.streams if not _is_pattern(name)]
        for name in named:
            self._add(name)
        if len(named) < len(self.options.streams):
            self._discover(self._described())
            if not self.taps and not self.options.wait:
                raise UsageError(
                    f"no stream is called {' or '.join(self.options.streams)}: `usbcast list` shows what there is; "
                    "--wait starts anyway"
                )
        deadline = time.monotonic() + CONNECT_S
        missing = [] if self.options.wait else list(self.taps.values())
        while missing and not self._stopping:
            for tap in missing:
                tap.pump()
                if tap.refused:
                    raise AccessRefused(tap.refused)
            missing = [tap for tap in missing if tap.receiver.info is None]
            if missing and time.monotonic() > deadline:
                raise NodeUnreachable(f"{missing[0].receiver.unreachable(CONNECT_S)} --wait starts anyway")
            if missing:
                time.sleep(ACCUMULATE_S)
        patience_s = 0.0 if is_stored(self.options.endpoint or "") else CLOCK_S  # a store has no clock
        deadline = min(deadline, time.monotonic() + patience_s)
        while any(tap.receiver.info is not None and tap.receiver.clock is None for tap in self.taps.values()):
            if self._stopping or time.monotonic() > deadline:
                break
            time.sleep(ACCUMULATE_S)
        for tap in self.taps.values():
            for entry in tap.described(time.time_ns()):
                del entry  # the first segment's head has it

    def _described(self) -> list[str]:
        if self.options.endpoint is not None and is_stored(self.options.endpoint):
            from usbcast.jetstream.listing import stored

            return [one.info.stream for one in stored(self.options.endpoint)]
        names = []
        for address in endpoints(self.options.endpoint):
            with contextlib.suppress(NodeUnreachable), NodeClient(address, keys=self.options.keys) as node:
                names += [info.stream for info in node.describe()]
        return names

    def _discover(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.taps and any(
                _is_pattern(pattern) and fnmatch.fnmatchcase(name, pattern) for pattern in self.options.streams
            ):
                self._add(name)

    def _add(self, name: str) -> None:
        start = self._start.positions.get(name) or self.options.start
        if self.options.armed and not isinstance(start, Position):
            start = "now"
        patient = self.options.wait or self._begun
        tap = StreamRecorder(name, self.options.endpoint, start, self.options.via, self.options.keys, patient=patient)
        if self.store.path is not None:  # a new stream, which the head of this segment does not describe
            for entry in tap.head(time.time_ns()):
                self.store.append(entry)
        self.taps[name] = tap


def _is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")

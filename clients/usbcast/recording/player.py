"""The player: a recording as the feed of a node. One thread plays all streams, in recorded order, so they stay in step."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from usbcast.recording.files import Stored
from usbcast.recording.reader import Recording
from usbcast.recording.restamp import Restamper, Shift
from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.node import Node
from usbcast_broker.stream.outlet import Description
from usbcast_broker.stream.relay import Relay, RelayQueue
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.errors import CommandFailed, RecordingError, UsageError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

AHEAD_NS = 2_000_000
"""A batch due within this time is played at once, as a sleep would be longer."""
_FULL_S = 0.005


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """How to play. `speed` 0 plays as fast as the node accepts."""

    speed: float = 1.0
    loop: bool = False
    start_ns: int | None = None
    until_ns: int | None = None
    original_times: bool = False
    step: bool = False
    """Play one batch for each call of `Player.step`."""


class PlayedFeed:
    """Feed that takes the place of the device of one stream."""

    def __init__(self, player: Player, info: pb.StreamInfo) -> None:
        self._player = player
        device = info.device
        self._identity = DeviceIdentity(
            device.vendor_id, device.product_id, device.serial, device.manufacturer, device.product, device.bus_path
        )
        self._counters = {"batches": 0, "packets": 0, "bytes": 0, "clock_steps": 0}
        self.attached = True
        self.reads_ahead = True
        self.held_ns = 0
        self.problem = ""
        self.turned_ns: int | None = None  # the player may wait for a step for ever

    def start(self) -> None:
        self._player.start()

    def stop(self, *, drain: bool = True) -> None:  # noqa: ARG002 - there is nothing to drain: the recording stays
        self._player.stop()

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        """Refuse the command: there is no device."""
        answer: Future[pb.CommandReply] = Future()
        answer.set_exception(
            CommandFailed(f"stream {request.stream!r} is played from a recording: there is no device to command")
        )
        return answer

    def ledgers(self) -> tuple[Ledger, ...]:
        return ()  # the recording has its own ledger

    @property
    def identity(self) -> DeviceIdentity | None:
        return self._identity

    @property
    def counters(self) -> Mapping[str, int]:
        return self._counters

    def note(self, batch: EncodedBatch) -> None:
        self._counters["batches"] += 1
        self._counters["packets"] += batch.packet_count
        self._counters["bytes"] += len(batch.payload)
        for event in batch.events:
            if event.kind == pb.DeviceEvent.KIND_DETACHED:
                self.attached = False
            elif event.kind == pb.DeviceEvent.KIND_ATTACHED:
                self.attached = True
            elif event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED:
                self._counters["clock_steps"] += 1


@dataclass(slots=True)
class _Part:
    """One stream that is played."""

    feed: PlayedFeed
    queue: RelayQueue
    restamper: Restamper


class Player:
    """Adds the recording's streams to a node, before the node starts; plays when it has started.

    Raises UsageError for a stream that the recording does not have.
    """

    def __init__(self, node: Node, recording: Recording, options: PlayOptions, streams: tuple[str, ...] = ()) -> None:
        self._recording = recording
        self._options = options
        self._parts: dict[str, _Part] = {}
        self._stopping = threading.Event()
        self._steps = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self.finished = threading.Event()
        """Set when the recording is over, or the player has failed."""
        self.error: BaseException | None = None
        self.position_ns = 0
        """Time of the recording that is being played."""
        self.passes = 0
        for stream in streams or tuple(recording.streams):
            self._add(node, recording.info(stream))
        if not self._parts:
            raise UsageError("this recording has no stream to play: `usbcast verify` says what it contains")

    def start(self) -> None:
        """Begin to play; further calls do nothing, as every stream's feed makes one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="usbcast-player", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._steps.release()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> None:
        """Play the next batch."""
        self._steps.release()

    def _add(self, node: Node, info: pb.StreamInfo) -> None:
        made: list[tuple[PlayedFeed, RelayQueue]] = []

        def make_feed(queue: RelayQueue) -> PlayedFeed:
            made.append((PlayedFeed(self, info), queue))
            return made[0][0]

        relay: Relay = node.add_relay(
            Description(
                info.stream, info.profile_name, info.profile_toml, tuple(info.fields), info.packet_size,
                info.nominal_rate_hz * (self._options.speed or 1),
            ),
            make_feed,
        )  # fmt: skip
        feed, queue = made[0]
        self._parts[info.stream] = _Part(feed, queue, Restamper(relay.outlet.epoch))

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                played = self._pass()
                self.passes += 1
                if not self._options.loop or not played:
                    break
        except RecordingError as error:
            self.error = error
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.finished.set()

    def _pass(self) -> bool:
        """Play once from beginning to end; False if there was nothing."""
        shift: Shift | None = None
        for part in self._parts.values():
            part.restamper.join()
        options = self._options
        for stored, batch in self._batches():
            if shift is None or _is_clock_step(batch):  # keep the pace, whatever the clock was set to
                shift = Shift(stored.log_time_ns, time.time_ns(), time.monotonic_ns(), options.speed or 1.0)
            if options.step:
                self._steps.acquire()
            elif options.speed:
                self._wait_until(shift.monotonic_ns + shift.elapsed_ns(stored.log_time_ns))
            if self._stopping.is_set():
                break
            if options.step or not options.speed:  # the pace is not the recorded one, so the time is now
                shift = Shift(stored.log_time_ns, time.time_ns(), time.monotonic_ns())
            self.position_ns = stored.log_time_ns
            self._play(self._parts[stored.stream], batch, None if options.original_times else shift)
        return shift is not None

    def _batches(self) -> Iterator[tuple[Stored, EncodedBatch]]:
        for stored in self._recording.stored(start_ns=self._options.start_ns, until_ns=self._options.until_ns):
            if isinstance(stored.item, EncodedBatch) and stored.stream in self._parts:
                yield stored, stored.item

    def _play(self, part: _Part, batch: EncodedBatch, shift: Shift | None) -> None:
        part.feed.note(batch)
        played = part.restamper.restamp(batch, shift)
        while played is not None and not part.queue.offer(played):
            if self._stopping.wait(_FULL_S):
                return

    def _wait_until(self, monotonic_ns: int) -> None:
        rest_ns = monotonic_ns - time.monotonic_ns()
        if rest_ns > AHEAD_NS:
            self._stopping.wait(rest_ns / 1e9)


def _is_clock_step(batch: EncodedBatch) -> bool:
    return any(event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED for event in batch.events)

"""The node: puts feeds, pipelines, publisher and replay service together, and sees to their life from start to end."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import zmq

from usbcast_broker.access import binding
from usbcast_broker.access.authenticator import Authenticator
from usbcast_broker.access.rate_limit import RateLimiter
from usbcast_broker.access.refusals import Refusals
from usbcast_broker.announcing import Announcement, addresses_to_announce
from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.framing import Assembler
from usbcast_broker.serving.publisher import Publisher
from usbcast_broker.serving.replies import ReplayService
from usbcast_broker.settings import NodeSettings
from usbcast_broker.stream.batcher import Batcher
from usbcast_broker.stream.host_queue import HostQueue
from usbcast_broker.stream.intake import Intake, StreamIntake
from usbcast_broker.stream.outlet import Description, Outlet, Source
from usbcast_broker.stream.pipeline import Feed, Pipeline, Stream
from usbcast_broker.stream.reading_host import reading_host_of
from usbcast_broker.stream.relay import Relay, RelayFeed, RelayQueue
from usbcast_schemas.errors import ConfigError, DeviceError
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import key_text
from usbcast_schemas.lan import Announced
from usbcast_schemas.places import host_id, ring_directory, runtime_directory
from usbcast_schemas.profile import Profile
from usbcast_schemas.registry import NodeRecord, Registration
from usbcast_schemas.ring import sweep
from usbcast_schemas.sockets import split_tcp
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

STILL_CATCHING_UP_S = 0.5
MAX_LINGER_S = 10.0
STOPPED_LINGER_S, HURRIED_LINGER_S, AWAITED_LINGER_S = 0.1, 0.5, 3.0
"""How long a node answers after its streams have ended. One that is told to stop does so for a moment, or up to three seconds
while a live subscription still lacks the end; one that ends by itself waits for subscribers that catch up."""

MakeFeed = Callable[[Intake], Feed]


class Node:
    """One process's streams. `add` them, `start`, and `stop`; a context manager that stops.

    Raises EndpointTaken, ConfigError, KeysError, RingUnavailable and, for a device that cannot be opened, DeviceError on start.
    """

    def __init__(self, settings: NodeSettings) -> None:
        for address in filter(None, (settings.bind, settings.publish)):
            binding.check_exposure(address, insecure=settings.insecure, keyed=bool(settings.keys))
        keyring = Keyring(Path(settings.keys)) if settings.keys else None
        if keyring is not None:
            keyring.own(), keyring.clients()  # what is wrong with them is said before anything is made
        self._rings = ring_directory()
        for path in (*sweep(self._rings), *binding.sweep(runtime_directory())):
            log.info("removed a file that a dead node left: %s", path)
        self.settings = settings
        self.endpoint = settings.bind
        self.data_endpoints: list[str] = []
        self.pipelines: list[Stream] = []
        self.last_health: list[pb.StreamHealth] = []
        """The books as they stood when the node had stopped."""
        self._bound: list[str] = []
        self._wanted: dict[str, DeviceIdentity] = {}
        self._registration: Registration | None = None
        self._stopped = False
        self._announce_at: list[str] = []
        self._announcement: Announcement | None = None
        self._cleanup = contextlib.ExitStack()
        self._context = zmq.Context()
        self._started_realtime_ns = time.time_ns()
        self._version = version("usbcast")
        self._name = os.urandom(4).hex()
        refusals = Refusals()
        self._authenticator = Authenticator(self._context, keyring, refusals, settings.max_connections)
        self._publisher = Publisher(self._context, self._authenticator)
        identity = pb.HealthReply(node_version=self._version, node_pid=os.getpid())
        self._service = ReplayService(
            self._context,
            self._authenticator,
            refusals,
            RateLimiter(settings.max_requests_per_s),
            self._describe,
            self._publisher.health,
            self._publisher.notify_now,
            identity,
        )

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("the node was stopped")

    def add(self, profile: Profile, make_feed: MakeFeed, *, stream: str | None = None) -> Pipeline:
        """Add the stream that `make_feed` fills and `profile` describes. Before `start`. Raises ConfigError, RingUnavailable."""
        settings = self.settings
        name = stream or profile.name
        if any(line.outlet.stream == name for line in self.pipelines):
            raise ConfigError(f"two streams have the name {name!r}: give each profile its own name ([stream] name)")
        self._check_room(name, profile.largest_packet)
        outlet = self._outlet(
            Description(
                stream=name,
                profile_name=profile.stream.name,
                profile_toml=profile.toml,
                fields=profile.to_field_protos(),
                packet_size=profile.packet_size,
                nominal_rate_hz=profile.stream.rate_hz,
            )
        )

        def doorbell() -> None:
            self._publisher.on_data(pipeline)  # by the feed's thread; there is no feed before there is the pipeline

        queue = HostQueue(settings.host_queue_size, doorbell, outlet.coalescer)
        batcher = Batcher(outlet.epoch, max_bytes=settings.batch_size, max_age_ns=int(settings.batch_age_ms * 1e6))
        self._cleanup.callback(outlet.close)
        device = profile.device
        self._wanted[name] = DeviceIdentity(
            device.vendor_id, device.product_id, device.serial or "", "", device.product or "", device.bus_path or ""
        )
        intake = StreamIntake(queue, outlet.writer, doorbell)
        pipeline = Pipeline(make_feed(intake), queue, Assembler(profile), batcher, outlet)
        self.pipelines.append(pipeline)
        return pipeline

    def add_relay(
        self,
        description: Description,
        make_feed: Callable[[RelayQueue], RelayFeed],
        *,
        epoch: int | None = None,
        source: Source | None = None,
        level: tuple[int, int] = (0, 0),
    ) -> Relay:
        """Add a stream whose batches `make_feed` brings encoded, of `epoch` if they have one already. Also while it runs.

        `level` is the sequence and the number of the batch that its source comes to next.

        Raises ConfigError, RingUnavailable.
        """
        if any(line.outlet.stream == description.stream for line in self.pipelines):
            raise ConfigError(f"this node already has a stream {description.stream!r}")
        self._check_room(description.stream, description.packet_size)
        queue = RelayQueue(lambda: self._publisher.on_data(relay))
        outlet = self._outlet(description, epoch, source, level)
        relay = Relay(make_feed(queue), queue, outlet, self._outlet)
        self._cleanup.callback(self._close_outlet, relay)
        self.pipelines.append(relay)
        if self._registration is not None:
            self._service.adopt(relay)
            relay.feed.start()
            self._register()
        return relay

    def start(self) -> None:
        """Bind, open the devices, and begin to publish. Nothing is left behind if it raises."""
        try:
            self._authenticator.start()
            self.endpoint = self._service.start(self.pipelines, self.settings.bind)
            self._bound.append(self.endpoint)
            self._announce_at = addresses_to_announce(self.settings.announce, self.endpoint)
            self.data_endpoints = self._start_publisher()
            self._bound += self.data_endpoints
            for pipeline in self.pipelines:
                pipeline.feed.start()
            self._service.admit()
            self._register()
        except BaseException:
            self.stop("the node could not start")
            raise

    def stop(self, reason: str, *, linger_s: float = 0.0, hurry: threading.Event | None = None) -> None:
        """End every stream, wait for those who catch up, at most as long as told, and leave nothing behind; idempotent.

        Once `hurry` is set, before or while it waits, it does so no longer than half a second, and three for live
        subscriptions that have not got the end yet.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._announcement is not None:
            self._announcement.close()
        for pipeline in self.pipelines:
            self.end(pipeline, reason)
        self._linger(linger_s, hurry)
        if self._publisher.running:
            self.last_health = self.health()
        self._publisher.stop()
        self._service.stop()
        self._authenticator.stop()
        self._cleanup.close()
        self._context.destroy(linger=300)
        binding.release(self._bound)

    def end(self, pipeline: Stream, reason: str) -> None:
        """Stop the feed of one stream and publish its end, even of one that hangs; idempotent."""
        try:
            pipeline.feed.stop(drain=True)
        except DeviceError as error:
            log.error("%s", error)
        self._publisher.end(pipeline, reason)

    def health(self) -> list[pb.StreamHealth]:
        """The books of every stream, with what subscriptions reported."""
        streams = self._publisher.health()
        for stream in streams:
            stream.subscriptions.extend(self._service.reports(stream.stream))
        return streams

    def asked_monotonic_ns(self, stream: str) -> int | None:
        """Return when a client last described, fetched or reported on this stream by its name; None if none has."""
        return self._service.asked_monotonic_ns(stream)

    @property
    def problem(self) -> str:
        """Why the whole node has failed; empty while all is well."""
        for what, error in (
            ("publishing", self._publisher.problem),
            ("answering", self._service.problem),
            ("letting clients in", self._authenticator.problem),
        ):
            if error is not None:
                return f"{what} has stopped: {error}"
        return ""

    def stalled(self, limit_s: float) -> str:
        """Which thread has not gone round for longer than `limit_s`, in one sentence; empty while all go round."""
        now_ns = time.monotonic_ns()
        threads = [("publishing", self._publisher.turned_ns), ("answering", self._service.turned_ns)]
        threads += [(f"the feed of {line.outlet.stream}", line.feed.turned_ns) for line in self.pipelines]
        for what, turned_ns in threads:
            if turned_ns is not None and now_ns - turned_ns > limit_s * 1e9:
                return f"{what} has stood still for {(now_ns - turned_ns) / 1e9:.1f} s"
        return ""

    def _check_room(self, stream: str, packet_size: int) -> None:
        if packet_size * 4 > self.settings.ring_size:
            raise ConfigError(
                f"stream {stream!r} has packets of up to {packet_size} bytes and ring_size is "
                f"{self.settings.ring_size}: a ring must hold at least four, so give --ring-size {packet_size * 4}"
            )

    def _outlet(
        self,
        description: Description,
        epoch: int | None = None,
        source: Source | None = None,
        level: tuple[int, int] = (0, 0),
    ) -> Outlet:
        return Outlet(
            description,
            self._rings,
            ring_bytes=self.settings.ring_size,
            ring_slots=self.settings.ring_slots,
            epoch=epoch,
            source=source,
            level=level,
        )

    def _register(self) -> None:
        """Let clients find this node, with all the streams that it has now: those here, and where wished those on the LAN."""
        streams = tuple(pipeline.outlet.stream for pipeline in self.pipelines)
        key = key_text(self._authenticator.own.public) if self._authenticator.own else ""
        record = NodeRecord(self.endpoint, os.getpid(), streams, key)
        before, self._registration = self._registration, Registration(record)
        if before is None:
            self._cleanup.callback(self._unregister)
        else:
            before.close()
        announced = Announced(self._name, streams, self._version, key=key)
        tcp = split_tcp(self.endpoint)
        if self._announcement is not None:
            self._announcement.update(announced)
        elif self._announce_at and tcp is not None:
            self._announcement = Announcement(self._announce_at, tcp[1], announced)

    def _unregister(self) -> None:
        if self._registration is not None:
            self._registration.close()

    @staticmethod
    def _close_outlet(relay: Relay) -> None:
        relay.outlet.close()  # that of its last epoch

    def _start_publisher(self) -> list[str]:
        local = f"ipc://{runtime_directory()}/data-{os.getpid()}-{os.urandom(4).hex()}"
        tcp = split_tcp(self.endpoint)
        if self.settings.publish:
            chosen = [self.settings.publish]
        elif tcp is None:
            chosen = [f"{self.endpoint}.data"]
        else:
            # Nobody asked for the next port, so a free one serves as well: clients learn it from describe.
            chosen = [f"tcp://{tcp[0]}:{tcp[1] + 1}", f"tcp://{tcp[0]}:0"]
        # A path that is too long for a local socket is no reason not to serve: tcp does as well.
        fits = len(local.removeprefix("ipc://")) <= zmq.IPC_PATH_MAX_LEN
        return self._publisher.start(self.pipelines, [chosen, [local]] if fits else [chosen])

    def _describe(self, pipeline: Stream) -> pb.StreamInfo:
        # Of a device that has never been there, what the profile wants is known.
        info = pipeline.outlet.describe(pipeline.feed.identity or self._wanted.get(pipeline.outlet.stream))
        info.data_endpoints.extend(self.data_endpoints)
        info.host_id = host_id()
        info.reader_host_id = reading_host_of(pipeline.feed).host_id
        info.attached = pipeline.feed.attached
        if pipeline.outlet.source is not None:
            info.source_silent_ns = pipeline.outlet.source_silent_ns(time.monotonic_ns())
        info.clock_steps = pipeline.feed.counters.get("clock_steps", 0)
        info.node_version = self._version
        info.node_pid = os.getpid()
        info.started_realtime_ns = self._started_realtime_ns
        if isinstance(pipeline, Pipeline):  # what is passed on was made to the measure of somebody else
            info.batch_bytes = self.settings.batch_size
        return info

    def _linger(self, linger_s: float, hurry: threading.Event | None) -> None:
        """Go on answering for `linger_s`, and beyond it as long as somebody is still fetching."""
        begin = time.monotonic()
        while linger_s > 0:
            now = time.monotonic()
            catching_up = now - self._service.last_fetch_monotonic < STILL_CATCHING_UP_S
            most_s = max(linger_s, MAX_LINGER_S if catching_up else 0.0)
            if hurry is not None and hurry.is_set():
                most_s = min(linger_s, self._hurried_s(catching_up=catching_up))
            if now - begin >= most_s:
                break
            time.sleep(0.05)

    def _hurried_s(self, *, catching_up: bool) -> float:
        if self._service.is_awaited:
            return AWAITED_LINGER_S
        return HURRIED_LINGER_S if catching_up else STOPPED_LINGER_S


__all__ = ["MakeFeed", "Node"]

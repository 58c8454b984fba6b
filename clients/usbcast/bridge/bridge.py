"""The bridge: streams of other nodes on a node of its own, including streams that appear later."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from usbcast.bridge.feed import BridgedFeed
from usbcast.bridge.options import BridgeOptions, UpstreamAddress
from usbcast.bridge.restart import describe
from usbcast.bridge.upstream import Upstream
from usbcast.node.requests import NodeClient
from usbcast_broker.node import Node
from usbcast_broker.stream.outlet import Source
from usbcast_broker.stream.relay import RelayQueue
from usbcast_schemas.errors import ConfigError, NodeUnreachable, UsageError, UsbcastError
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often to ask an upstream for new streams."""

LOOK_TIMEOUT_S = 6.0
"""Connecting and asking take five round trips, and on a bad link a retransmission by the kernel."""

MAX_STREAMS = 256
"""Streams of one bridge. Each has a thread, a connection and a ring."""


@dataclass(frozen=True, slots=True)
class Bridged:
    """One stream of a bridge."""

    upstream: UpstreamAddress
    stream: str
    """Name at the upstream."""
    local: str


class Bridge:
    """Adds streams to a node: `connect`, start the node, `watch`; at the end `stop`, then stop the node.

    Setting `stopping` ends every wait.
    """

    def __init__(self, node: Node, options: BridgeOptions, stopping: threading.Event | None = None) -> None:
        self._node = node
        self._options = options
        self._adding = threading.Lock()
        self._stopping = stopping or threading.Event()
        self._watchers: list[threading.Thread] = []
        self._warned: set[str] = set()
        self.streams: dict[str, Bridged] = {}
        """Bridged streams by their name at the bridge."""

    def connect(self, *, wait: bool = False) -> None:
        """Add the streams that the upstreams have now; with `wait`, missing ones may appear later.

        Raises NodeUnreachable, UsageError if no stream matches, ConfigError if two streams would have one name.
        """
        for upstream in self._options.upstreams:
            try:
                self._look(upstream)
            except NodeUnreachable as error:
                if self._stopping.is_set():
                    return
                if not wait:
                    raise NodeUnreachable(f"{error}; --wait starts the bridge anyway") from None
                log.warning("%s", error)
        if not self.streams and not wait:
            raise UsageError(
                f"no stream of {', '.join(upstream.endpoint for upstream in self._options.upstreams)} is called "
                f"{' or '.join(self._options.streams)}: `usbcast list -e ENDPOINT` shows what there is; "
                "--wait starts the bridge anyway"
            )

    def watch(self) -> None:
        """Start adding streams as they appear."""
        for upstream in self._options.upstreams:
            watcher = threading.Thread(target=self._watch, args=(upstream,), name="usbcast-bridge-watch", daemon=True)
            watcher.start()
            self._watchers.append(watcher)

    def stop(self) -> None:
        """Stop adding streams; the owner of the node stops the node."""
        self._stopping.set()
        for watcher in self._watchers:
            watcher.join()

    def _watch(self, upstream: UpstreamAddress) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self._look(upstream)
            except UsbcastError as error:
                if not self._stopping.is_set():
                    self._warn_once(str(error))

    def _look(self, upstream: UpstreamAddress) -> None:
        """Add the streams of `upstream` that match and are not bridged yet."""
        asking = NodeClient(
            upstream.endpoint, timeout_s=LOOK_TIMEOUT_S, keys=self._options.keys, stopping=self._stopping
        )
        with asking as client:
            described = client.describe()
        for info in described:
            if self._options.wants(info.stream) and not self._stopping.is_set():
                with self._adding:
                    self._add(upstream, info)

    def _add(self, upstream: UpstreamAddress, info: pb.StreamInfo) -> None:
        local = upstream.local(info.stream)
        there = self.streams.get(local)
        if there == Bridged(upstream, info.stream, local):
            return
        if there is not None:
            raise ConfigError(
                f"{there.upstream.endpoint} and {upstream.endpoint} both have a stream that would be called {local!r} "
                f"here: give the streams of one of them a prefix, as in lab={upstream.endpoint}"
            )
        if len(self.streams) >= MAX_STREAMS:
            raise ConfigError(f"a bridge carries at most {MAX_STREAMS} streams: choose some of them with --streams")
        options = self._options
        source = Source(upstream.endpoint)
        which = Upstream(
            upstream.endpoint, info.stream, local, options.start, options.via, options.commands, options.keys,
            options.choices.of(local),
        )  # fmt: skip

        def make_feed(queue: RelayQueue) -> BridgedFeed:
            return BridgedFeed(which, info, queue, source, lambda: self._node.asked_monotonic_ns(local))

        epoch = which.carrier(info.epoch).epoch
        # A subscriber that joins before the first batch begins at the upstream's position, and is owed nothing before it.
        level = (info.next_sequence, info.next_number) if epoch == info.epoch else (0, 0)
        self._node.add_relay(describe(local, info), make_feed, epoch=epoch, source=source, level=level)
        self.streams[local] = Bridged(upstream, info.stream, local)

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            if len(self._warned) >= MAX_STREAMS:
                self._warned.clear()
            self._warned.add(sentence)
            log.warning("%s", sentence)

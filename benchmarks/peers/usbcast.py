"""usbcast itself: a node whose feed hands in prepared transfers, and `usbcast.subscribe`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

import usbcast
from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import PACKET_BYTES, Task
from usbcast_broker.flow import DeviceIdentity, Transfer
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.stream.batcher import DEFAULT_MAX_BYTES
from usbcast_broker.stream.intake import Intake
from usbcast_schemas.profile import parse_profile
from usbcast_schemas.v1 import usbcast_pb2 as pb

STREAM = "bench"
PROFILE = f"""\
[stream]
name = "{STREAM}"
[device]
vendor_id = 0x1209
product_id = 0x0001
endpoint = 0x81
[framing]
method = "fixed"
size = {PACKET_BYTES}
"""


class HandedIn:
    """A feed whose transfers are handed in by the run, in the thread of the run: that thread stands for the device's."""

    identity: DeviceIdentity | None = None
    attached = True
    reads_ahead = True
    problem = ""
    held_ns = 0

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self._bytes = 0
        self._zeros = os.open("/dev/zero", os.O_RDONLY)

    @property
    def counters(self) -> Mapping[str, int]:
        return {"bytes": self._bytes}

    def start(self) -> None:
        return

    def stop(self, *, drain: bool = True) -> None:  # noqa: ARG002
        return

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        raise NotImplementedError(request)

    def close(self) -> None:
        os.close(self._zeros)

    def hand_in(self, data: bytes) -> None:
        self._bytes += len(data)
        self.intake.put(Transfer(data, time.time_ns(), time.monotonic_ns()))
        # A USB read lets the other threads of the process run, so this stands for it: 0.3 µs.
        os.pread(self._zeros, 1, 0)


class NodePublisher(SendingPublisher):
    """`natural`: batches as they come of load, up to the default size. Else a block is a batch."""

    def __init__(self, task: Task, *, natural: bool) -> None:
        use_directory(task)
        size_bytes = DEFAULT_MAX_BYTES if natural else task.block_bytes
        self._node = Node(NodeSettings(bind="tcp://127.0.0.1:0", batch_size=size_bytes, linger_s=0.0))
        feeds: list[HandedIn] = []

        def make_feed(intake: Intake) -> HandedIn:
            feeds.append(HandedIn(intake))
            return feeds[0]

        self._pipeline = self._node.add(parse_profile(PROFILE, "the benchmark's profile"), make_feed)
        self._node.start()
        self.address = self._node.endpoint
        self._feed = feeds[0]

    def send(self, block: bytes) -> None:
        self._feed.hand_in(block)

    def figures(self) -> dict[str, float]:
        return {"batches": self._pipeline.outlet.next_number}

    def close(self) -> None:
        self._node.stop("the run is over")
        self._feed.close()
        unbalanced = [sentence for stream in self._node.last_health for sentence in stream.discrepancies]
        assert not unbalanced, unbalanced


def use_directory(task: Task) -> None:
    """Keep the run's rings and records in its own directory."""
    os.environ["USBCAST_RING_DIR"] = f"{task.directory}/rings"
    os.environ["USBCAST_RUNTIME_DIR"] = f"{task.directory}/run"


def subscribe(
    task: Task, take: Take, delivered: Delivered, *, via: str, deliver: str = "all", copy: bool = True
) -> None:
    use_directory(task)
    with usbcast.subscribe(STREAM, task.address, via=via, deliver=deliver, copy=copy) as stream:
        for event in stream.events():
            if isinstance(event, usbcast.Batch):
                if take(event.payload):
                    return
            elif isinstance(event, usbcast.Gap):
                delivered.declared_lost += event.count


def _peer(
    label: str, via: str, deliver: str = "all", *, natural: bool = False, copy: bool = True, works: str = ""
) -> Peer:
    flow = "never waits; what the ring no longer holds is a declared gap"
    return Peer(
        label,
        partial(NodePublisher, natural=natural),
        partial(subscribe, via=via, deliver=deliver, copy=copy),
        flow,
        works=frozenset(works.split()),
    )


PEERS = {
    "usbcast-ring": _peer("usbcast, ring", "ring", works="lag throughput fanout idle slow memory"),
    "usbcast-ring-in-place": _peer("usbcast, ring, read in place", "ring", copy=False, works="throughput fanout"),
    "usbcast-ring-natural": _peer("usbcast, ring, batches as they come", "ring", natural=True, works="throughput"),
    "usbcast-ring-latest": _peer("usbcast, ring, newest only", "ring", "latest", natural=True, works="slow"),
    "usbcast-push": _peer("usbcast, push", "push", works="lag throughput fanout idle slow memory"),
    "usbcast-push-natural": _peer("usbcast, push, batches as they come", "push", natural=True, works="throughput"),
}

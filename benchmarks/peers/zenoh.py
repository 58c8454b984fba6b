"""Zenoh: a session in each process, peer to peer, without scouting; over tcp, or with payloads in shared memory."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import zenoh
import zenoh.shm

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import Task

KEY = "bench/data"
POOL_BYTES = 64 * 1024 * 1024


def _session(task: Task, *, listen: bool, shared_memory: bool) -> Any:
    config = zenoh.Config()
    endpoint = f"tcp/127.0.0.1:{task.port}"
    for key, value in (
        ("mode", "peer"),
        ("scouting/multicast/enabled", False),
        ("scouting/gossip/enabled", False),
        ("listen/endpoints", [endpoint] if listen else []),
        ("connect/endpoints", [] if listen else [endpoint]),
        ("transport/shared_memory/enabled", shared_memory),
    ):
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


class ZenohPublisher(SendingPublisher):
    def __init__(self, task: Task, *, shared_memory: bool) -> None:
        self._session = _session(task, listen=True, shared_memory=shared_memory)
        self._publisher = self._session.declare_publisher(KEY, congestion_control=zenoh.CongestionControl.BLOCK)
        if shared_memory:
            self._pool = zenoh.shm.ShmProvider.default_backend(max(POOL_BYTES, 4 * task.window * task.block_bytes))
            self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
        self._shared_memory = shared_memory

    def send(self, block: bytes) -> None:
        if self._shared_memory:
            buffer = self._pool.alloc(len(block), self._policy)
            buffer[:] = block
            self._publisher.put(buffer)
        else:
            self._publisher.put(block)

    def close(self) -> None:
        self._session.close()


def subscribe(task: Task, take: Take, delivered: Delivered, *, shared_memory: bool) -> None:  # noqa: ARG001
    session = _session(task, listen=False, shared_memory=shared_memory)
    subscriber = session.declare_subscriber(KEY, zenoh.handlers.FifoChannel(task.window))
    for sample in subscriber:
        # Python gets a copy in either case: the binding has no view of a shared buffer.
        if take(sample.payload.to_bytes()):
            break
    session.close()


FLOW = "holds up the publisher (congestion control: block)"
PEERS = {
    "zenoh-tcp": Peer(
        "Zenoh, tcp", partial(ZenohPublisher, shared_memory=False), partial(subscribe, shared_memory=False), FLOW
    ),
    "zenoh-shm": Peer(
        "Zenoh, shared memory",
        partial(ZenohPublisher, shared_memory=True),
        partial(subscribe, shared_memory=True),
        FLOW,
    ),
}

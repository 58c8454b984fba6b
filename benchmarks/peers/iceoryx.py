"""iceoryx2: shared memory, a pool of samples lent to writer and readers, and an event service that wakes the readers."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import iceoryx2 as iox

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import Task

WAIT_MS = 200
MAX_SUBSCRIBERS = 64


def _node() -> Any:
    iox.set_log_level(iox.LogLevel.Error)
    return iox.NodeBuilder.new().create(iox.ServiceType.Ipc)


def _services(node: Any, task: Task) -> tuple[Any, Any]:
    name = iox.ServiceName.new(Path(task.directory).name)
    # Room for the window, so that nothing is overwritten and nobody is held up within it.
    data = (
        node.service_builder(name)
        .publish_subscribe(iox.Slice[ctypes.c_uint8])
        .max_subscribers(MAX_SUBSCRIBERS)
        .max_nodes(MAX_SUBSCRIBERS + 2)
        .enable_safe_overflow(False)
        .subscriber_max_buffer_size(task.window + 4)
        .open_or_create()
    )
    events = (
        node.service_builder(name)
        .event()
        .max_listeners(MAX_SUBSCRIBERS)
        .max_nodes(MAX_SUBSCRIBERS + 2)
        .open_or_create()
    )
    return data, events


class IceoryxPublisher(SendingPublisher):
    def __init__(self, task: Task) -> None:
        self._node = _node()
        data, events = _services(self._node, task)
        self._publisher = data.publisher_builder().initial_max_slice_len(task.block_bytes).create()
        self._notifier = events.notifier_builder().create()

    def send(self, block: bytes) -> None:
        sample = self._publisher.loan_slice_uninit(len(block))
        ctypes.memmove(sample.payload_ptr, block, len(block))
        sample.assume_init().send()
        self._notifier.notify()


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    node = _node()
    data, events = _services(node, task)
    subscriber = data.subscriber_builder().create()
    listener = events.listener_builder().create()
    wait = iox.Duration.from_millis(WAIT_MS)
    while True:
        sample = subscriber.receive()
        if sample is None:
            listener.timed_wait(wait)
            continue
        # In place. As plain bytes: Python compares views of another format item by item.
        if take(sample.payload().as_memory_view().cast("B")):
            return


PEERS = {"iceoryx2": Peer("iceoryx2", IceoryxPublisher, subscribe, "holds up the publisher (no safe overflow)")}

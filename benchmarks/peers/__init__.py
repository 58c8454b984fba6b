"""The products that are measured: one module each, behind one small interface, so that all do the same work.

A peer is a module with PEERS, its variants by name. Everything that a variant needs is imported when it is loaded, not before.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from shutil import which
from typing import Protocol

from benchmarks.blocks import Buffer
from benchmarks.task import Task

Take = Callable[[Buffer], bool]
"""Called with each delivery, for as long as it returns False."""


@dataclass
class Delivered:
    """What a subscriber knows beside what it delivers."""

    declared_lost: int = 0
    """Packets that the product itself said were lost."""


class Publisher(Protocol):
    address: str
    """What a subscriber needs to find it, beside the task."""

    def run(self, script: Iterator[bytes]) -> None:
        """Publish block after block, each as soon as it is there, until there are no more."""

    def figures(self) -> dict[str, float]:
        """What only this product can say."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Peer:
    """One product in one way of using it."""

    label: str
    publisher: Callable[[Task], Publisher]
    subscribe: Callable[[Task, Take, Delivered], None]
    flow: str
    """What it does when a subscriber does not keep up, as configured here."""
    server: Callable[[Task], Sequence[str]] | None = None
    """The command of its broker, which listens on the task's port."""
    works: frozenset[str] = frozenset(("lag", "throughput", "fanout", "idle", "slow"))
    """Which kinds of work it takes part in."""


class SendingPublisher(ABC):
    """Base of publishers that are called with each block."""

    address = ""

    @abstractmethod
    def send(self, block: bytes) -> None: ...

    def run(self, script: Iterator[bytes]) -> None:
        send = self.send
        for block in script:
            send(block)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        return


MODULES: dict[str, tuple[str, str, str]] = {
    # name: (module, package whose version is told, program that it needs)
    "usbcast-ring": ("usbcast", "usbcast", ""),
    "usbcast-ring-in-place": ("usbcast", "usbcast", ""),
    "usbcast-ring-natural": ("usbcast", "usbcast", ""),
    "usbcast-ring-latest": ("usbcast", "usbcast", ""),
    "usbcast-push": ("usbcast", "usbcast", ""),
    "usbcast-push-natural": ("usbcast", "usbcast", ""),
    "device-fixed": ("device", "usbcast", ""),
    "device-sync": ("device", "usbcast", ""),
    "pyzmq-ipc": ("pyzmq", "pyzmq", ""),
    "pyzmq-tcp": ("pyzmq", "pyzmq", ""),
    "iceoryx2": ("iceoryx", "iceoryx2", ""),
    "zenoh-tcp": ("zenoh", "eclipse-zenoh", ""),
    "zenoh-shm": ("zenoh", "eclipse-zenoh", ""),
    "lsl": ("lsl", "pylsl", ""),
    "nats": ("nats", "nats-py", "nats-server"),
    "redis": ("redis", "redis", "redis-server"),
    "mqtt": ("mqtt", "paho-mqtt", "mosquitto"),
    "cyclonedds": ("cyclonedds", "cyclonedds", ""),
}


def load(name: str) -> Peer:
    module = importlib.import_module(f"benchmarks.peers.{MODULES[name][0]}")
    peers: dict[str, Peer] = module.PEERS
    return peers[name]


def missing(name: str) -> str:
    """Why a peer cannot be measured here; empty if it can."""
    _, package, program = MODULES[name]
    try:
        version(package)
    except PackageNotFoundError:
        return f"{package} is not installed"
    if program and program_path(program) is None:
        return f"there is no {program} on this machine"
    return ""


def program_path(program: str) -> str | None:
    """Where a broker's program is; Debian keeps some in a place that is not everybody's."""
    return which(program) or which(program, path="/usr/sbin:/usr/local/sbin")


def version_of(name: str) -> str:
    return version(MODULES[name][1])

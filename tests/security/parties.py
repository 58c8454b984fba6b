"""A keyed node in this process, and parties with keys of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from tests.support.nodes import Account, Served, check_packets, eventually, serving, small, take_until
from usbcast import NodeClient
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import ClientKey, Rights
from usbcast_schemas.sockets import encrypt

AT_ONCE_S = 2.0
"""Within about a second; twice that on a busy machine."""


@dataclass
class Keyed:
    """The node, its keyring, and where its clients keep theirs."""

    served: Served
    ring: Keyring
    home: Path

    @property
    def endpoint(self) -> str:
        return self.served.endpoint

    @property
    def data_endpoint(self) -> str:
        return next(endpoint for endpoint in self.served.node.data_endpoints if endpoint.startswith("tcp"))

    def client(self, name: str, rights: Rights | None = None) -> Keyring:
        """A client that knows the node, and has these rights there; None: the node has never heard of it."""
        made = Keyring.create(self.home / name, name)
        made.trust(self.endpoint, self.ring.own().public)
        if rights is not None:
            self.ring.allow(ClientKey(made.own().public, name, rights))
        return made

    def refused(self) -> dict[str, int]:
        """What the node has refused, by reason."""
        with NodeClient(self.endpoint, keys=self.ring.directory) as node:
            return dict(node.health().refused)

    def counts(self, reason: str) -> int:
        """Wait until the node has refused something for this reason; how often by then."""
        return eventually(lambda: self.refused().get(reason, 0), reason, AT_ONCE_S)


@contextmanager
def keyed(home: Path, **device: Any) -> Iterator[Keyed]:
    """A node with keys, and a device made by `SimulatorConfig(**device)`."""
    ring = Keyring.create(home / "lab", "lab")
    with serving(settings=small(keys=str(ring.directory)), **{"rate_hz": 500, **device}) as served:
        yield Keyed(served, ring, home)


@contextmanager
def bystander(served: Served, keys: Keyring | None = None) -> Iterator[None]:
    """Somebody who is welcome, receives by push all the while, and misses nothing."""
    begun, stop = threading.Event(), threading.Event()
    account = Account(0)

    def take() -> None:
        with served.subscribe("push", start=0, keys=keys.directory if keys else None) as subscription:
            take_until(subscription, account, lambda: account.delivered > 0)
            begun.set()
            take_until(subscription, account, stop.is_set)
            goal = served.published
            take_until(subscription, account, lambda: (account.next or 0) >= goal)

    thread = threading.Thread(target=take)
    thread.start()
    assert begun.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert (account.gaps, account.begin) == ([], 0)
    assert check_packets(account.payload, 112) == list(range(account.delivered))


@contextmanager
def intruder(kind: int, endpoint: str, keys: Keyring | None = None, node: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    """A raw socket, without the care that usbcast's own take; with `keys`, encrypted for the owner of `node`."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    if keys is not None:
        encrypt(socket, keys.own(), node)
    if kind == zmq.SUB:
        socket.subscribe(b"")
    socket.connect(endpoint)
    with contextlib.closing(socket):
        yield socket

"""Choice of the receiver for an endpoint: a node's, or a server's that stores streams."""

from __future__ import annotations

from typing import Protocol

from usbcast.batch import Batch
from usbcast.clock.offset import ClockOffset
from usbcast.node.credentials import Credentials, Keys
from usbcast.node.endpoints import is_stored, parse
from usbcast.receiving.continuity import Position
from usbcast.receiving.event_builder import Event, Record
from usbcast.receiving.receiver import NodeReceiver
from usbcast.receiving.subscribe_options import check_options
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.errors import NodeUnreachable, UsageError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb


class Receiver(Protocol):
    """A stream being received, as the shells around it use it. It never waits; used by one thread."""

    stream: str
    info: pb.StreamInfo | None
    waiter: Waiter
    keys: Credentials | None
    """What is shown to a node; None without."""

    def pump(self) -> bool:
        """Take what has come and do what is due; whether `take` has something."""

    def take(self) -> Event | None: ...
    def take_record(self) -> Record | None: ...
    @property
    def lag_ns(self) -> int: ...
    @property
    def clock(self) -> ClockOffset | None: ...
    @property
    def joined(self) -> bool: ...
    @property
    def via(self) -> str: ...
    @property
    def silent(self) -> bool: ...
    def wait(self, most_s: float) -> Batch | None:
        """Wait for the next batch while there is nothing else to do; None if `pump` and the others must be called."""

    def park_s(self) -> float:
        """Return the seconds that one may wait on `waiter` at once; 0 if `pump`, `rest_s` and `may_sleep` must be called."""

    def may_sleep(self) -> bool: ...
    def rest_s(self) -> float: ...
    def ledger(self) -> Ledger: ...
    def unreachable(self, timeout_s: float) -> NodeUnreachable: ...
    def close(self) -> None: ...


def receive(
    stream: str,
    endpoint: str | None,
    start: str | int | Position,
    deliver: str,
    via: str,
    keys: Keys = None,
    *,
    copy: bool = True,
) -> Receiver:
    """Begin to receive `stream`. Raises UsageError for a wrong argument, KeysError for keys of no use."""
    if not isinstance(copy, bool):
        raise UsageError(f"copy is {copy!r}: True or False is allowed")
    if endpoint is None or not is_stored(endpoint):
        return NodeReceiver(stream, endpoint, start, deliver, via, keys, copy=copy)
    if keys is not None:
        raise UsageError(f"keys are for nodes, but {parse(endpoint)} is a NATS server: leave the keys out")
    address = parse(endpoint)
    check_options(stream, start, deliver, via)
    if via != "auto":
        raise UsageError(f"via is {via!r}: {address} can be read in one way only, so leave via at 'auto'")
    from usbcast.jetstream import require_nats

    require_nats()
    from usbcast.jetstream.receiver import StoreReceiver

    return StoreReceiver(stream, address, start, deliver)

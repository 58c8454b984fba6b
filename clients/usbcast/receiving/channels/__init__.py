"""Channels to receive by: push (the data topic), notify (the notification topic, then fetch) and ring (shared memory)."""

from __future__ import annotations

from typing import Protocol

from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.engine.protocols import StreamReader


class Sink(Protocol):
    """Where a channel puts what comes."""

    def live(self, batch: EncodedBatch) -> None:
        """Take a batch that came."""

    def known(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool) -> None:
        """Note how far the stream is known to have come."""

    def malformed(self, error: Exception) -> None:
        """Count a message that the contract does not allow."""

    @property
    def full(self) -> bool:
        """True if the sink takes no more for now."""


class Channel(Protocol):
    """One channel by which one stream is received. Used by one thread."""

    via: str
    can_fetch: bool
    """True if missing batches can be fetched; False if the channel already reads everything that a fetch would."""

    @property
    def reader(self) -> StreamReader:
        """Delivers what comes next as long as that is plain batches in order; `pump` takes everything else from there."""

    def pump(self, sink: Sink) -> None:
        """Take what has come, until the sink is full; never wait."""

    @property
    def has_more(self) -> bool:
        """True if there is something that was not taken."""

    def check(self) -> None:
        """Raise AccessRefused if the node does not let this client in."""

    @property
    def rest_s(self) -> float:
        """How long `check` has nothing to do, if nothing comes."""

    def may_sleep(self) -> bool:
        """Ask to be woken; False if something has come meanwhile."""

    @property
    def heard_ns(self) -> int:
        """When the node last gave a sign of life, on this host's monotonic clock."""

    @property
    def news(self) -> int:
        """Number of batches, or of notifications of some, that have come. Only where `can_fetch`."""

    @property
    def rests(self) -> bool:
        """True if the last message said how far the stream has come: the next one may be a heartbeat. Only where `can_fetch`."""

    @property
    def source_silent_ns(self) -> int:
        """For how long the node, a bridge, has heard nothing of where it has the stream from; 0 if it hears."""

    @property
    def over(self) -> bool:
        """True if nothing more will ever come by this channel."""

    def close(self) -> None: ...

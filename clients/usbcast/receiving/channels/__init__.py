"""The ways to receive: push (the data topic), notify (the notification topic, then fetch) and ring (shared memory)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from usbcast_schemas.batch import EncodedBatch

if TYPE_CHECKING:
    from usbcast_schemas._native import Follower


class Sink(Protocol):
    """Where a way puts what comes."""

    def live(self, batch: EncodedBatch) -> None:
        """A batch came."""

    def known(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool) -> None:
        """The stream is known to have come so far."""

    def malformed(self, error: Exception) -> None:
        """Something came that the contract does not allow."""

    @property
    def full(self) -> bool:
        """Whether enough has come for now."""


class Channel(Protocol):
    """One way to receive one stream. Used by one thread."""

    via: str
    follower: Follower | None
    """Takes what simply goes on, of a ring from `slot` on, which is then said to be `passed`; None where nothing does."""
    can_fetch: bool
    """Whether what is missing can be had by fetching: not where the way already reads all that a fetch would."""

    def pump(self, sink: Sink) -> None:
        """Take what has come, until the sink is full; never wait."""

    @property
    def slot(self) -> int:
        """What is to be taken next, of a ring."""

    def passed(self, batches: int) -> None:
        """So many were taken by the follower."""

    @property
    def left_over(self) -> bool:
        """Whether something that has come was left for `pump`."""

    @property
    def has_more(self) -> bool:
        """Whether there is something that was not taken."""

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
    def source_silent_ns(self) -> int:
        """For how long the node, a bridge, has heard nothing of where it has the stream from; 0 if it hears."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come by this way, whatever the node has to say."""

    def close(self) -> None: ...

"""The fast path: how a subscription takes plain batches that simply follow, with no other work for each of them.

The native core takes such a batch in one call and keeps a tally, which continuity and the ledger take over before anybody
looks at them. It refuses everything else, which then takes the slow path: the channel's `pump` and continuity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usbcast.batch import Batch
from usbcast.receiving.channels import Channel
from usbcast.receiving.continuity import Continuity, Delivery
from usbcast.receiving.event_builder import Event, EventBuilder, Record
from usbcast.receiving.waiting import Waiter

if TYPE_CHECKING:
    from usbcast_schemas._native import Follower


class FastPath:
    """The fast path of one receiver: open between two calls of `pump`, while nothing waits that must be delivered first."""

    def __init__(self, core: Continuity, event_builder: EventBuilder, waiter: Waiter) -> None:
        self._waiter_fd = waiter.fileno()
        self._core = core
        self._event_builder = event_builder
        self._channel: Channel | None = None
        self._follower: Follower | None = None

    def follow(self, channel: Channel | None) -> None:
        """Use `channel` from now on, if it has a fast path; None for no channel."""
        self.close()
        self._channel = channel
        self._follower = channel.follower if channel is not None else None

    def take(self) -> Event | None:
        """The next event, if there is one."""
        if self._follower is not None:
            batch = self._follower.next(Batch, self._event_builder.context)
            if batch is not None:
                if self._event_builder.dejitter is not None:
                    self._event_builder.learn_times(batch.encoded)
                return batch
        return self._event_builder.take()

    def take_record(self) -> Record | None:
        """As `take`, but batches as they were published, those without packets too. One of the two is used, not both."""
        if self._follower is not None:
            batch = self._follower.next()
            if batch is not None:
                return Delivery(batch)
        return self._event_builder.take_record()

    def wait(self, most_s: float) -> Batch | None:
        """As `take`, but sleep up to `most_s` until a batch comes; None if something other than a batch needs attention."""
        if self._follower is None:
            return None
        batch = self._follower.wait(self._waiter_fd, most_s, Batch, self._event_builder.context)
        if batch is not None and self._event_builder.dejitter is not None:
            self._event_builder.learn_times(batch.encoded)
        return batch

    def park_s(self) -> float:
        """Return the seconds that one may sleep with nothing else to do before; 0 if there is something, or a batch has come."""
        return self._follower.doze() if self._follower is not None else 0.0

    @property
    def was_woken(self) -> bool:
        """True if the reader slept, and something other than a batch woke it."""
        return self._follower is not None and self._follower.dozed

    @property
    def is_open(self) -> bool:
        """Whether `take` looks for what comes."""
        return self._follower is not None and self._follower.is_open

    def close(self) -> bool:
        """Stop taking batches and hand the tally to continuity and the ledger; return True if any batch was taken."""
        went = self._follower.close() if self._follower is not None else None
        if went is None:
            return False
        assert self._channel is not None
        batches, packets, *delivered = went
        self._channel.passed(batches)
        self._core.passed(batches, packets)
        self._event_builder.passed(*delivered)
        return bool(batches)

    @property
    def goes_on(self) -> bool:
        """True if nothing known prevents opening it again; the next batch may still be refused."""
        if self._follower is None or self._follower.refused or self._channel is None or self._channel.left_over:
            return False
        return self._expected() is not None

    def open(self, until_ns: int, park_until_ns: int) -> bool:
        """Open the fast path if possible; return True if there is something to take in a ring.

        The first batch taken after `until_ns` is the last; nobody may sleep beyond `park_until_ns`.
        """
        expected = self._expected()
        if self._follower is None or self._channel is None or expected is None:
            return False
        return self._follower.open(self._channel.slot, *expected, until_ns, park_until_ns)

    def _expected(self) -> tuple[int, int, int] | None:
        return self._core.expected() if self._event_builder.is_clear else None


__all__ = ["FastPath"]

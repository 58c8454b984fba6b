"""FastPath: how a subscription takes what simply goes on without anything else being done for each batch.

The native core takes such a batch in one call and keeps a tally, which continuity and the books take over before anybody
looks at them. Whatever else comes it refuses, and that goes the long way: through the way's `pump` and continuity.
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
    """Of one receiver. It is open between two calls of its `pump`, while nothing waits that would have to go first."""

    def __init__(self, core: Continuity, event_builder: EventBuilder, waiter: Waiter) -> None:
        self._waiter_fd = waiter.fileno()
        self._core = core
        self._event_builder = event_builder
        self._channel: Channel | None = None
        self._follower: Follower | None = None

    def follow(self, channel: Channel | None) -> None:
        """From now on it is `channel` that may be followed, if that can be."""
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
        """As `take`, after sleeping where there is nothing and nothing else to do; None if something else is to be looked at."""
        if self._follower is None:
            return None
        batch = self._follower.wait(self._waiter_fd, most_s, Batch, self._event_builder.context)
        if batch is not None and self._event_builder.dejitter is not None:
            self._event_builder.learn_times(batch.encoded)
        return batch

    def park_s(self) -> float:
        """For how long one may sleep, with nothing else to be done before; 0 if something is, or has come."""
        return self._follower.doze() if self._follower is not None else 0.0

    @property
    def was_woken(self) -> bool:
        """Whether it was slept, and it is not a batch that ended it."""
        return self._follower is not None and self._follower.dozed

    @property
    def is_open(self) -> bool:
        """Whether `take` looks for what comes."""
        return self._follower is not None and self._follower.is_open

    def close(self) -> bool:
        """Take nothing more that way, and take over the tally; whether anything was taken."""
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
        """Whether it can be opened again, for all that is known: it is not said what comes next."""
        if self._follower is None or self._follower.refused or self._channel is None or self._channel.left_over:
            return False
        return self._expected() is not None

    def open(self, until_ns: int, park_until_ns: int) -> bool:
        """Go on that way if that can be; whether there is something to take in a ring.

        The first batch that is taken from `until_ns` on is the last; nobody is to sleep beyond `park_until_ns`.
        """
        expected = self._expected()
        if self._follower is None or self._channel is None or expected is None:
            return False
        return self._follower.open(self._channel.slot, *expected, until_ns, park_until_ns)

    def _expected(self) -> tuple[int, int, int] | None:
        return self._core.expected() if self._event_builder.is_clear else None


__all__ = ["FastPath"]

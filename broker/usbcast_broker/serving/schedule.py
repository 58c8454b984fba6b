"""When each stream needs a turn, and until when the publisher's thread may sleep.

Two kinds of threads give streams their turns: the publisher's own, and the thread of a stream's feed, which handles what it has
just read while its stream is idle. Only the publisher's thread keeps time. A feed's thread goes back to reading, so whatever it
leaves undone, and whatever becomes due while it reads, has to be found by the publisher's thread, in time. All these times are
here; the publisher has the lock, the sockets and the thread.

What a stream may need a turn for, though nothing comes, and until when that can wait:

    what                      due at                                 applies
    ------------------------  -------------------------------------  --------------------------------------------------
    heartbeat                 pacer.heartbeat_at_ns                  always
    notification              pacer.due_at_ns, never later           while somebody has subscribed to notifications
    end of a burst            tail.due_at_ns                         while somebody has subscribed to the end of bursts
    age of a batch            stream.due_at_ns                       while the batcher holds packets
    what a feed's thread has  LEFT_NS after it has been seen         while the host queue holds something, or a feed's
    left behind                                                      thread did not get the lock
    a busy stream             LEFT_NS after its last turn            for BUSY_NS after a turn that had something to do

The first four are `StreamSchedule.due_at_ns`. The last one is a precaution: a stream that is busy is likely to leave something.
How long a feed's thread waits for more before it handles what has come is the other half of coalescing: `left_until_ns`.

How the two threads share `wakes_at_ns`, without a lock. It is 0 while the publisher's thread is awake, and otherwise the time
at which that thread looks again by itself. A feed's thread that leaves something first makes it visible (the bytes in the host
queue, or `left_behind`), then compares its deadline with `wakes_at_ns` (`wake_by`), and rings if that is later. The
publisher's thread does the same two things in the opposite order: it first sets `wakes_at_ns` (`fall_asleep`), then looks at
the queues and at `left_behind` once more (`may_sleep`). Whichever order the two happen in, one of them sees the other: if the
feed's thread has read the old 0, what it left was there before the publisher's second look. Were the publisher to look first and
set the time afterwards, something could come in between, find 0, not ring, and wait for the next heartbeat. The flag
`left_behind` is cleared before the deadline is set for the same reason. docs/model/handover.pml explores all interleavings,
and tests/broker/test_schedule.py those of this module.

What a ring does is to set `wakes_at_ns` to the earlier time. So a doorbell that rings early does not make the publisher work:
its thread goes on sleeping until that time.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from usbcast_broker.stream.coalescing import GATHERED_BYTES, INLINE_BYTES, LEFT_NS, Coalescer
from usbcast_broker.stream.notification_schedule import HEARTBEAT_NS, NotificationPacer, TailPacer

AWAKE = 0
"""`wakes_at_ns` of a publisher whose thread is awake: earlier than any deadline."""


class Paced(Protocol):
    """An outlet, as far as its times go."""

    @property
    def coalescer(self) -> Coalescer: ...
    @property
    def pacer(self) -> NotificationPacer: ...
    @property
    def tail(self) -> TailPacer: ...
    @property
    def notify_topic(self) -> bytes: ...
    @property
    def tail_topic(self) -> bytes: ...


class Scheduled(Protocol):
    """A stream, as far as its times go."""

    @property
    def outlet(self) -> Paced: ...
    @property
    def over(self) -> bool: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def patience_bytes(self) -> int: ...
    @property
    def due_at_ns(self) -> int | None: ...


S = TypeVar("S", bound=Scheduled)


class StreamSchedule:
    """The times of one stream, for one audience. Times are monotonic nanoseconds."""

    __slots__ = ("notify_wanted", "stream", "tail_wanted")

    def __init__(self, stream: Scheduled, notify_wanted: bool, tail_wanted: bool) -> None:
        self.stream = stream
        self.notify_wanted = notify_wanted
        self.tail_wanted = tail_wanted

    @property
    def due_at_ns(self) -> int:
        """When the stream needs a turn though nothing comes."""
        outlet = self.stream.outlet
        due_ns = outlet.pacer.due_at_ns if self.notify_wanted else outlet.pacer.heartbeat_at_ns
        if self.tail_wanted:
            due_ns = min(due_ns, outlet.tail.due_at_ns)
        held_until_ns = self.stream.due_at_ns
        return due_ns if held_until_ns is None else min(due_ns, held_until_ns)

    @property
    def bell_at_ns(self) -> int:
        """From when on a feed's thread that writes by itself, on the fast path, must ring for each transfer."""
        outlet = self.stream.outlet
        if self.notify_wanted:
            return 0
        heartbeat_at_ns = outlet.pacer.heartbeat_at_ns
        if not self.tail_wanted:
            return heartbeat_at_ns
        # The first transfer after a rest rings, so that the end of its burst is notified too.
        return 0 if outlet.tail.rests else min(heartbeat_at_ns, outlet.tail.due_at_ns)

    def left_until_ns(self, now_ns: int, reads_ahead: bool) -> int | None:
        """When the publisher's thread should handle what has come; None if the feed's thread should do it now.

        With `reads_ahead` the device's reads continue while the feed's thread does something else.
        """
        waiting_bytes = self.stream.waiting_bytes
        if now_ns < self.stream.outlet.coalescer.next_ns and not (reads_ahead and waiting_bytes >= GATHERED_BYTES):
            return now_ns + LEFT_NS
        if not reads_ahead and waiting_bytes > INLINE_BYTES:
            return now_ns
        return None

    def is_handled_by_its_feed(self, now_ns: int) -> bool:
        """The feed's thread has just had a turn, will have the next one, and nothing is due."""
        stream = self.stream
        return (
            now_ns - stream.outlet.coalescer.turned_ns < LEFT_NS
            and stream.waiting_bytes <= stream.patience_bytes
            and now_ns < self.due_at_ns
        )

    def look_at_ns(self, now_ns: int) -> int:
        """When the publisher's thread should look at the stream again, if it sleeps now."""
        due_ns, coalescer = self.due_at_ns, self.stream.outlet.coalescer
        if not coalescer.is_busy(now_ns):
            return due_ns
        left_ns = coalescer.turned_ns + LEFT_NS
        return min(due_ns, left_ns if left_ns > now_ns else now_ns + LEFT_NS)


class Schedule(Generic[S]):
    """The times of all streams, and the time at which the publisher's thread wakes.

    Call everything under the publisher's lock, but for `wakes_at_ns`, `left_behind`, `may_sleep`, `wake_by` and `wake`.
    """

    def __init__(self, wants: Callable[[bytes], bool]) -> None:
        """`wants` tells whether anybody has subscribed to a topic."""
        self.streams: Sequence[S] = ()
        """All streams; some may be added, none is taken away."""
        self.wakes_at_ns = AWAKE
        """When the publisher's thread, which sleeps, will look again by itself."""
        self.left_behind = False
        """True if a feed's thread did not get the lock since the publisher's thread looked last."""
        self._wants = wants
        self._schedules: dict[S, StreamSchedule] = {}

    def of(self, stream: S) -> StreamSchedule:
        """Return the times of `stream` for the audience that it has now."""
        try:
            return self._schedules[stream]
        except KeyError:
            outlet, wants = stream.outlet, self._wants
            made = StreamSchedule(stream, wants(outlet.notify_topic), wants(outlet.tail_topic))
            self._schedules[stream] = made
            return made

    def forget_audiences(self) -> None:
        """Ask anew who wants what: an audience has changed."""
        self._schedules = {}

    def due(self, now_ns: int) -> list[S]:
        """Return the streams to which the publisher's thread, awake, gives a turn."""
        return [stream for stream in self.streams if not self.of(stream).is_handled_by_its_feed(now_ns)]

    def next_wake_ns(self, now_ns: int) -> int:
        """Return until when nothing is due and a busy stream's feed can have left nothing."""
        return min((self.of(stream).look_at_ns(now_ns) for stream in self.streams), default=now_ns + HEARTBEAT_NS)

    def fall_asleep(self, now_ns: int) -> None:
        """Say when the publisher's thread will look again. Then call `may_sleep`, and only then sleep."""
        self.wakes_at_ns = self.next_wake_ns(now_ns)

    def may_sleep(self, now_ns: int) -> bool:
        """Look once more at what feeds' threads have left; return False if so much waits that the next round begins now."""
        streams = [stream for stream in self.streams if not stream.over]
        if any(stream.waiting_bytes > stream.patience_bytes for stream in streams):
            return False
        if self.left_behind or any(stream.waiting_bytes for stream in streams):
            self.left_behind = False
            self.wake_by(now_ns + LEFT_NS)
        return True

    def wake_by(self, due_ns: int) -> bool:
        """Have the publisher's thread wake by `due_ns`; return True if it would wake later, so that its doorbell has to ring."""
        if due_ns >= self.wakes_at_ns:
            return False
        self.wakes_at_ns = due_ns
        return True

    def wake(self) -> None:
        """The publisher's thread is awake, or is to be at once."""
        self.wakes_at_ns = AWAKE

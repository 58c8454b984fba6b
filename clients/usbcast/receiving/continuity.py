"""Continuity: turns batches that may be doubled, missing or late into a sequence without holes but for declared gaps.

Batches, replies and notifications come in, deliveries and the wish for a fetch come out. One object serves one
subscription, over all epochs. The rule for a batch, by its number: below the cursor it is a duplicate, at the cursor it is
delivered, above it waits while what is missing is fetched; what cannot be had any more is a Gap.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from usbcast.events import Gap, Restart, gap_of_hole
from usbcast_schemas.batch import EncodedBatch

OVERWRITTEN = "overwritten in the ring"
SKIPPED = "skipped for the newest"
UNREADABLE = "could not be read"
NODE_GONE = "the node went away before it was fetched"
HOLD_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Delivery:
    """A batch to hand on, from its packet `skip` on, and the gaps before it."""

    batch: EncodedBatch
    gaps: tuple[Gap, ...] = ()
    skip: int = 0
    told: tuple[Gap, ...] = ()
    """Those of the gaps that the batch itself tells of; whoever passes it on need not."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a consumer stood: all before `next_sequence` and below batch `next_number` of `epoch` has been dealt with."""

    epoch: int
    next_sequence: int
    next_number: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A range to fetch: sequences [from, until), until None for the newest, of batches numbered from_number or later."""

    epoch: int
    from_sequence: int
    until_sequence: int | None
    from_number: int
    newest_only: bool = False


class Continuity:
    """The state of one subscription. `start` is called once per subscription, `live`, `known` and `fetched` as things come."""

    def __init__(
        self,
        *,
        latest: bool = False,
        can_fetch: bool = True,
        hold_bytes: int = HOLD_BYTES,
        gone: tuple[str, str] = (OVERWRITTEN, "ring"),
    ) -> None:
        self.out: deque[Delivery | Restart | Gap] = deque()
        self.epoch: int | None = None
        self.first_sequence: int | None = None
        """Where this epoch began for this subscription; None until that is known."""
        self.next_sequence = 0
        self.known_until = 0
        """One past the last sequence that the epoch is known to have reached."""
        self.span_before = 0
        """Packets of former epochs that were delivered or declared lost."""
        self.duplicates = 0
        self.stale = 0
        self.fetched_packets = 0
        self._latest = latest
        self._can_fetch = can_fetch
        self._hold_limit = hold_bytes
        self._gone = gone
        """Reason and stage of what was published and cannot be had any more."""
        self._next_number: int | None = None
        self._known_number = 0
        self._passed_number: int | None = None
        """One past the last batch that was passed over."""
        self._held: deque[EncodedBatch] = deque()
        self._held_bytes = 0
        self._former: deque[int] = deque(maxlen=16)
        self._fetching: Wanted | None = None
        self._unreadable_at = -1
        """The batch that was to come next when something came that could not be read."""
        self._joined_at: int | None = None
        """Where the stream stood when an unknown start was joined: what came since is delivered or declared."""

    @property
    def span(self) -> int:
        """Packets that were delivered or declared lost so far, or wait in `out`."""
        return self.span_before + (0 if self.first_sequence is None else self.next_sequence - self.first_sequence)

    @property
    def position(self) -> Position | None:
        """Where this subscription stands; None until a batch or its start has said so."""
        if self.epoch is None or self._next_number is None:
            return None
        return Position(self.epoch, self.next_sequence, self._next_number)

    def start(
        self, epoch: int, sequence: int | None, number: int | None = None, *, joined_at: int | None = None
    ) -> None:
        """Begin at `sequence`; if None, at the first batch that comes, but not behind `joined_at`."""
        self.epoch = epoch
        self.first_sequence = sequence
        self.next_sequence = self.known_until = sequence or 0
        self._next_number = number
        self._known_number = number or 0
        self._joined_at = joined_at

    def set_can_fetch(self, can_fetch: bool) -> None:
        """Whether what is missing can be fetched on the way in use."""
        self._can_fetch = can_fetch
        if not can_fetch:
            self._held.clear()
            self._held_bytes = 0

    def expected(self) -> tuple[int, int, int] | None:
        """Epoch, number and first sequence of the batch that is simply the next one; None while more is to be considered."""
        if self.first_sequence is None or self._fetching is not None or self._held or self._latest:
            return None
        if self.epoch is None or self._next_number is None:
            return None
        return self.epoch, self._next_number, self.next_sequence

    def unreadable(self) -> None:
        """Something came that could not be read: what is missing before the next batch is gone for that reason."""
        self._unreadable_at = -1 if self._next_number is None else self._next_number

    def passed(self, batches: int, packets: int) -> None:
        """So many batches went to the application by themselves, which went on as `expected`: with packets and nothing else."""
        assert self._next_number is not None
        self.next_sequence += packets
        self._next_number += batches
        self._know(self.next_sequence, self._next_number)

    def live(self, batch: EncodedBatch) -> None:
        """A batch came by the data topic or from the ring."""
        if self._is_next(batch):
            self.out.append(Delivery(batch))
            self.next_sequence = end = batch.first_sequence + batch.packet_count
            self._next_number = number = batch.number + 1
            self.known_until = max(self.known_until, end)
            self._known_number = max(self._known_number, number)
            return
        if not self._is_current(batch.epoch):
            return
        self._know(batch.end_sequence, batch.number + 1)
        begins = self._latest and self.first_sequence is None  # what came before it is not wanted
        follows = not self._held and not self._fetching and self._follows(batch)
        if begins or follows or not self._can_fetch:
            self._take(batch)
        elif self._next_number is not None and batch.number < self._next_number:
            self.duplicates += batch.packet_count
        elif self._held_bytes + len(batch.raw) <= self._hold_limit:
            self._held.append(batch)
            self._held_bytes += len(batch.raw)
        # else: it will be fetched, as what is known to exist and has not come.

    def _is_next(self, batch: EncodedBatch) -> bool:
        """Whether nothing can be said of `batch` but that it is the next one: so are nearly all."""
        return (
            batch.number == self._next_number
            and batch.first_sequence == self.next_sequence
            and batch.epoch == self.epoch
            and self.first_sequence is not None
            and self._fetching is None
            and not (self._held or self._latest or batch.holes)
        )

    def declared(self, epoch: int, gap: Gap, next_number: int | None) -> None:
        """Who passed the stream on declares, in its place, what it could not have; the batch behind it is `next_number`."""
        if not self._is_current(epoch):
            return
        self._know(gap.last + 1, next_number or 0)
        if self._next_number is not None and next_number is not None and next_number <= self._next_number:
            self.duplicates += gap.count
            return
        if self.first_sequence is None:
            self._begin(gap.first)
        if gap.first > self.next_sequence:
            self._lose_until(gap.first, *reversed(self._gone_for()))
        if gap.last >= self.next_sequence:
            self._lose_until(gap.last + 1, gap.stage, gap.reason)
        elif self._next_number is not None and gap.count == 0 and gap.first == self.next_sequence:
            self.out.append(gap)
        else:
            return  # wholly before the start that was asked for
        if next_number is not None:
            self._next_number = next_number

    def known(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool = False) -> None:
        """The stream is known to have come so far, whether or not the batches have come."""
        if not self._is_current(epoch):
            return
        self._know(next_sequence, next_number)
        if ended and self._next_number == self._passed_number == next_number:
            self._next_number, self._passed_number = next_number - 1, None  # the end itself is not left out
        if (
            ended
            and self._next_number is None
            and self.first_sequence is not None
            and next_sequence < self.next_sequence
        ):
            # It is over before the start that was asked for: its last batch, the end, is all there is to have.
            self.first_sequence = self.next_sequence = next_sequence
            self._next_number = next_number - 1

    def wanted(self) -> Wanted | None:
        """What is to be fetched now, if anything; `fetching` is to be called when the request is sent."""
        if self.epoch is None or self._fetching or not self._can_fetch:
            return None
        self._release()
        number = self._next_number or 0
        if self._held and not self._latest:
            return Wanted(self.epoch, self.next_sequence, self._held[0].first_sequence, number)
        if self._next_number is None and self.first_sequence is not None:
            exists = self.known_until > self.next_sequence  # the start asked for may lie in the future
        else:
            exists = self._known_number > number
        if exists:
            # Before the newest it begins with, nothing is wanted; behind that, what happened to the device.
            begin = self.known_until if self._latest and self.first_sequence is None else self.next_sequence
            return Wanted(self.epoch, begin, None, number, newest_only=self._latest)
        return None

    def fetching(self, wanted: Wanted) -> None:
        self._fetching = wanted

    @property
    def under_way(self) -> Wanted | None:
        """What is being fetched."""
        return self._fetching

    def fetch_failed(self) -> None:
        """No reply came, or an error: the wish stands."""
        self._fetching = None

    def fetched(self, epoch: int, batches: Sequence[EncodedBatch], *, complete: bool, unreadable: bool = False) -> None:
        """The reply to the range that was wanted last; some of its batches could not be read, if it says so."""
        asked, self._fetching = self._fetching, None
        if asked is None or not epoch == self.epoch == asked.epoch:
            return
        for batch in batches:
            self._know(batch.end_sequence, batch.number + 1)
            if self._next_number is None or batch.number >= self._next_number:
                self.fetched_packets += batch.packet_count
            if unreadable:
                self.unreadable()
            self._take(batch)
        if complete and self._held and asked.until_sequence is not None:
            # All there is before it has come; what still misses is gone.
            first = self._held[0]
            if first.first_sequence <= asked.until_sequence:
                self._take(self._unhold())
        self._release()

    def pass_over(self, stage: str, reason: str) -> Gap | None:
        """Leave out on purpose what is known and has not come; the gap that this makes, if it makes one.

        Should the last of it turn out to be the end of the stream, that comes all the same.
        """
        if self.epoch is None or self.out:
            return None
        self._held.clear()
        self._held_bytes = 0
        self._fetching = None
        first, joined = self.next_sequence, self._next_number is not None and self.first_sequence is not None
        passed = self._known_number > (self._next_number or 0)
        self.next_sequence = max(self.next_sequence, self.known_until)
        self._next_number = self._passed_number = max(self._next_number or 0, self._known_number)
        if self.first_sequence is None:
            self.first_sequence = self.next_sequence
        if not (joined and passed):
            return None
        return replace(self._missing(first, self.next_sequence, stage, reason), on_purpose=True)

    def restart(self, epoch: int) -> None:
        """The stream has begun a new epoch."""
        if self.epoch is None or epoch == self.epoch:
            return
        old, known = self.epoch, self.known_until
        if self.first_sequence is None and self._joined_at is not None and not self._held:
            self._begin(self._joined_at)
        for batch in self._held:  # what came but could not be joined up: the missing before it is a gap now
            self._accept(batch, NODE_GONE, "ring")
        if self.first_sequence is not None and known > self.next_sequence:
            self.out.append(self._missing(self.next_sequence, known, "ring", NODE_GONE))
            self.next_sequence = known
        delivered = self.next_sequence
        self.span_before = self.span
        self._former.append(old)
        self._held.clear()
        self._held_bytes = 0
        self._fetching = None
        self.start(epoch, 0, 0)
        self.out.append(Restart(old, epoch, delivered, known))

    def is_former(self, epoch: int) -> bool:
        """Whether the stream has gone on from `epoch` to another one: it never comes back."""
        return epoch in self._former

    def _is_current(self, epoch: int) -> bool:
        """Whether `epoch` is the one we are in, after moving on to it if it is new; False for a former one."""
        if self.epoch is None or self.is_former(epoch):
            self.stale += 1
            return False
        if epoch != self.epoch:
            self.restart(epoch)
        return True

    def _know(self, next_sequence: int, next_number: int) -> None:
        self.known_until = max(self.known_until, next_sequence)
        self._known_number = max(self._known_number, next_number)

    def _follows(self, batch: EncodedBatch) -> bool:
        if self._next_number is None:
            # Not joined yet: the first batch may be cut by the start; for "oldest" a fetch says what is the first.
            return self.first_sequence is not None and batch.first_sequence <= self.next_sequence
        return batch.number <= self._next_number or (bool(batch.holes) and batch.first_number <= self._next_number)

    def _release(self) -> None:
        """Accept the held batches as far as they follow."""
        while self._held and self._follows(self._held[0]):
            self._take(self._unhold())

    def _unhold(self) -> EncodedBatch:
        batch = self._held.popleft()
        self._held_bytes -= len(batch.raw)
        return batch

    def _take(self, batch: EncodedBatch) -> None:
        """Deliver `batch`; of the newest alone, packets that wait for the application are skipped for its packets."""
        if not self._latest:
            self._accept(batch, *(self._gone if self._unreadable_at < 0 else self._gone_for()))
            return
        if batch.packet_count:
            self._skip_waiting()
        self._accept(batch, SKIPPED, "subscription")

    def _accept(self, batch: EncodedBatch, reason: str, stage: str) -> None:
        """Deliver `batch`; what is missing before it is gone."""
        if self._next_number is not None and batch.number < self._next_number:
            self.duplicates += batch.packet_count
            return
        if self.first_sequence is None:
            self._begin(batch.first_sequence)
        if batch.end_sequence < self.next_sequence or (batch.packet_count and batch.end_sequence == self.next_sequence):
            # Wholly before the start that was asked for; but if that never comes, the end is to be told.
            if self._next_number is not None:
                self.duplicates += batch.packet_count
            elif batch.end is not None:
                self.out.append(Delivery(batch))
                self._next_number = batch.number + 1
            return
        skip = max(0, self.next_sequence - batch.first_sequence)
        told = self._told_by(batch) if batch.holes else ()
        self.out.append(Delivery(batch, self._gaps_before(batch, told, reason, stage), skip, told))
        self.next_sequence = batch.end_sequence
        self._next_number = batch.number + 1

    def _gone_for(self) -> tuple[str, str]:
        """Reason and stage of what is missing before what comes now."""
        return (UNREADABLE, self._gone[1]) if self._unreadable_at == self._next_number else self._gone

    def _begin(self, sequence: int) -> None:
        """The first thing that there is to tell of stands at `sequence`."""
        if self._joined_at is not None:
            sequence = min(sequence, self._joined_at)
        self.first_sequence = self.next_sequence = sequence

    def _lose_until(self, sequence: int, stage: str, reason: str) -> None:
        first, self.next_sequence = self.next_sequence, sequence
        self.out.append(self._missing(first, sequence, stage, reason))

    def _missing(self, first: int, until: int, stage: str, reason: str) -> Gap:
        """The gap of this epoch from `first` up to `until`, which is not in it."""
        assert self.epoch is not None
        return Gap(first, until - 1, until - first, stage, reason, epoch=self.epoch)

    def _told_by(self, batch: EncodedBatch) -> tuple[Gap, ...]:
        """What of the holes that `batch` tells of lies before us."""
        here, joined = self.next_sequence, self._next_number is not None
        return tuple(
            gap_of_hole(hole, max(here, hole.first_sequence), batch.epoch)
            for hole in batch.holes
            if hole.first_sequence + hole.count > here
            or (joined and not hole.count and not hole.on_purpose and hole.first_sequence >= here)
        )

    def _gaps_before(self, batch: EncodedBatch, told: tuple[Gap, ...], reason: str, stage: str) -> tuple[Gap, ...]:
        """All that is missing between the cursor and `batch`, in order: what is told of, and the rest for `reason`."""
        gaps: list[Gap] = []
        here = self.next_sequence
        for gap in told:
            if gap.first > here:
                gaps.append(self._missing(here, gap.first, stage, reason))
            gaps.append(gap)
            here = gap.last + 1
        if batch.first_sequence > here:
            gaps.append(self._missing(here, batch.first_sequence, stage, reason))
        elif (
            self._next_number is not None
            and batch.first_number > self._next_number
            and len(gaps) == len(told)
            and batch.first_sequence == here
        ):
            # Only batches without packets are missing: no packet is lost, but something that was said of the device is.
            gaps.append(self._missing(here, here, stage, f"device events {reason}"))
        return tuple(gaps)

    def _skip_waiting(self) -> None:
        """Drop what waits in `out` for something newer; what it carried beside packets stays."""
        kept: list[Delivery | Restart | Gap] = []
        for item in self.out:
            if not isinstance(item, Delivery):
                kept.append(item)
                continue
            kept.extend(item.gaps)
            batch = item.batch
            count = batch.packet_count - item.skip
            if not count:
                kept.append(Delivery(batch, (), item.skip))
                continue
            first = batch.first_sequence + item.skip
            if batch.end is not None or (not item.skip and (batch.losses or batch.events)):
                kept.append(Delivery(batch, (), batch.packet_count))
            kept.append(Gap(first, batch.end_sequence - 1, count, "subscription", SKIPPED, epoch=batch.epoch))
        self.out.clear()
        self.out.extend(_merged(kept))


def _merged(items: list[Delivery | Restart | Gap]) -> list[Delivery | Restart | Gap]:
    """`items` with adjoining gaps of one stage and reason made one."""
    merged: list[Delivery | Restart | Gap] = []
    for item in items:
        before = merged[-1] if merged else None
        if (
            isinstance(item, Gap)
            and isinstance(before, Gap)
            and before.last + 1 == item.first
            and (before.stage, before.reason, before.epoch) == (item.stage, item.reason, item.epoch)
            and before.count
            and item.count
        ):
            merged[-1] = replace(before, last=item.last, count=before.count + item.count)
        else:
            merged.append(item)
    return merged

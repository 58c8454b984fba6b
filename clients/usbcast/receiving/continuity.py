"""Continuity: turns batches that may be doubled, missing or late into a sequence whose only holes are declared gaps.

Batches, replies and notifications come in; deliveries, gaps, restarts and the range to fetch come out. One object
serves one subscription, over all epochs.

The cursor is the pair (`_next_number`, `next_sequence`): the batch and the packet that come next. Batches have numbers of
their own because a batch may hold no packet (only device events or losses), and a missing one must be noticed too. The rule for
a batch of the current epoch, by its number:

- below the cursor: a duplicate, counted and dropped;
- at the cursor: delivered, and the cursor moves behind it;
- above the cursor: held, while `wanted` asks for the range before it. When the reply says `complete`, whatever is still
  missing does not exist any more, and becomes a Gap in front of the held batch.

Held batches are bounded in bytes. One that finds no room is dropped without harm: `known_until` and `_known_number` say that
it exists, so it is fetched later like any other. A channel that already reads everything a fetch would (a ring) sets
`can_fetch` to False: then nothing is held, and a hole becomes a Gap at once.

Epochs only go forward. A batch of an unknown epoch ends the current one: what was known of it but never came is a Gap, then
comes a Restart. Batches of former epochs are counted as stale and dropped.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from usbcast.events import Gap, Restart, gap_of_hole
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.engine.protocols import Expected

OVERWRITTEN = "overwritten in the ring"
SKIPPED = "skipped for the newest"
UNREADABLE = "could not be read"
NODE_GONE = "the node went away before it was fetched"
HOLD_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Delivery:
    """A batch to deliver from its packet `skip` on, and the gaps before it."""

    batch: EncodedBatch
    gaps: tuple[Gap, ...] = ()
    skip: int = 0
    told: tuple[Gap, ...] = ()
    """The gaps that the batch itself declares; a bridge that forwards the batch need not declare them again."""


@dataclass(frozen=True, slots=True)
class Position:
    """The place a consumer has reached: it has dealt with all before `next_sequence` and batch `next_number` of `epoch`."""

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
        """Reason and stage of a gap of batches that were published but are no longer available."""
        self._next_number: int | None = None
        self._known_number = 0
        self._passed_number: int | None = None
        """One past the last batch that `pass_over` skipped."""
        self._held: deque[EncodedBatch] = deque()
        self._held_bytes = 0
        self._former: deque[int] = deque(maxlen=16)
        self._fetching: Wanted | None = None
        self._unreadable_at = -1
        """The batch that was to come next when an unreadable message came."""
        self._joined_at: int | None = None
        """Where the stream stood when joining at an unknown start: everything since is delivered or declared."""

    @property
    def span(self) -> int:
        """Number of packets delivered or declared lost so far, including those that wait in `out`."""
        return self.span_before + (0 if self.first_sequence is None else self.next_sequence - self.first_sequence)

    @property
    def position(self) -> Position | None:
        """Position of the cursor; None until a batch or the start has set it."""
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
        """Say whether the channel in use allows fetching; if not, drop what is held."""
        self._can_fetch = can_fetch
        if not can_fetch:
            self._held.clear()
            self._held_bytes = 0

    def expected(self) -> Expected | None:
        """Return the batch that the fast path may deliver next; None if anything else comes first."""
        if self.first_sequence is None or self._fetching is not None or self._held or self._latest:
            return None
        if self.epoch is None or self._next_number is None:
            return None
        return Expected(self.epoch, self._next_number, self.next_sequence)

    def unreadable(self) -> None:
        """Note that an unreadable message came: what is missing before the next batch is lost for that reason."""
        self._unreadable_at = -1 if self._next_number is None else self._next_number

    def record_delivered(self, batches: int, packets: int) -> None:
        """Move the cursor over batches that the fast path delivered, beginning with the one that was `expected`."""
        assert self._next_number is not None
        self.next_sequence += packets
        self._next_number += batches
        self._know(self.next_sequence, self._next_number)

    def live(self, batch: EncodedBatch) -> None:
        """Take a batch from the data topic or the ring."""
        if not self._is_current(batch.epoch):
            return
        self._know(batch.end_sequence, batch.number + 1)
        begins = (
            self._latest and self.first_sequence is None
        )  # the newest batch is the start; nothing before it is wanted
        follows = not self._held and not self._fetching and self._follows(batch)
        if begins or follows or not self._can_fetch:
            self._take(batch)
        elif self._next_number is not None and batch.number < self._next_number:
            self.duplicates += batch.packet_count
        elif self._held_bytes + len(batch.raw) <= self._hold_limit:
            self._held.append(batch)
            self._held_bytes += len(batch.raw)
        # else: drop it; it is known to exist, so `wanted` asks for it later.

    def declared(self, epoch: int, gap: Gap, next_number: int | None) -> None:
        """Take a gap that a forwarder declared in the stream; the batch behind it is `next_number`, None if unknown."""
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
            return  # wholly before the requested start
        if next_number is not None:
            self._next_number = next_number

    def known(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool = False) -> None:
        """Note how far the stream has come, whether or not its batches have come here."""
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
            # The stream ended before the requested start: only its last batch, the end, can be delivered.
            self.first_sequence = self.next_sequence = next_sequence
            self._next_number = next_number - 1

    def wanted(self) -> Wanted | None:
        """Return the range to fetch now, None if nothing is missing. Call `fetching` when the request is sent."""
        if self.epoch is None or self._fetching or not self._can_fetch:
            return None
        self._release()
        number = self._next_number or 0
        if self._held and not self._latest:
            return Wanted(self.epoch, self.next_sequence, self._held[0].first_sequence, number)
        if self._next_number is None and self.first_sequence is not None:
            exists = self.known_until > self.next_sequence  # the requested start may lie in the future
        else:
            exists = self._known_number > number
        if exists:
            # Nothing before the first newest batch is wanted; behind it, device events are.
            begin = self.known_until if self._latest and self.first_sequence is None else self.next_sequence
            return Wanted(self.epoch, begin, None, number, newest_only=self._latest)
        return None

    @property
    def can_look_ahead(self) -> bool:
        """True if a fetch can tell what there is beyond the cursor, and nothing is known that should be fetched anyway."""
        return (
            self._next_number is not None
            and self._can_fetch
            and self.first_sequence is not None
            and self.wanted() is None
        )

    def ahead(self) -> Wanted:
        """Return the range from the cursor on, though nothing is known to be there.

        Nothing waits for the answer: what comes meanwhile is delivered.
        """
        assert self.epoch is not None
        assert self._next_number is not None
        return Wanted(self.epoch, self.next_sequence, None, self._next_number, newest_only=self._latest)

    def fetching(self, wanted: Wanted) -> None:
        self._fetching = wanted

    @property
    def under_way(self) -> Wanted | None:
        """The range that is being fetched; None if none is."""
        return self._fetching

    def fetch_failed(self) -> None:
        """Forget the request: no reply came, or an error. `wanted` asks for the range again."""
        self._fetching = None

    def fetched(
        self,
        epoch: int,
        batches: Sequence[EncodedBatch],
        *,
        complete: bool,
        unreadable: bool = False,
        ahead: Wanted | None = None,
    ) -> None:
        """Take the reply to the last request. `complete`: the node holds nothing more of the range.

        `ahead` is the range asked for, where that was what `ahead` returned.
        """
        asked, self._fetching = ahead or self._fetching, None
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
            # Everything that still exists before the held batch has come; the rest is lost.
            first = self._held[0]
            if first.first_sequence <= asked.until_sequence:
                self._take(self._unhold())
        self._release()

    def pass_over(self, stage: str, reason: str) -> Gap | None:
        """Skip on purpose what is known but has not come; return the resulting gap, None if there is none.

        If the last skipped batch turns out to be the end of the stream, it is delivered anyway.
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
        """Begin a new epoch; declare what is missing of the old one."""
        if self.epoch is None or epoch == self.epoch:
            return
        old, known = self.epoch, self.known_until
        if self.first_sequence is None and self._joined_at is not None and not self._held:
            self._begin(self._joined_at)
        for batch in self._held:  # deliver it, with a gap for what is missing before it
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
        """Return True if the stream has left `epoch` for another one; it never comes back."""
        return epoch in self._former

    def _is_current(self, epoch: int) -> bool:
        """Move on to `epoch` if it is new; return False if it is a former one."""
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
            # Not joined yet: the start may lie inside the first batch; for "oldest" a fetch tells which batch is first.
            return self.first_sequence is not None and batch.first_sequence <= self.next_sequence
        return batch.number <= self._next_number or (bool(batch.holes) and batch.first_number <= self._next_number)

    def _release(self) -> None:
        """Deliver the held batches that now follow without a hole."""
        while self._held and self._follows(self._held[0]):
            self._take(self._unhold())

    def _unhold(self) -> EncodedBatch:
        batch = self._held.popleft()
        self._held_bytes -= len(batch.raw)
        return batch

    def _take(self, batch: EncodedBatch) -> None:
        """Deliver `batch`; with deliver="latest", packets of it replace those that wait for the application."""
        if not self._latest:
            self._accept(batch, *(self._gone if self._unreadable_at < 0 else self._gone_for()))
            return
        if batch.packet_count:
            self._skip_waiting()
        self._accept(batch, SKIPPED, "subscription")

    def _accept(self, batch: EncodedBatch, reason: str, stage: str) -> None:
        """Deliver `batch`; what is missing before it is lost, for `reason` at `stage`."""
        if self._next_number is not None and batch.number < self._next_number:
            self.duplicates += batch.packet_count
            return
        if self.first_sequence is None:
            self._begin(batch.first_sequence)
        if batch.end_sequence < self.next_sequence or (batch.packet_count and batch.end_sequence == self.next_sequence):
            # Wholly before the requested start; but if the stream ends before that start, deliver the end.
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
        """Return reason and stage of what is missing before the batch that comes now."""
        return (UNREADABLE, self._gone[1]) if self._unreadable_at == self._next_number else self._gone

    def _begin(self, sequence: int) -> None:
        """Begin at `sequence`, or at the sequence where the stream stood at joining if that is lower."""
        if self._joined_at is not None:
            sequence = min(sequence, self._joined_at)
        self.first_sequence = self.next_sequence = sequence

    def _lose_until(self, sequence: int, stage: str, reason: str) -> None:
        first, self.next_sequence = self.next_sequence, sequence
        self.out.append(self._missing(first, sequence, stage, reason))

    def _missing(self, first: int, until: int, stage: str, reason: str) -> Gap:
        """Return the gap of this epoch from `first` up to, but without, `until`."""
        assert self.epoch is not None
        return Gap(first, until - 1, until - first, stage, reason, epoch=self.epoch)

    def _told_by(self, batch: EncodedBatch) -> tuple[Gap, ...]:
        """Return the gaps that `batch` declares, as far as they lie at or behind the cursor."""
        here, joined = self.next_sequence, self._next_number is not None
        return tuple(
            gap_of_hole(hole, max(here, hole.first_sequence), batch.epoch)
            for hole in batch.holes
            if hole.first_sequence + hole.count > here
            or (joined and not hole.count and not hole.on_purpose and hole.first_sequence >= here)
        )

    def _gaps_before(self, batch: EncodedBatch, told: tuple[Gap, ...], reason: str, stage: str) -> tuple[Gap, ...]:
        """Return all gaps between the cursor and `batch`, in order: those in `told`, and the rest for `reason`."""
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
            # Only batches without packets are missing: no packet is lost, but device events are.
            gaps.append(self._missing(here, here, stage, f"device events {reason}"))
        return tuple(gaps)

    def _skip_waiting(self) -> None:
        """Replace the packets that wait in `out` by gaps, since newer ones have come; keep everything else they carry."""
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
    """Return `items` with adjoining gaps of the same stage, reason and epoch merged."""
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

"""Answer a fetch from a ring: the batches, read as any other reader reads them, and the parts of the range that are gone.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbcast_schemas.batch import Buffer, decode_batch
from usbcast_schemas.errors import RingTorn
from usbcast_schemas.ring import RingReader, Slot
from usbcast_schemas.v1 import usbcast_pb2 as pb

DEFAULT_BUDGET_BYTES = 4 * 1024 * 1024
MAX_BATCHES = 1024
"""Most batches of one answer: with small batches, the budget in bytes alone would let a fetch read the whole ring for seconds."""
MAX_LOST = 1000
"""Missing ranges told by one answer, those of its last batch aside."""
MAX_BEHIND = 100
"""Most batches to search for the newest packet; a longer run of batches with only events means a faulty device."""
OVERWRITTEN = "overwritten in the ring"


@dataclass(frozen=True, slots=True)
class Fetched:
    """Batches, oldest first, and the sequences of the asked range that the ring no longer holds."""

    batches: list[Buffer]
    lost: list[pb.LostRange]
    complete: bool


def fetch(
    ring: RingReader,
    *,
    from_sequence: int,
    until_sequence: int | None = None,
    from_number: int = 0,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> Fetched:
    """Return the held batches of [from_sequence, until_sequence), at least one of them whatever the budget."""
    batches: list[Buffer] = []
    lost: list[pb.LostRange] = []
    spent = 0
    at, expected = _start(ring, from_sequence, until_sequence, from_number)
    while True:
        found = ring.slot(at)
        if found is None:
            if at >= ring.head:
                break
            at = max(at + 1, ring.tail)  # overwritten while we were here; the next one shows how much that was
            continue
        if until_sequence is not None and _lies_beyond(found, until_sequence):
            if expected < until_sequence:  # what is missing in front of it is part of what was asked
                lost += _missing(expected, until_sequence, ring, found)
                expected = until_sequence
            break
        if batches and (
            spent + found.size_bytes > budget_bytes or len(batches) >= MAX_BATCHES or len(lost) >= MAX_LOST
        ):
            return Fetched(batches, lost, complete=False)
        try:
            raw = ring.read(found)
        except RingTorn:
            at = max(at + 1, ring.tail)
            continue
        if found.first_sequence > expected:
            lost += _missing(expected, found.first_sequence, ring, found)
        expected = max(expected, found.end_sequence)
        batches.append(raw)
        spent += len(raw)
        at += 1
    if until_sequence is not None:
        oldest = ring.slot(ring.tail)
        if expected < until_sequence and oldest is not None and oldest.first_sequence > expected:
            lost.append(_gone(expected, min(until_sequence, oldest.first_sequence)))
    return Fetched(batches, lost, complete=True)


def newest(
    ring: RingReader,
    *,
    from_sequence: int | None = None,
    from_number: int = 0,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> list[Buffer]:
    """The newest batch that holds a packet, and those behind it: what happened since, and the end.

    Before these, from `from_sequence` and `from_number` on, those that say what happened to the device, as many of the
    newest of them as the budget allows.
    """
    batches: list[Buffer] = []
    at = ring.head
    while at > max(ring.tail, ring.head - MAX_BEHIND):
        found = ring.slot(at - 1)
        if found is None:
            break
        try:
            batches.append(ring.read(found))
        except RingTorn:
            break
        at -= 1
        if found.packet_count:
            break
    if from_sequence is not None:
        spent = 0
        for found in reversed(ring.remarks(ring.find(from_sequence), at)):
            spent += found.size_bytes
            if found.number < from_number or spent > budget_bytes:
                break
            try:
                batches.append(ring.read(found))
            except RingTorn:
                break
    return batches[::-1]


def _start(ring: RingReader, from_sequence: int, until_sequence: int | None, from_number: int) -> tuple[int, int]:
    """The first slot to look at, and the sequence expected there. Batches below `from_number` are passed over, not lost."""
    at = ring.find(from_sequence)
    if not from_number:
        return at, from_sequence
    numbered = ring.first(
        lambda slot: slot.number >= from_number or (until_sequence is not None and _lies_beyond(slot, until_sequence))
    )
    passed = ring.slot(numbered - 1) if numbered > at else None
    return max(at, numbered), max(from_sequence, passed.end_sequence if passed else 0)


def _lies_beyond(slot: Slot, until_sequence: int) -> bool:
    return slot.first_sequence > until_sequence or (slot.first_sequence == until_sequence and slot.packet_count > 0)


def _missing(first: int, until: int, ring: RingReader, behind: Slot) -> list[pb.LostRange]:
    """Return the losses in [first, until): those that the next batch declares itself, and the rest as overwritten."""
    lost: list[pb.LostRange] = []
    try:
        holes = decode_batch(ring.read(behind)).holes
    except RingTorn:
        holes = ()
    for hole in holes:
        end = min(until, hole.first_sequence + hole.count)
        if end <= first or hole.first_sequence >= until:
            continue
        if hole.first_sequence > first:
            lost.append(_gone(first, hole.first_sequence))
            first = hole.first_sequence
        lost.append(
            pb.LostRange(
                first_sequence=first,
                count=end - first,
                stage=hole.stage,
                reason=hole.reason,
                on_purpose=hole.on_purpose,
            )
        )
        first = end
    return lost if first >= until else [*lost, _gone(first, until)]


def _gone(first: int, until: int) -> pb.LostRange:
    return pb.LostRange(first_sequence=first, count=until - first, stage=pb.STAGE_RING, reason=OVERWRITTEN)

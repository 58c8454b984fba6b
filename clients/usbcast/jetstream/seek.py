"""Find the message to begin reading at, by bisection: the one that holds a sequence, or the first behind a position."""

from __future__ import annotations

from collections.abc import Callable

from usbcast.jetstream.store import Store, StoreState
from usbcast.receiving.continuity import Position


async def seek(store: Store, standing: StoreState, start: int | Position) -> int:
    """The sequence on the server to begin at. A number is a packet's sequence in the newest epoch."""
    if standing.position is None:
        return standing.last_sequence + 1
    end, epoch = standing.last_sequence + 1, standing.position.epoch
    if isinstance(start, int):
        # Batches before the first packet have none, and tell what happened to the device: they belong to sequence 0.
        return await _first(
            store,
            standing.first_sequence,
            end,
            lambda at: at.epoch == epoch and (not start or at.next_sequence > start),
        )
    while epoch != start.epoch:
        end = await _first(store, standing.first_sequence, end, _of(epoch))
        before = await store.after(end - 1) if end > standing.first_sequence else None
        if before is None or before.sequence >= end:
            return standing.first_sequence  # what was read last is no longer stored
        epoch = before.position.epoch
    return await _first(store, standing.first_sequence, end, lambda at: at.epoch == epoch and _beyond(at, start))


def _of(epoch: int) -> Callable[[Position], bool]:
    return lambda at: at.epoch == epoch


def _beyond(at: Position, start: Position) -> bool:
    return (at.next_number, at.next_sequence) > (start.next_number, start.next_sequence)


async def _first(store: Store, low: int, high: int, holds: Callable[[Position], bool]) -> int:
    """The first sequence of [low, high) whose message `holds`, if all behind it do too; else high."""
    while low < high:
        middle = (low + high) // 2
        found = await store.after(middle)
        if found is None or found.sequence >= high or holds(found.position):
            high = middle
        else:
            low = found.sequence + 1
    return low

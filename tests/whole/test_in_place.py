"""`copy=False`: batches are read where they are in the ring, and one that is overwritten under its reader is told as lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import usbcast
import usbcast.aio
from tests.support.nodes import (
    DEADLINE_S,
    Account,
    check_books,
    check_packets,
    eventually,
    serving,
    small,
    take_all,
    take_to_end,
    take_until,
)
from usbcast import Batch, End, Gap, Restart, UsageError
from usbcast.receiving.channels.ring import AHEAD_BYTES
from usbcast_broker.settings import NodeSettings
from usbcast_schemas import engine
from usbcast_schemas.ring import STORES_ARE_ORDERED, BatchInPlace

SIZE = 112
GONE = "overwritten in the ring"
IN_USE = "overwritten in the ring while it was in use"

needs_core = pytest.mark.skipif(
    engine.native is None or not STORES_ARE_ORDERED, reason="without the native core every batch is copied"
)


def soon_overwritten() -> NodeSettings:
    """A ring that holds some 8,000 of the packets."""
    return small(ring_size=1 << 20, batch_size=8192)


def are_in_place(batches: list[Batch]) -> int:
    return sum(isinstance(batch.encoded, BatchInPlace) for batch in batches)


@needs_core
@pytest.mark.parametrize("form", ["events", "aio"])
def test_every_packet_comes_once_and_is_not_copied(form: str) -> None:
    with serving(rate_hz=4000, packets=1200, ends=True) as served:
        account = take_to_end(form, served, "ring", begin=0, start=0, copy=False)
        assert account.delivered == 1200
        assert bytes(account.payload) == served.expected(0, 1200)
        assert are_in_place(account.batches) > 0.9 * len(account.batches) > 10
        assert account.end == End("the device has no more", 1200)


@needs_core
def test_one_that_is_overwritten_while_it_is_in_use_is_told_as_a_gap_in_its_place() -> None:
    with (
        serving(rate_hz=200_000, settings=soon_overwritten()) as served,
        served.subscribe("ring", copy=False) as subscription,
    ):
        kept = next(batch for batch in subscription if isinstance(batch.encoded, BatchInPlace))
        assert kept.intact
        assert subscription.ledger.held >= len(kept), "it is neither delivered nor lost before it is given back"
        delivered_before = subscription.ledger.left
        eventually(lambda: served.oldest > kept.last_sequence + AHEAD_BYTES // SIZE + 1000, "that and more overwritten")
        assert not kept.intact

        gap = subscription.receive(DEADLINE_S)
        assert isinstance(gap, Gap)
        assert (gap.first, gap.last, gap.count) == (kept.first_sequence, kept.last_sequence, len(kept))
        assert (gap.stage, gap.reason) == ("ring", IN_USE)
        assert subscription.ledger.left == delivered_before

        # What follows begins right behind it. What was taken along with it is overwritten too, what was not is another gap.
        at, loaned, lost = gap.last + 1, kept, {IN_USE: gap.count}
        while GONE not in lost or not loaned.intact:
            event = subscription.receive(DEADLINE_S)
            if isinstance(event, Gap) and event.reason == IN_USE:
                assert (event.first, event.last) == (loaned.first_sequence, loaned.last_sequence)
                lost[IN_USE] += event.count
                continue
            if isinstance(event, Gap):
                assert (event.first, event.reason) == (at, GONE)
                lost[GONE] = lost.get(GONE, 0) + event.count
                at = event.last + 1
                continue
            assert isinstance(event, Batch)
            assert event.first_sequence == at
            at, loaned = event.last_sequence + 1, event
        ledger = subscription.ledger
        assert ledger.discrepancy() is None
        assert ledger.lost == {f"ring: {reason}": count for reason, count in lost.items()}


@needs_core
def test_what_is_not_given_back_before_the_end_is_accounted_for_on_closing() -> None:
    with serving(rate_hz=4000) as served:
        subscription = served.subscribe("ring", copy=False)
        batch = next(batch for batch in subscription if isinstance(batch.encoded, BatchInPlace))
        numbers = check_packets(bytes(batch.payload), SIZE)
        payload, delivered = batch.payload, subscription.ledger.left
        subscription.close()
        assert subscription.ledger.left == delivered + len(batch)
        assert subscription.ledger.discrepancy() is None
        # The memory stays as long as it is looked at, but nobody watches any more whether it is overwritten.
        assert check_packets(bytes(payload), SIZE) == numbers
        assert not batch.intact


@needs_core
def test_what_was_taken_of_a_node_that_is_gone_is_delivered(private_directories: tuple[Path, Path]) -> None:
    """Nobody overwrites the ring of a node that has closed it, and it is read to its end although the next one has begun."""
    endpoint = f"ipc://{private_directories[1]}/node"
    settings = small(bind=endpoint)
    with serving(rate_hz=100_000, packets=3000, settings=settings) as served:
        subscription = served.subscribe("ring", start=0, copy=False)
        account = Account(0)
        take_until(subscription, account, lambda: account.delivered > 500)
        held = subscription.ledger.held
    with serving(rate_hz=1000, settings=settings), subscription:
        take_until(subscription, account, lambda: bool(account.of(Restart)) and account.delivered > 0)
        while not isinstance(event := subscription.receive(DEADLINE_S), Batch):
            pass
        ended = account.of(End)[0]
        assert (account.gaps, account.lost) == ([], 0)
        assert event.epoch != account.batches[0].epoch
        assert sum(len(batch) for batch in account.batches) == ended.packets > held
        assert subscription.ledger.lost_total == 0


@needs_core
def test_a_reader_that_checks_is_never_deceived() -> None:
    """Far too slow for its ring, it gets batches that are overwritten under its eyes; those that say they are intact are."""
    # so that a busy machine makes no loss of another kind, after which the packets have other numbers than the device gave them
    with serving(rate_hz=400_000, fifo_bytes=1 << 26, settings=soon_overwritten()) as served:
        in_place = torn = 0
        with served.subscribe("ring", copy=False) as subscription:
            for event in subscription.events(DEADLINE_S):
                if not isinstance(event, Batch):
                    continue
                first = bytes(event.payload)
                in_place += are_in_place([event])
                if are_in_place([event]) and in_place % 10 == 0:
                    eventually(lambda: served.oldest > event.last_sequence, "overwritten")  # noqa: B023
                again = bytes(event.payload)
                if event.intact:
                    assert first == again == served.expected(event.first_sequence, len(event))
                else:
                    torn += 1
                if torn == 6:
                    break
            assert in_place >= 10
            assert subscription.ledger.discrepancy() is None


@pytest.mark.parametrize("via", ["push", "notify"])
def test_what_comes_otherwise_is_copied_and_stays(via: str) -> None:
    with serving(rate_hz=4000, packets=600, ends=True) as served, served.subscribe(via, start=0, copy=False) as stream:
        account = take_all(stream.events(DEADLINE_S), 0)
        check_books(stream.ledger, account)
        assert account.delivered == 600
        assert are_in_place(account.batches) == 0
        assert all(batch.intact for batch in account.batches)
        assert b"".join(bytes(batch.payload) for batch in account.batches) == served.expected(0, 600)


def test_a_copy_that_is_no_yes_or_no() -> None:
    with pytest.raises(UsageError, match="copy is 'no': True or False is allowed"):
        usbcast.subscribe("sim", "tcp://127.0.0.1:1", copy="no")  # type: ignore[arg-type]

    async def subscribe() -> None:
        usbcast.aio.subscribe("sim", "tcp://127.0.0.1:1", copy=1)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="copy is 1: True or False"):
        asyncio.run(subscribe())

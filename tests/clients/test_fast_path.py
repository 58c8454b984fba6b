"""Following a ring, seen from the receiver: what cannot be followed comes all the same, and soon enough."""

from __future__ import annotations

from tests.support.nodes import Account, eventually, serving, small, take_until
from usbcast import Gap


def test_who_was_overtaken_is_told_of_it_after_one_look() -> None:
    """A recorder that ends takes what has come until then: it looks once more, and no more often."""
    settings = small(ring_size=1 << 20, batch_size=8192)  # some 8,000 packets
    with serving(rate_hz=20_000, settings=settings) as served, served.subscribe("ring", start=0) as subscription:
        account = Account(0)
        take_until(subscription, account, lambda: account.delivered >= 200)
        stopped_at = served.published
        eventually(lambda: served.oldest > stopped_at + 100)
        receiver = subscription._receiver
        while (event := receiver.take()) is not None:  # what was taken out of the ring before
            account.take(event)
        assert receiver.pump()
        event = receiver.take()
        assert isinstance(event, Gap)
        account.take(event)
        assert account.lost > 0


def test_whoever_asks_between_two_batches_finds_the_books_balanced() -> None:
    """A question takes the count over, and following goes on behind it."""
    with serving(rate_hz=2000, packets=600, ends=True) as served, served.subscribe("ring", start=0) as subscription:
        account = Account(0)
        for event in subscription.events(10):
            account.take(event)
            books = subscription.ledger
            assert books.discrepancy() is None
            assert (books.left, books.held >= 0) == (account.delivered, True)
            position = subscription._receiver.position
            assert position is not None
            assert position.next_sequence >= account.delivered
        assert account.delivered == 600
        assert account.end is not None

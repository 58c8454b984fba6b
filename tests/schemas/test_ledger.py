"""The books: what does not fit on the wire is no reason to fall over."""

from __future__ import annotations

from usbcast_schemas.ledger import Ledger


def test_figures_beyond_64_bits_are_sent_as_the_largest() -> None:
    books = Ledger("subscription", "packets")
    books.enter(2**65)
    books.lose("ring: overwritten", 2**65)
    books.count("behind", -3)
    assert books.discrepancy() is None
    sent = books.to_proto()
    assert (sent.entered, dict(sent.lost), dict(sent.counters)) == (
        2**64 - 1,
        {"ring: overwritten": 2**64 - 1},
        {"behind": 0},
    )

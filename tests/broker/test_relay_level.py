"""A relay that nothing has come to yet: whoever joins is owed nothing of what its source had before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import pytest

import usbcast
from tests.support.nodes import WAYS, Account, eventually, small, take_until
from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.node import Node
from usbcast_broker.stream.outlet import Description
from usbcast_broker.stream.relay import EpochChange, RelayQueue
from usbcast_schemas.batch import Arrivals, Encoded, encode_batch
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

EPOCH, SEQUENCE, NUMBER = 77, 1000, 50


class Idle:
    """A source that brings what it is told to, when it is told to."""

    identity: DeviceIdentity | None = None
    attached = reads_ahead = True
    held_ns = 0
    problem = ""
    counters: Mapping[str, int] = {}

    def __init__(self, queue: RelayQueue) -> None:
        self.queue = queue
        self.books = Ledger("bridge", "packets")

    def start(self) -> None:
        pass

    def stop(self, *, drain: bool = True) -> None:
        pass

    def command(self, request: pb.CommandRequest) -> Future[pb.CommandReply]:
        raise NotImplementedError(request)

    def ledgers(self) -> Sequence[Ledger]:
        return [self.books]

    def bring(self, number: int, first: int, *, epoch: int = EPOCH) -> None:
        raw = encode_batch(
            epoch=epoch, number=number, first_sequence=first, packet_count=1, packet_size=4, payload=[b"abcd"],
            arrivals=Arrivals((1,), (1,), (1,)),
        )  # fmt: skip
        self.books.enter(1)
        self.books.leave(1)
        assert self.queue.offer(Encoded(raw, number, first, 1))


@pytest.mark.parametrize("via", WAYS)
def test_who_joins_before_anything_has_come_is_owed_nothing_before(via: str) -> None:
    feeds: list[Idle] = []

    def make_feed(queue: RelayQueue) -> Idle:
        feeds.append(Idle(queue))
        return feeds[0]

    with Node(small()) as node:
        node.add_relay(Description("far"), make_feed, epoch=EPOCH, level=(SEQUENCE, NUMBER))
        node.start()
        with usbcast.subscribe("far", node.endpoint, via=via) as subscription:
            assert subscription.ready(10)
            assert list(node.health()[0].discrepancies) == []
            # What it had before comes late, and then what is new.
            for back in (3, 2, 1, 0):
                feeds[0].bring(NUMBER - back, SEQUENCE - back)
            feeds[0].bring(NUMBER + 1, SEQUENCE + 1)
            account = Account(SEQUENCE)
            take_until(subscription, account, lambda: account.delivered >= 2)
            assert (account.gaps, account.begin, account.next) == ([], SEQUENCE, SEQUENCE + 2)
            assert subscription.ledger.discrepancy() is None
        assert list(node.health()[0].discrepancies) == []


def test_a_new_epoch_begins_at_once_for_those_who_are_pushed_to() -> None:
    """Though nothing is published with it."""
    feeds: list[Idle] = []

    def make(queue: RelayQueue) -> Idle:
        feeds.append(Idle(queue))
        return feeds[0]

    node = Node(small())
    relay = node.add_relay(Description("s"), make, epoch=EPOCH, level=(SEQUENCE, NUMBER))
    node.start()
    try:
        with usbcast.subscribe("s", node.endpoint, via="push") as stream:
            assert stream.ready()
            account = Account()
            took_s = []
            for epoch in range(EPOCH + 1, EPOCH + 6):
                first = NUMBER if epoch == EPOCH + 1 else 0
                feeds[0].bring(first, SEQUENCE if first else 0, epoch=epoch - 1)
                take_until(stream, account, lambda: account.delivered == epoch - EPOCH)  # noqa: B023
                begun = time.monotonic()
                assert feeds[0].queue.renew(EpochChange(epoch, Description("s")))
                eventually(lambda: relay.outlet.epoch == epoch)  # noqa: B023
                took_s.append(time.monotonic() - begun)
            assert min(took_s) < 0.02, "it does not wait until somebody looks after the stream anyway"
    finally:
        node.stop("the test is over")

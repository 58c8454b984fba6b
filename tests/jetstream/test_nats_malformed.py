"""The table of malformed things, stored on a server among what is whole."""

from __future__ import annotations

import asyncio
import logging

import pytest
from servers import Server, make_store

import usbcast
from tests.support.malformed_things import BATCHES, good, packet
from tests.support.nodes import eventually
from usbcast import Batch, Gap

EPOCH = 0xFA4E


@pytest.mark.parametrize("name", [name for name in BATCHES if name != "more bytes than may be"])
def test_a_malformed_batch_is_counted_said_once_and_a_gap(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = BATCHES[name](EPOCH)

    async def store() -> None:
        import nats

        await make_store(server.url, "fake")
        client = await nats.connect(server.url)
        for raw in (good(EPOCH, 0), bad, good(EPOCH, 2), bad, good(EPOCH, 4), good(EPOCH, 5), bad):
            await client.jetstream().publish("usbcast.fake.batch", raw)
        await client.close()

    asyncio.run(store())
    took: list[usbcast.Event] = []

    def taken() -> bool:
        took.extend(iter(lambda: subscription.receive(0.02), None))
        ended = any(isinstance(event, Batch) and event.last_sequence == 5 for event in took)
        return ended and subscription.ledger.counters.get("malformed") == 3

    with caplog.at_level(logging.WARNING), usbcast.subscribe("fake", server.url, start=0) as subscription:
        eventually(taken, "the last batch, and what is behind it counted")
        assert subscription.ledger.discrepancy() is None
    assert [one for event in took if isinstance(event, Batch) for one in event] == [packet(n) for n in (0, 2, 4, 5)]
    assert [event for event in took if isinstance(event, Gap)] == [
        Gap(n, n, 1, "store", "could not be read") for n in (1, 3)
    ]
    assert len([record for record in caplog.records if "is not usbcast's" in record.message]) == 1

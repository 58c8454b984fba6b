"""What a server stored is what a node sent: the same batches byte by byte, the same gaps, events, restarts and end."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from forwarded import forwarding, lost, plain, records
from servers import Server

import usbcast
import usbcast.aio
from tests.support.closing import FORMS, close_often
from tests.support.nodes import (
    DEADLINE_S,
    Account,
    End,
    Restart,
    Silence,
    check_books,
    serving,
    small,
    take_all,
    take_until,
)
from usbcast import Batch, DeviceEvent, Gap
from usbcast.receiving.continuity import Delivery
from usbcast_broker.sources.simulator import Fault

TROUBLED = (
    Fault(kind="unplug", at_packet=300, duration_s=0.05),
    Fault(kind="drop", at_packet=500, count=7),
    Fault(kind="garbage", at_packet=700, bytes=33),
)


def test_a_round_trip_changes_nothing(server: Server) -> None:
    with serving(rate_hz=2000, packets=1500, faults=TROUBLED, ends=True) as served:
        with forwarding(server.url, served.endpoint, until_end=True) as forwarder:
            direct = records("sim", served.endpoint)
            stored = records("sim", server.url)
        assert [type(record) for record in stored] == [type(record) for record in direct]
        for mine, theirs in zip(stored, direct, strict=True):
            assert isinstance(mine, Delivery)
            assert isinstance(theirs, Delivery)
            assert (bytes(mine.batch.raw), mine.gaps, mine.skip) == (bytes(theirs.batch.raw), theirs.gaps, theirs.skip)
        with served.subscribe("auto", start="oldest") as subscription:
            events = take_all(subscription.events(DEADLINE_S)).events
        with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
            account = take_all(subscription.events(DEADLINE_S))
            assert [plain(event) for event in account.events] == [plain(event) for event in events]
            check_books(subscription.ledger, account)
            assert subscription.via == "nats"
            assert subscription.info.device.serial == "SIM0001"
            assert list(account.batches[0].fields) == list(events_of(events)[0].fields)
        kinds = {type(event) for event in account.events}
        assert {Batch, Gap, DeviceEvent, End} <= kinds
        ledger = forwarder.ledger()
        assert (ledger["balanced"], ledger["in"], ledger["out"], ledger["held"]) == (
            True,
            account.delivered,
            account.delivered,
            0,
        )


def events_of(events: list[usbcast.Event]) -> list[Batch]:
    return [event for event in events if isinstance(event, Batch)]


def test_for_asyncio_and_for_a_listener(server: Server) -> None:
    with serving(rate_hz=4000, packets=800, ends=True) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(1)
        account = Account(0)

        async def take() -> None:
            async with usbcast.aio.subscribe("sim", server.url, start=0) as subscription:
                async for event in subscription.events(DEADLINE_S):
                    account.take(event)

        asyncio.run(take())
        heard = Account(0)
        with usbcast.subscribe("sim", server.url, start=0) as subscription:
            assert subscription.listen(heard.take).join(DEADLINE_S)
        for one in (account, heard):
            assert bytes(one.payload) == served.expected(0, 800)
            assert one.end is not None


def test_from_now_on(server: Server) -> None:
    with serving(rate_hz=1000) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(300)
        with usbcast.subscribe("sim", server.url) as subscription:
            assert subscription.ready()
            account = Account()
            take_until(subscription, account, lambda: account.delivered >= 300)
            assert account.begin is not None
            assert account.begin >= 300
            assert account.gaps == []
            assert account.of(DeviceEvent) == []
            assert bytes(account.payload) == served.expected(account.begin, account.delivered)
            assert 0 < subscription.lag_ns < 5e9


@pytest.mark.parametrize("start", [0, 1, 700, 999])
def test_from_a_sequence(server: Server, start: int) -> None:
    with serving(rate_hz=4000, packets=1000, ends=True) as served:
        with forwarding(server.url, served.endpoint, until_end=True) as forwarder:
            forwarder.wait_idle()
        with usbcast.subscribe("sim", server.url, start=start) as subscription:
            account = take_all(subscription.events(DEADLINE_S), start)
            check_books(subscription.ledger, account)
        assert account.begin == start
        assert bytes(account.payload) == served.expected(start, 1000 - start)


def test_always_the_newest(server: Server) -> None:
    with serving(rate_hz=4000, packets=4000, ends=True) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(1)
        account = Account()
        with usbcast.subscribe("sim", server.url, deliver="latest") as subscription:
            take_until(subscription, account, lambda: account.delivered > 0)
            forwarder.wait_idle()
            for event in subscription.events(DEADLINE_S):
                account.take(event)
            check_books(subscription.ledger, account)
        assert account.end is not None
        assert account.lost > 0
        assert {gap.reason for gap in account.gaps} == {"skipped for the newest"}


def test_the_newest_of_a_stream_that_is_over(server: Server) -> None:
    with serving(rate_hz=4000, packets=300, ends=True) as served:
        with forwarding(server.url, served.endpoint) as forwarder:
            forwarder.wait_idle()
        with usbcast.subscribe("sim", server.url, deliver="latest") as subscription:
            account = take_all(subscription.events(DEADLINE_S))
        assert account.delivered > 0
        assert account.next == 300
        assert account.end is not None


def test_a_second_life_of_the_stream_is_a_restart_and_only_its_end_is_the_end(server: Server) -> None:
    epochs = []
    for packets in (300, 400):
        with serving(rate_hz=4000, packets=packets, ends=True) as served:
            epochs.append(served.pipeline.outlet.epoch)
            with forwarding(server.url, served.endpoint, until_end=True) as forwarder:
                forwarder.wait_stored(packets)
                forwarder.wait_idle()
    with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
        account = take_all(subscription.events(DEADLINE_S))
        assert subscription.info.epoch == epochs[1]
    (restart,) = account.of(Restart)
    assert (restart.old_epoch, restart.new_epoch, restart.delivered_until) == (*epochs, 300)
    assert account.delivered == 700
    assert account.end == End("the device has no more", 400)
    with usbcast.subscribe("sim", server.url, start=390) as subscription:
        assert take_all(subscription.events(DEADLINE_S), 390).delivered == 10


def test_what_the_ring_had_lost_before_it_was_forwarded_is_an_exact_gap_for_every_reader(server: Server) -> None:
    settings = small(ring_size=1 << 20, batch_size=8192)
    with serving(rate_hz=4000, packets=500) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(500)
    with serving(rate_hz=0, packets=30_000, fifo_bytes=1 << 24, settings=settings, ends=True) as served:
        # The position that the server holds is of another epoch, so all that this ring has comes, from its oldest on.
        served.wait_published(30_000)
        oldest = served.oldest
        assert oldest > 0
        with forwarding(server.url, served.endpoint, until_end=True) as forwarder:
            forwarder.wait_idle()
            assert forwarder.ledger()["lost"] == {"ring: overwritten in the ring": oldest}
            assert forwarder.ledger()["balanced"]
        with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
            account = take_all(subscription.events(DEADLINE_S))
            check_books(subscription.ledger, account)
        assert lost(account.events) == [(0, oldest - 1, oldest)]
        assert account.gaps[0].stage == "ring"
        assert bytes(account.payload)[500 * 112 :] == served.expected(oldest, 30_000 - oldest)


@pytest.mark.slow
def test_silence_is_told_when_nobody_forwards_any_more(server: Server) -> None:
    with serving(rate_hz=500) as served:
        with forwarding(server.url, served.endpoint) as forwarder:
            forwarder.wait_stored(100)
            subscription = usbcast.subscribe("sim", server.url)
            assert subscription.ready()
        with subscription:
            account = Account()
            take_until(subscription, account, lambda: bool(account.of(Silence)))
            assert account.of(Silence)[0].duration_ns >= 3_000_000_000
            stored = account.next
            with forwarding(server.url, served.endpoint):
                take_until(subscription, account, lambda: (account.next or 0) > (stored or 0) + 100)
            assert account.gaps == []
            assert len(account.of(Silence)) == 1


@pytest.mark.slow
def test_no_silence_while_the_device_says_nothing(server: Server) -> None:
    with serving(rate_hz=1000, packets=50) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(50)
        with usbcast.subscribe("sim", server.url) as subscription:
            assert subscription.ready()
            until = time.monotonic() + 4
            while time.monotonic() < until:
                assert subscription.receive(0.2) is None


@pytest.mark.parametrize("form", FORMS)
def test_a_reader_whose_subscription_is_closed_ends_at_once_and_cleanly(server: Server, form: str) -> None:
    with serving(rate_hz=2000) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(100)
        told = close_often(server.url, "nats", form, 8)
    assert (told.ended, told.wrong) == (8, [])


def test_a_reader_that_is_closed_while_it_connects_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE_S)
        with usbcast.subscribe("sim", f"nats://127.0.0.1:{listening.getsockname()[1]}"):
            taken, _ = listening.accept()  # and says nothing
        with taken:
            taken.settimeout(DEADLINE_S)
            assert taken.recv(1) == b""

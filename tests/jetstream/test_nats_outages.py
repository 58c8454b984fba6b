"""Servers and forwarders killed in mid-stream: nothing is lost while the ring holds it, nothing is ever there twice."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forwarded import forwarding, program, records
from servers import Cluster, Server, make_store

import usbcast
from tests.support.nodes import DEADLINE_S, Account, check_books, eventually, serving, small, take_all
from usbcast import Batch, End, Silence
from usbcast.jetstream.store import Retention
from usbcast.receiving.continuity import Delivery

pytestmark = pytest.mark.slow

LONG_S = 60.0


class Reader:
    """A subscription that is read from the beginning to the end in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.account = Account(0)
        self.error: BaseException | None = None
        self._stopped = threading.Event()
        self._subscription = usbcast.subscribe("sim", url, start="oldest")
        self._thread = threading.Thread(target=self._read, name="reader")
        self._thread.start()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._subscription.close()

    def finish(self) -> Account:
        """The account, once the end has come."""
        self._thread.join(LONG_S)
        if self.error is not None:
            raise self.error
        assert not self._thread.is_alive(), f"no end; {self.account.delivered} packets came"
        check_books(self._subscription.ledger, self.account)
        return self.account

    def _read(self) -> None:
        try:
            while not self._stopped.is_set() and self.account.end is None:
                event = self._subscription.receive(0.1)
                if event is not None:
                    self.account.take(event)
        except (AssertionError, usbcast.UsbcastError) as error:
            self.error = error


@contextlib.contextmanager
def read_twice(url: str, expected: bytes) -> Iterator[Reader]:
    """A live reader over the body's events; then both it and one who comes later have all, once."""
    with Reader(url) as reader:
        yield reader
        live = reader.finish()
    assert live.gaps == []
    assert bytes(live.payload) == expected
    numbers = [record.batch.number for record in records("sim", url) if isinstance(record, Delivery)]
    assert numbers == list(range(len(numbers))), "every batch is stored once, in order"
    with usbcast.subscribe("sim", url, start="oldest") as subscription:
        later = take_all(subscription.events(DEADLINE_S))
        assert later.end is not None, f"{later.delivered} packets came, then: {subscription.unreachable()}"
    assert bytes(later.payload) == expected


@pytest.mark.parametrize(("rate_hz", "packets"), [pytest.param(200, 800, marks=pytest.mark.slow), (10_000, 40_000)])
def test_a_server_that_is_killed_and_comes_back(server: Server, rate_hz: int, packets: int) -> None:
    settings = small(ring_size=32 << 20, ring_slots=1 << 17)
    with (
        serving(rate_hz=rate_hz, packets=packets, ends=True, settings=settings) as served,
        forwarding(server.url, served.endpoint) as forwarder,
    ):
        forwarder.wait_stored(packets // 8)
        with read_twice(server.url, served.expected(0, packets)) as reader:
            eventually(lambda: reader.account.delivered > 0)
            server.kill()
            before = served.published
            served.wait_published(min(packets, before + packets // 8))
            server.start()
            forwarder.wait_stored(packets)
            assert forwarder.ledger()["balanced"]
            assert forwarder.ledger()["in"] == packets
            assert forwarder.seen.figures()["sim"]["interruptions"] >= 1


@pytest.mark.slow
def test_a_forwarder_that_is_killed_again_and_again(server: Server) -> None:
    packets = 20_000
    settings = small(ring_size=32 << 20, ring_slots=1 << 17)
    with serving(rate_hz=5000, packets=packets, ends=True, settings=settings) as served:
        first = program(server.url, served.endpoint)
        with first:
            first.hear("figures", where=lambda said: said["ledger"]["out"] > 100)
            with read_twice(server.url, served.expected(0, packets)) as reader:
                for _ in range(2):
                    first.kill()
                    stood = reader.account.delivered
                    with program(server.url, served.endpoint) as next_one:
                        eventually(lambda stood=stood: reader.account.delivered > stood + 1000)
                        next_one.signal(signal.SIGKILL)
                        next_one.finish()
                with program(server.url, served.endpoint) as last:
                    last.hear("figures")
                    reader.finish()
                    last.signal(signal.SIGTERM)
                    assert last.finish() == 0, last.stderr


@pytest.mark.slow
def test_two_forwarders_of_one_stream_store_nothing_twice(server: Server) -> None:
    with serving(rate_hz=1000, packets=3000, ends=True) as served, forwarding(server.url, served.endpoint) as one:
        one.wait_stored(100)
        with (
            read_twice(server.url, served.expected(0, 3000)) as reader,
            forwarding(server.url, served.endpoint) as other,
        ):
            reader.finish()
            one.wait_idle()
            other.wait_idle()
            for forwarder in (one, other):
                assert forwarder.ledger()["balanced"]
                assert forwarder.ledger()["held"] == 0


@pytest.mark.slow
def test_a_stopped_forwarder_that_wakes_when_its_message_ids_are_forgotten_stores_nothing_twice(server: Server) -> None:
    """What it still sends was stored by another one long ago: only the expected sequence tells."""
    packets = 16_000
    asyncio.run(make_store(server.url, "sim", duplicate_window=0.1))
    settings = small(ring_size=32 << 20, ring_slots=1 << 17)
    with (
        serving(rate_hz=4000, packets=packets, ends=True, settings=settings) as served,
        program(server.url, served.endpoint) as sleeper,
    ):
        sleeper.hear("figures", where=lambda said: said["ledger"]["out"] > 100)
        with read_twice(server.url, served.expected(0, packets)) as reader:
            sleeper.signal(signal.SIGSTOP)
            stood = reader.account.delivered
            with forwarding(server.url, served.endpoint) as other:
                eventually(lambda: reader.account.delivered > stood + 4000)
                sleeper.signal(signal.SIGCONT)
                sleeper.hear("figures", where=_met_another)
                reader.finish()
                other.wait_idle()
                assert other.ledger()["balanced"]


def _met_another(said: dict[str, Any]) -> bool:
    return bool(said["interruptions"] or said["ledger"]["counters"].get("was there already"))


@pytest.mark.slow
def test_what_the_ring_loses_during_an_outage_is_an_exact_gap(server: Server) -> None:
    settings = small(ring_size=1 << 20, batch_size=8192)
    with (
        serving(rate_hz=20_000, packets=60_000, settings=settings, ends=True) as served,
        forwarding(server.url, served.endpoint) as forwarder,
    ):
        forwarder.wait_stored(2000)
        server.kill()
        stood = served.published
        eventually(lambda: served.oldest > stood + 1000)
        server.start()
        forwarder.wait_idle()
        with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
            account = take_all(subscription.events(DEADLINE_S), 0)
            check_books(subscription.ledger, account)
        # The last gaps of a forwarder that cannot keep up are as exact; the first is that of the outage.
        assert account.gaps[0].first <= stood
        assert {(gap.stage, gap.reason) for gap in account.gaps} == {("ring", "overwritten in the ring")}
        assert account.delivered + account.lost == 60_000
        ledger = forwarder.ledger()
        assert (ledger["balanced"], ledger["in"], ledger["out"]) == (True, 60_000, account.delivered)
        assert ledger["lost"] == {"ring: overwritten in the ring": account.lost}
        for batch in account.of(Batch):
            assert bytes(batch.payload) == served.expected(batch.first_sequence, len(batch))


@pytest.mark.slow
def test_a_server_that_lost_all_it_had_is_given_it_again(server: Server, tmp_path: Path) -> None:
    with (
        serving(rate_hz=1000, packets=3000, ends=True) as served,
        forwarding(server.url, served.endpoint) as forwarder,
    ):
        forwarder.wait_stored(1000)
        server.kill()
        shutil.rmtree(tmp_path / "store" / "jetstream")
        server.start()
        forwarder.wait_idle()
        with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
            account = take_all(subscription.events(DEADLINE_S), 0)
        assert bytes(account.payload) == served.expected(0, 3000)
        assert forwarder.ledger()["counters"]["went back"] == 1


@pytest.mark.slow
def test_a_server_that_hangs_and_wakes(server: Server) -> None:
    packets = 8000
    with (
        serving(
            rate_hz=500, packets=packets, ends=True, settings=small(ring_size=32 << 20, ring_slots=1 << 17)
        ) as served,
        forwarding(server.url, served.endpoint) as forwarder,
    ):
        forwarder.wait_stored(300)
        with read_twice(server.url, served.expected(0, packets)) as reader:
            eventually(lambda: reader.account.delivered > 0)
            server.signal(signal.SIGSTOP)
            eventually(lambda: forwarder.seen.figures()["sim"]["trouble"])
            server.signal(signal.SIGCONT)
            eventually(lambda: not forwarder.seen.figures()["sim"]["trouble"])
            assert len(reader.account.of(Silence)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("rate_hz", "packets"), [(100, 1500), (10_000, 100_000)])
@pytest.mark.parametrize("whom", ["leader", "another"])
def test_a_cluster_of_three_of_which_one_is_killed(cluster: Cluster, rate_hz: int, packets: int, whom: str) -> None:
    settings = small(ring_size=64 << 20, ring_slots=1 << 18)
    with (
        serving(rate_hz=rate_hz, packets=packets, ends=True, settings=settings) as served,
        forwarding(cluster.url, served.endpoint, retention=Retention(replicas=3)) as forwarder,
    ):
        forwarder.wait_stored(packets // 10)
        leader = cluster.leader_of("usbcast-sim")
        killed = leader if whom == "leader" else next(one for one in cluster.servers if one is not leader)
        with read_twice(cluster.url, served.expected(0, packets)) as reader:
            eventually(lambda: reader.account.delivered > packets // 20)
            killed.kill()
            stood = reader.account.delivered
            try:
                eventually(lambda: reader.account.delivered > stood + packets // 10, "it goes on", LONG_S)
                killed.start()
                eventually(lambda: forwarder.ledger()["out"] >= packets, "all is acknowledged", LONG_S)
            except AssertionError:
                print(
                    whom, reader.account.delivered, forwarder.seen.figures(), forwarder.warnings
                )  # for who looks into it
                print("\n".join(server.log() for server in cluster.servers))
                raise
            assert forwarder.ledger()["balanced"]
            assert forwarder.ledger()["lost"] == {}
        assert reader.account.of(End)
        assert len(reader.account.of(Silence)) <= 1

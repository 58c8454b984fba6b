"""A bridge and its subscribers in this process: what it carries, what it leaves out, and what it refuses."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.nodes import (
    WAYS,
    Account,
    Served,
    bridging,
    check_packets,
    eventually,
    hurry,
    quick_profile,
    serving,
    small,
    take_until,
)
from usbcast import NodeClient, subscribe
from usbcast.bridge.bridge import Bridge
from usbcast.bridge.choice import Choice, Choices
from usbcast.bridge.options import BridgeOptions, parse_upstream
from usbcast_broker.node import Node
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_schemas.errors import CommandFailed, ConfigError, NodeUnreachable, UsageError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

SIZE = 112
SLOWER_WAYS = ["push", *(pytest.param(via, marks=pytest.mark.slow) for via in ("notify", "ring"))]


@contextmanager
def thinned(served: Served, choice: Choice) -> Iterator[Node]:
    with bridging(served.endpoint, choices=Choices(otherwise=choice)) as node:
        yield node


def take(node: Node, via: str, start: str | int = 0) -> tuple[Account, Ledger]:
    """All of the stream until its end."""
    eventually(lambda: node.pipelines[0].outlet.next_number, "the bridge has begun")
    account = Account()
    with subscribe("sim", node.endpoint, start=start, via=via) as subscription:
        for event in subscription.events(10):
            account.take(event)
        return account, subscription.ledger


def books_of(node: Node) -> dict[str, pb.Ledger]:
    (found,) = node.health()
    assert list(found.discrepancies) == []
    return {ledger.stage: ledger for ledger in found.ledgers}


def check_left_out(account: Account, ledger: Ledger, reason: str) -> None:
    """Nothing is lost; what is missing is said to be left out, and why."""
    assert {(gap.stage, gap.on_purpose) for gap in account.gaps} == {("bridge", True)}
    assert reason in {gap.reason for gap in account.gaps}
    assert (ledger.lost, ledger.discrepancy()) == ({}, None)
    assert ledger.overhead == account.lost >= ledger.counters[f"left out: {reason}"]
    assert ledger.left == account.delivered


@pytest.mark.parametrize("via", WAYS)
def test_one_of_ten_packets(via: str) -> None:
    reason = "left out on purpose: one of 10 packets is carried"
    with serving(rate_hz=4000, packets=1005, ends=True) as served, thinned(served, Choice(every=10)) as node:
        account, ledger = take(node, via)
        assert account.sequences == list(range(0, 1005, 10))
        assert check_packets(account.payload, SIZE) == account.sequences
        check_left_out(account, ledger, reason)
        assert account.delivered + account.lost == 1005
        assert account.end is not None
        assert account.end.packets == 1005
        books = books_of(node)
        assert (books["upstream"].left, books["bridge"].overhead, books["outlet"].left) == (1005, 904, 101)
        assert not dict(books["bridge"].lost)
        with NodeClient(served.endpoint) as whole, NodeClient(node.endpoint) as part:
            assert whole.describe()[0].epoch != part.describe()[0].epoch


def test_two_bridges_that_carry_one_of_ten_are_one_to_a_subscriber() -> None:
    with serving(rate_hz=4000, packets=1000, ends=True) as served, thinned(served, Choice(every=10)) as one:
        served.wait_published(500)
        with thinned(served, Choice(every=10)) as other:
            first, _ = take(one, "notify")
            second, _ = take(other, "notify")
            assert [b.encoded.raw for b in first.batches] == [b.encoded.raw for b in second.batches]


@pytest.mark.parametrize("via", SLOWER_WAYS)
def test_the_newest_twenty_times_a_second(via: str) -> None:
    with serving(rate_hz=2000, packets=2000, ends=True) as served, thinned(served, Choice(latest_hz=20)) as node:
        account, ledger = take(node, via, "oldest")
        check_left_out(account, ledger, "left out on purpose: the newest is carried, 20 times a second")
        assert 10 <= len(account.batches) <= 30, "a second, and what came at its begin and end"
        assert account.next == 2000
        books = books_of(node)
        assert books["upstream"].overhead > books["upstream"].left
        assert not dict(books["upstream"].lost)


@pytest.mark.slow
@pytest.mark.parametrize("via", WAYS)
def test_at_most_so_many_bytes_a_second(via: str) -> None:
    limit = 40_000
    with serving(rate_hz=2000, packets=10_000, ends=True) as served, thinned(served, Choice(limit=limit)) as node:
        begin_s = time.monotonic()
        account, ledger = take(node, via)
        took_s = time.monotonic() - begin_s
        check_left_out(account, ledger, f"left out on purpose: at most {limit} bytes a second are carried")
        carried = sum(len(batch.encoded.raw) for batch in account.batches)
        assert carried <= limit * (took_s + 2), "a second's worth at once, and one batch too much"
        assert carried >= limit * 2
        assert account.next == 10_000
        assert account.end is not None
        books_of(node)


@pytest.mark.slow
def test_below_its_limit_nothing_is_left_out() -> None:
    with serving(rate_hz=500, packets=1000, ends=True) as served, thinned(served, Choice(limit=1_000_000)) as node:
        account, _ = take(node, "push")
        assert (account.delivered, account.gaps) == (1000, [])


@pytest.mark.slow
def test_on_demand_nothing_is_carried_for_nobody() -> None:
    with serving(rate_hz=1000) as served, thinned(served, Choice(on_demand=True)) as node:
        with NodeClient(served.endpoint) as client:
            eventually(lambda: client.describe()[0].next_sequence > 2000)
        outlet = node.pipelines[0].outlet
        assert books_of(node)["outlet"].left == 0
        eventually(lambda: outlet.next_sequence > 1000, "it says how far the stream has come")
        account = Account()
        with subscribe("sim", node.endpoint, via="notify") as subscription:
            assert subscription.ready()
            take_until(subscription, account, lambda: account.delivered >= 1000)
        assert {gap.on_purpose for gap in account.gaps} <= {True}
        assert account.begin is not None
        assert account.begin > 1000
        assert books_of(node)["outlet"].left >= 1000
        reason = "left out on purpose: nobody asked for it"
        books = books_of(node)
        assert books["upstream"].counters[f"left out: {reason}"] == books["upstream"].overhead > 0


def test_choices_go_by_the_first_pattern_that_fits() -> None:
    choices = Choices((("imu*", Choice(every=2)), ("i*", Choice(every=3))), Choice(every=4))
    assert [choices.of(name).every for name in ("imu-left", "ir", "adc")] == [2, 3, 4]


def test_two_upstreams_with_a_stream_of_one_name() -> None:
    with serving(rate_hz=500) as one, serving(rate_hz=500, seed=1) as two:
        clash = "would be called 'sim' here: give the streams of one of them a prefix"
        with pytest.raises(ConfigError, match=clash), bridging(one.endpoint, two.endpoint):
            pass
        with bridging(one.endpoint, f"lab={two.endpoint}") as node:
            for stream, served in (("sim", one), ("lab-sim", two)):
                account = Account(0)
                with subscribe(stream, node.endpoint, start=0, via="push") as subscription:
                    take_until(subscription, account, lambda account=account: account.delivered >= 300)
                assert bytes(account.payload) == served.expected(0, account.delivered)


@pytest.mark.slow
def test_streams_that_appear_later_are_added() -> None:
    with Node(small()) as upstream:
        device = SimulatedDevice(SimulatorConfig(rate_hz=500))
        hurry(add_device(upstream, quick_profile(device.config, "imu"), backend=SimulatorBackend([device])))
        other = SimulatedDevice(SimulatorConfig(rate_hz=500))
        hurry(add_device(upstream, quick_profile(other.config, "other"), backend=SimulatorBackend([other])))
        with Node(small()) as node:
            bridge = Bridge(node, BridgeOptions((parse_upstream("tcp://127.0.0.1:1"),), ("imu*",)))
            with pytest.raises(NodeUnreachable, match="--wait starts the bridge anyway"):
                bridge.connect()
            bridge.stop()
        upstream.start()
        with Node(small()) as node:
            options = BridgeOptions((parse_upstream(upstream.endpoint),), ("nothing",))
            bridge = Bridge(node, options)
            with pytest.raises(UsageError, match=r"no stream of tcp://.* is called nothing"):
                bridge.connect()
            bridge.connect(wait=True)
            bridge._options = dataclasses.replace(options, streams=("imu*",))
            node.start()
            bridge.watch()
            try:
                eventually(lambda: bridge.streams)
                with subscribe("imu", start=0) as subscription:  # found by its record as any other
                    account = Account(0)
                    take_until(subscription, account, lambda: account.delivered >= 200)
                assert list(bridge.streams) == ["imu"]
            finally:
                bridge.stop()


def test_commands_go_to_the_device_and_back() -> None:
    with serving(rate_hz=500) as served, bridging(served.endpoint) as first, bridging(first.endpoint) as second:
        with subscribe("sim", second.endpoint, via="push") as subscription:
            answers = [subscription.command(0xC0, 1, length=2) for _ in range(3)]
        with subscribe("sim", served.endpoint, via="push") as subscription:
            assert answers == [subscription.command(0xC0, 1, length=2)] * 3
        with subscribe("sim", second.endpoint, via="push") as subscription, pytest.raises(CommandFailed):
            subscription.write(0x77, b"x")


def test_commands_that_are_not_passed_on() -> None:
    with (
        serving(rate_hz=500) as served,
        bridging(served.endpoint, commands=False) as node,
        subscribe("sim", node.endpoint, via="push") as subscription,
        pytest.raises(CommandFailed, match="the bridge does not forward commands to tcp://"),
    ):
        subscription.command(0xC0, 1, length=2)


def test_a_batch_that_is_larger_than_the_ring_is_a_declared_loss() -> None:
    """The publisher goes on."""
    settings = small(ring_size=1 << 25, batch_size=2 << 20, batch_age_ms=300)
    device: dict[str, Any] = {"rate_hz": 0, "packets": 60_000, "fifo_bytes": 1 << 24}
    with serving(**device, settings=settings, ends=True) as served:
        served.wait_published(60_000)
        with bridging(served.endpoint, settings=small(ring_size=1 << 20)) as node:
            for via in WAYS:
                account, ledger = take(node, via)
                assert account.delivered + account.lost == 60_000
                assert {gap.reason for gap in account.gaps} == {"larger than the ring of the bridge"}
                assert {gap.stage for gap in account.gaps} == {"bridge"}
                assert ledger.discrepancy() is None
                assert account.end is not None
            assert books_of(node)["outlet"].lost["larger than the ring of the bridge"] == account.lost > 0
            assert not node.problem


def test_packets_too_large_for_any_ring_are_refused_at_the_start() -> None:
    with (
        serving(rate_hz=10, packet_size=400_000, settings=small(ring_size=1 << 22)) as served,
        pytest.raises(ConfigError, match="a ring must hold at least four, so give --ring-size 1600000"),
        bridging(served.endpoint, settings=small(ring_size=1 << 20)),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lab:5570", "is not an endpoint"),
        ("Lab=tcp://lab:5570", "'Lab' is not a valid prefix for stream names"),
        ("=tcp://lab:5570", "'' is not a valid prefix for stream names"),
    ],
)
def test_upstreams_that_cannot_be(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_upstream(text)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"every": 2, "on_demand": True}, "every and on_demand are given for one stream"),
        ({"every": 0}, "every is 0: from 1 to 1000000 is allowed"),
        ({"latest_hz": 5000.0}, "latest_hz is 5000.0"),
        ({"limit": 5}, "limit is 5: from 100"),
    ],
)
def test_choices_that_cannot_be(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Choice(**wrong)

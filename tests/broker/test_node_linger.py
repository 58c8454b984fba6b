"""A node that ended goes on answering for a while; when it is told to hurry, only for live subscriptions that lack the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import usbcast
from tests.support.nodes import DEADLINE_S, eventually
from usbcast import End
from usbcast_broker.node import Node
from usbcast_broker.serving.reports import ALIVE_NS
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import SimulatorConfig


def test_who_tells_a_lingering_node_to_hurry_does_not_wait_for_it() -> None:
    with Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=1 << 20)) as node:
        pipeline, _ = add_simulated(node, SimulatorConfig(), "sim")
        node.start()
        hurry = threading.Event()
        stopping = threading.Thread(target=lambda: node.stop("enough", linger_s=60, hurry=hurry))
        stopping.start()
        deadline = time.monotonic() + 10
        while not pipeline.outlet.ended:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert stopping.is_alive()
        hurry.set()
        stopping.join(10)
        assert not stopping.is_alive()


@contextmanager
def followed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Node, usbcast.Subscription, threading.Event]]:
    """A node that would wait very long for those who lack the end, a subscription that would, and the wish to hurry."""
    monkeypatch.setattr("usbcast_broker.node.AWAITED_LINGER_S", 60.0)
    hurry = threading.Event()
    hurry.set()
    with Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=1 << 20)) as node:
        add_simulated(node, SimulatorConfig(), "sim")
        node.start()
        # By notify: what it has not fetched when the node is gone it will never have.
        with usbcast.subscribe("sim", node.endpoint, via="notify") as stream:
            assert stream.ready(DEADLINE_S)
            eventually(lambda: [report.via for report in node.health()[0].subscriptions] == ["notify"])
            yield node, stream, hurry


def test_a_hurried_node_waits_for_who_is_about_to_get_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast_broker.serving.reports.ALIVE_NS", 60_000_000_000)
    with followed(monkeypatch) as (node, stream, hurry):
        stopping = threading.Thread(target=lambda: node.stop("enough", linger_s=60, hurry=hurry))
        stopping.start()
        stopping.join(0.9)  # longer than it waits for nobody in particular
        assert stopping.is_alive()
        *_, last = stream.events()
        assert isinstance(last, End)
        assert stream.ledger.discrepancy() is None
        stream.close()  # it says how it ended
        stopping.join(DEADLINE_S)
        assert not stopping.is_alive(), "it does not wait for who has the end"


@pytest.mark.slow
def test_a_hurried_node_does_not_wait_for_who_says_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast_broker.serving.reports.KEPT_NS", 600_000_000_000)
    with followed(monkeypatch) as (node, _, hurry):
        eventually(lambda: node.health()[0].subscriptions[0].age_ns > ALIVE_NS)
        stopping = threading.Thread(target=lambda: node.stop("enough", linger_s=60, hurry=hurry))
        stopping.start()
        stopping.join(DEADLINE_S)
        assert not stopping.is_alive()

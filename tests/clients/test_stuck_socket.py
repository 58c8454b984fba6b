"""A data socket that sends nothing, though the node lives: what is published reaches subscribers by fetches instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import usbcast
from tests.support.fake_node import STREAM, FakeNode
from tests.support.nodes import Account, Served, eventually, serving, take_until
from usbcast import Silence
from usbcast.receiving.channels import published
from usbcast_broker.serving import data_socket
from usbcast_schemas.fanout import PyzmqFanout


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers take the data socket on the network; and all data sockets can be stopped."""
    monkeypatch.setattr(published, "host_id", lambda: "another host")
    monkeypatch.setattr(data_socket, "fanout_of", PyzmqFanout)


@contextmanager
def stuck(served: Served) -> Iterator[None]:
    """Keep the network's data socket in use, as libzmq does while it works on what peers have caused."""
    fanout = served.node._publisher._sockets[0].fanout
    assert isinstance(fanout, PyzmqFanout)
    with fanout._use:
        yield


@pytest.mark.slow
@pytest.mark.parametrize("via", ["push", "notify"])
@pytest.mark.usefixtures("distant")
def test_a_moving_stream_goes_on_by_fetches(via: str) -> None:
    """Before three seconds are over, after which silence would be told, and then described and fetched."""
    with serving(rate_hz=500) as served, served.subscribe(via, start=0) as subscription:
        account = Account(0)
        take_until(subscription, account, lambda: account.delivered > 100)
        with stuck(served):
            here = account.delivered
            take_until(subscription, account, lambda: account.delivered > here + 2000)
        here = account.delivered
        take_until(subscription, account, lambda: account.delivered > here + 200)
        assert account.of(Silence) == []
        assert account.gaps == []
        assert subscription.ledger.discrepancy() is None


@pytest.mark.parametrize("via", ["push", "notify"])
def test_what_nobody_speaks_of_is_found_without_describing_again(via: str) -> None:
    with FakeNode() as node, usbcast.subscribe(STREAM, node.endpoint, start=0, via=via) as subscription:
        account = Account(0)

        def came(packets: int) -> bool:
            node.notify()
            return account.delivered >= packets

        node.batch()
        take_until(subscription, account, lambda: came(1))
        for count in range(2, 6):
            node.batch(publish=False)
            take_until(subscription, account, lambda count=count: account.delivered >= count)
        assert node.asked.count("describe") == 1
        assert account.of(Silence) == []
        assert account.gaps == []


def test_a_question_that_is_not_answered_holds_nothing_up() -> None:
    """What comes by the data socket after all is delivered while the question waits for its answer."""
    with FakeNode() as node, usbcast.subscribe(STREAM, node.endpoint, start=0, via="push") as subscription:
        account = Account(0)

        def came(packets: int) -> bool:
            node.notify()
            return account.delivered >= packets

        node.batch()
        take_until(subscription, account, lambda: came(1))
        asked = node.asked.count("fetch")
        node.answer = lambda request: [] if request.WhichOneof("body") == "fetch" else node.honest(request)
        eventually(lambda: subscription.receive(0.01) is None and node.asked.count("fetch") > asked)
        node.batch()
        take_until(subscription, account, lambda: account.delivered >= 2)
        assert node.asked.count("fetch") == asked + 1
        assert account.of(Silence) == []


@pytest.mark.slow
def test_a_connection_that_stays_mute_is_replaced() -> None:
    """Its node answers and fetches bring all there is; but what is dead below would never speak again."""
    with FakeNode() as node, usbcast.subscribe(STREAM, node.endpoint, start=0, via="push") as subscription:
        account = Account(0)

        def came(packets: int) -> bool:
            node.notify()
            return account.delivered >= packets

        node.batch()
        take_until(subscription, account, lambda: came(1))
        first = subscription._receiver._channel  # type: ignore[union-attr]
        eventually(
            lambda: subscription.receive(0.05) is None and subscription._receiver._channel is not first  # type: ignore[union-attr]
        )
        assert node.asked.count("describe") == 2
        node.batch()
        take_until(subscription, account, lambda: came(2))
        assert account.of(Silence) == []

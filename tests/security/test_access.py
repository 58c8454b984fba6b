"""Who has no key, a wrong one, or one without the right: refused at once, in words on both sides, and given nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket as posix
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from parties import AT_ONCE_S, Keyed, intruder, keyed

import usbcast
import usbcast.aio
from tests.support.nodes import WAYS, Account, eventually, serving, take_until
from usbcast import NodeClient
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import AccessRefused, KeysError
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import ClientKey, Rights, key_text, short_text
from usbcast_schemas.v1 import usbcast_pb2 as pb

DESCRIBE = pb.Request(contract=CONTRACT, request_id=1, describe=pb.DescribeRequest()).SerializeToString()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Keyed]:
    with keyed(tmp_path) as found:
        yield found


def refusal(node: Keyed, via: str, keys: Path | None) -> str:
    """What a subscriber is told, which comes at once."""
    begun = time.monotonic()
    with (
        usbcast.subscribe(node.served.stream, node.endpoint, start="oldest", via=via, keys=keys) as subscription,
        pytest.raises(AccessRefused) as raised,
    ):
        subscription.ready(10)
    assert time.monotonic() - begun < AT_ONCE_S
    assert subscription.ledger.entered == 0
    return str(raised.value)


@pytest.mark.parametrize("via", WAYS)
@pytest.mark.parametrize("rights", [Rights.READ, Rights.COMMAND])
def test_who_is_allowed_gets_every_packet(node: Keyed, via: str, rights: Rights) -> None:
    alice = node.client("alice", rights)
    with node.served.subscribe(via, start=0, keys=alice.directory) as subscription:
        account = Account(0)
        take_until(subscription, account, lambda: account.delivered > 100)
        assert account.gaps == []
        assert subscription.via == via


def test_keys_are_taken_from_the_environment(node: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = node.client("alice", Rights.READ)
    monkeypatch.setenv("USBCAST_KEYS", str(alice.directory))
    with node.served.subscribe("push") as subscription:
        assert subscription.ready()
    with NodeClient(node.endpoint) as client:
        assert client.describe()


def test_the_owner_of_the_node_needs_no_permission_and_no_known_node(node: Keyed) -> None:
    """By the node's own keys, also without an address: the record in the runtime directory says the rest."""
    with usbcast.subscribe(node.served.stream, keys=node.ring.directory) as subscription:
        assert subscription.ready()


@pytest.mark.parametrize("via", WAYS)
def test_a_client_without_a_key(node: Keyed, via: str, caplog: pytest.LogCaptureFixture) -> None:
    told = refusal(node, via, None)
    assert told.startswith(
        f"the node at {node.endpoint} lets in only clients with a key, and you gave none: give --keys"
    )
    assert node.counts("no key") >= 1
    eventually(lambda: "refused 127.0.0.1: no key" in caplog.text, "it is named", AT_ONCE_S)


@pytest.mark.parametrize("via", WAYS)
def test_a_client_whose_key_was_never_allowed(node: Keyed, via: str, caplog: pytest.LogCaptureFixture) -> None:
    eve = node.client("eve")
    own = eve.own().public
    told = refusal(node, via, eve.directory)
    assert f"does not let in your key {short_text(own, 'eve')}" in told
    assert f"usbcast keys allow {key_text(own)} --name eve --keys DIR" in told
    assert node.counts("key not allowed") >= 1
    named = [record.message for record in caplog.records if short_text(own) in record.message]
    assert len(named) == 1, "once, however often it tries"
    assert f"usbcast keys allow {key_text(own)}" in named[0]


def test_the_same_for_asyncio(node: Keyed) -> None:
    eve = node.client("eve")

    async def subscribe() -> None:
        async with usbcast.aio.subscribe(node.served.stream, node.endpoint, via="push", keys=eve.directory) as stream:
            await stream.ready(10)

    with pytest.raises(AccessRefused, match="does not let in your key"):
        asyncio.run(subscribe())


def test_the_same_for_a_listener(node: Keyed) -> None:
    with node.served.subscribe("push", keys=node.client("eve").directory) as subscription:
        listening = subscription.listen(print)
        with pytest.raises(AccessRefused, match="does not let in your key"):
            listening.join(AT_ONCE_S)


def test_a_client_that_expects_another_node(node: Keyed) -> None:
    alice = node.client("alice", Rights.READ)
    other = Keyring.create(node.home / "other", "other").own().public
    alice.trust(node.endpoint, other)
    told = refusal(node, "push", alice.directory)
    assert f"does not have the expected key {short_text(other)}" in told
    assert f"usbcast keys trust {node.endpoint} KEY --keys {alice.directory}" in told
    assert node.counts("encrypted for a node with another key") >= 1


def test_a_client_with_keys_and_a_node_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alice = Keyring.create(tmp_path / "alice", "alice")
    with serving(rate_hz=500) as served:
        with (
            pytest.raises(AccessRefused, match="has no keys, but you gave the keys in"),
            served.subscribe("push", keys=alice.directory) as subscription,
        ):
            subscription.ready()
        # As one on another machine, which does not see the node's record.
        alice.trust(served.endpoint, alice.own().public)
        with (
            pytest.raises(AccessRefused, match="has no keys, but you expect the key"),
            served.subscribe("push", keys=alice.directory) as subscription,
        ):
            subscription.ready()
        with NodeClient(served.endpoint) as client:
            eventually(
                lambda: client.health().refused["encrypted, and this node has no keys"], "it is counted", AT_ONCE_S
            )
        eventually(lambda: "127.0.0.1: encrypted, and this node has no keys" in caplog.text, "it is named", AT_ONCE_S)


def test_a_node_on_another_machine_whose_key_is_not_known(tmp_path: Path) -> None:
    alice = Keyring.create(tmp_path / "alice", "alice")
    with (
        usbcast.subscribe("imu", "tcp://lab.example:5570", keys=alice.directory) as subscription,
        pytest.raises(KeysError) as raised,
    ):
        subscription.ready()
    assert "the key of the node at tcp://lab.example:5570 is not known, so it could be anybody" in str(raised.value)
    assert f"usbcast keys trust tcp://lab.example:5570 KEY --keys {alice.directory}" in str(raised.value)


def test_read_rights_do_not_command(node: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob = node.client("alice", Rights.READ), node.client("bob", Rights.COMMAND)
    with node.served.subscribe("push", keys=alice.directory) as subscription:
        assert subscription.ready()
        with pytest.raises(
            AccessRefused, match=r"alice.* may read, but not command the device: usbcast keys allow .* --rights command"
        ):
            subscription.command(0xC0, 1, length=2)
        account = Account()
        take_until(subscription, account, lambda: account.delivered > 20)
        assert subscription.ready(0), "it goes on reading"
    assert node.counts("command without the right to") == 1
    assert short_text(alice.own().public, "alice") in caplog.text
    with node.served.subscribe("push", keys=bob.directory) as subscription:
        assert len(subscription.command(0xC0, 1, length=2)) == 2
    node.ring.allow(ClientKey(alice.own().public, "alice", Rights.COMMAND))
    with node.served.subscribe("push", keys=alice.directory) as subscription:
        eventually(lambda: _commands(subscription), "the new right counts without a restart", AT_ONCE_S)


def _commands(subscription: usbcast.Subscription) -> bool:
    try:
        return bool(subscription.command(0xC0, 1, length=2))
    except AccessRefused:
        return False


@pytest.mark.parametrize("who", ["no key", "a key that was never allowed", "a revoked key", "a key for another node"])
@pytest.mark.slow
def test_no_packet_reaches_an_intruder(node: Keyed, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """With raw sockets, which try again and again, while somebody who is allowed receives."""
    caplog.set_level(logging.ERROR)
    alice = node.client("alice", Rights.READ)
    eve = node.client("eve", Rights.READ if who == "a revoked key" else None)
    if who == "a revoked key":
        node.ring.revoke("eve")
    keys = None if who == "no key" else eve
    expected = eve.own().public if who == "a key for another node" else node.ring.own().public
    local = next(endpoint for endpoint in node.served.node.data_endpoints if endpoint.startswith("ipc"))
    with (
        intruder(zmq.SUB, node.data_endpoint, keys, expected) as data,
        intruder(zmq.SUB, local, keys, expected) as local_data,
        intruder(zmq.DEALER, node.endpoint, keys, expected) as requests,
        node.served.subscribe("push", start=0, keys=alice.directory) as subscription,
    ):
        requests.send(DESCRIBE)
        account = Account(0)
        take_until(subscription, account, lambda: account.delivered > 500)
        assert account.gaps == []
        assert [socket.poll(0) for socket in (data, local_data, requests)] == [0, 0, 0]
    assert eventually(lambda: sum(node.refused().values()), "it is counted", AT_ONCE_S)


def test_nothing_can_be_read_on_the_way(node: Keyed) -> None:
    """What passes between them is not what it says: no packet's bytes stand in it."""
    alice = node.client("alice", Rights.READ)
    heard = bytearray()
    host, port = "127.0.0.1", int(node.data_endpoint.rpartition(":")[2])
    with posix.create_server((host, 0)) as tap:
        relayed = f"tcp://{host}:{tap.getsockname()[1]}"

        def relay() -> None:
            near, _ = tap.accept()
            with near, posix.create_connection((host, port)) as far:

                def up() -> None:
                    with contextlib.suppress(OSError):  # one side or the other has left
                        while part := near.recv(65536):
                            far.sendall(part)
                        far.shutdown(posix.SHUT_RDWR)

                thread = threading.Thread(target=up)
                thread.start()
                with contextlib.suppress(OSError):
                    while part := far.recv(65536):
                        heard.extend(part)
                        near.sendall(part)
                thread.join()

        thread = threading.Thread(target=relay)
        thread.start()
        with intruder(zmq.SUB, relayed, alice, node.ring.own().public) as data:
            packets = 0
            while packets < 50:
                assert data.poll(5000)
                topic, body = data.recv_multipart()
                if topic.startswith(b"data/"):
                    batch = pb.PacketBatch.FromString(body)
                    packets += batch.packet_count
                    assert batch.payload[:112] not in heard
            assert len(heard) > packets * 112
        thread.join(10)

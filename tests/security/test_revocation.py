"""A key that is revoked while its owner is connected: the owner is cut off and told, and nobody else loses a packet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from parties import AT_ONCE_S, Keyed, bystander, intruder, keyed

from tests.support.nodes import WAYS, Account, eventually, take_until
from tests.support.programs import Program, run, usbcast
from usbcast import End
from usbcast_schemas.errors import AccessRefused
from usbcast_schemas.keys import ClientKey, Rights, short_text


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Keyed]:
    with keyed(tmp_path) as found:
        yield found


@pytest.mark.parametrize("via", WAYS)
def test_a_subscriber_is_cut_off(node: Keyed, via: str, caplog: pytest.LogCaptureFixture) -> None:
    alice = node.client("alice", Rights.READ)
    with (
        bystander(node.served, node.client("bob", Rights.READ)),
        node.served.subscribe(via, keys=alice.directory) as subscription,
    ):
        account = Account()
        take_until(subscription, account, lambda: account.delivered > 50)
        node.ring.revoke("alice")
        revoked_s = time.monotonic()
        with pytest.raises(AccessRefused) as raised:
            take_until(subscription, account, lambda: False)
        assert time.monotonic() - revoked_s < AT_ONCE_S
        assert short_text(alice.own().public) in str(raised.value)
        assert "revoked" in str(raised.value)
        assert node.counts("key revoked") >= 1
        assert f"{short_text(alice.own().public, 'alice')} was revoked" in caplog.text
        with pytest.raises(AccessRefused):
            subscription.command(0xC0, 1, length=2)


@pytest.mark.slow
def test_no_packet_reaches_a_revoked_socket_any_more(node: Keyed) -> None:
    """A raw one, which does not care what it is told and goes on trying."""
    eve = node.client("eve", Rights.READ)
    key = node.ring.own().public
    with (
        bystander(node.served, node.client("bob", Rights.READ)),
        intruder(zmq.SUB, node.data_endpoint, eve, key) as data,
    ):
        assert data.poll(5000)
        node.ring.revoke("eve")
        # Dry once what was on its way has been taken, and for good.
        deadline = time.monotonic() + AT_ONCE_S
        while data.poll(300):
            data.recv_multipart()
            assert time.monotonic() < deadline
        assert not data.poll(1000)
    assert node.counts("key revoked") >= 1


def test_a_revoked_key_can_be_allowed_again(node: Keyed) -> None:
    alice = node.client("alice", Rights.READ)
    node.ring.revoke("alice")
    with node.served.subscribe("push", keys=alice.directory) as subscription, pytest.raises(AccessRefused):
        subscription.ready()
    node.ring.allow(ClientKey(alice.own().public, "alice", Rights.READ))
    with node.served.subscribe("push", keys=alice.directory) as subscription:
        assert subscription.ready()


def test_a_list_that_cannot_be_read_leaves_the_former_in_force(node: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    alice = node.client("alice", Rights.READ)
    with node.served.subscribe("push", keys=alice.directory) as subscription:
        assert subscription.ready()
    good = node.ring.clients_file.read_text()
    node.ring.clients_file.write_text(good + "[[client\n")
    eventually(lambda: "the previous one stays in force" in caplog.text, "it is said", AT_ONCE_S)
    with node.served.subscribe("push", keys=alice.directory) as subscription:
        assert subscription.ready()
        node.ring.clients_file.write_text("")
        with pytest.raises(AccessRefused):
            list(subscription.events())


@pytest.mark.parametrize("via", WAYS)
@pytest.mark.slow
def test_a_running_recorder_is_stopped_with_its_file_whole(node: Keyed, via: str, tmp_path: Path) -> None:
    alice = node.client("alice", Rights.READ)
    base = tmp_path / "run"
    arguments = ("record", node.served.stream, "-e", node.endpoint, "--via", via, "-o", str(base), "--json")
    with Program(usbcast(*arguments), USBCAST_KEYS=str(alice.directory)) as recorder:
        recorder.hear("figures", where=lambda said: said["streams"][node.served.stream]["packets"] > 100)
        node.ring.revoke("alice")
        warning = recorder.hear("warning", AT_ONCE_S)
        assert "revoked" in warning["message"]
        assert short_text(alice.own().public) in warning["message"]
        assert recorder.hear("ended")["reason"] == warning["message"]
        assert recorder.finish() == 1
    verified = run("verify", str(base), "--json")
    assert verified.finish() == 0, verified.stdout
    assert "revoked" in verified.stdout


def test_a_verb_that_watches_ends_with_the_sentence(node: Keyed) -> None:
    alice = node.client("alice", Rights.READ)
    arguments = (
        "watch",
        node.served.stream,
        "-e",
        node.endpoint,
        "--via",
        "push",
        "--keys",
        str(alice.directory),
        "--json",
    )
    with Program(usbcast(*arguments)) as watching:
        watching.hear("figures")
        node.ring.revoke("alice")
        assert watching.finish(10) == 1
        # Whichever is first: the answer to a request, or the handshake of a connection that is made again.
        assert "does not let in your key" in watching.stderr or "(alice) was revoked" in watching.stderr
        assert "Traceback" not in watching.stderr


def test_a_stream_that_ends_meanwhile_is_no_refusal(node: Keyed) -> None:
    alice = node.client("alice", Rights.READ)
    with node.served.subscribe("push", keys=alice.directory) as subscription:
        assert subscription.ready()
        node.served.end()
        assert isinstance(list(subscription.events(10))[-1], End)

"""What a user can do wrong is told in one sentence that names the server, the value and the next step."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from forwarded import forwarding, lost
from servers import Server, make_store

import usbcast
from tests.support.nodes import DEADLINE_S, eventually, serving, small, take_all
from usbcast.jetstream.forwarding import ForwardOptions, forward
from usbcast.jetstream.listing import stored
from usbcast.jetstream.store import Retention
from usbcast.node.endpoints import Address, parse
from usbcast_schemas.errors import NodeUnreachable, ServerRefused, StreamUnknown, UsageError, UsbcastError
from usbcast_schemas.extras import install
from usbcast_schemas.v1 import usbcast_pb2 as pb


def refused(url: str, upstream: str, **options: object) -> str:
    """What a forwarder says that cannot begin."""
    chosen = ForwardOptions(parse(url), upstream, **options)  # type: ignore[arg-type]
    with pytest.raises(UsbcastError) as raised:
        forward(("sim",), chosen, threading.Event(), warn=print)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("nats://host", Address(("nats://host:4222",))),
        ("tls://u:p@a:1,b/fleet", Address(("tls://u:p@a:1", "tls://u:p@b:4222"), "fleet")),
        ("nats://u:p@a,v:q@b", Address(("nats://u:p@a:4222", "nats://v:q@b:4222"))),
        ("nats://[::1]:4333", Address(("nats://[::1]:4333",))),
        ("nats://a?creds=/c&ca=/d", Address(("nats://a:4222",), creds="/c", ca="/d")),
    ],
)
def test_addresses(endpoint: str, address: Address) -> None:
    assert parse(endpoint) == address
    assert ":p@" not in str(address)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("nats://", "is not the address of a NATS server"),
        ("nats://u:secret@:4222", "a host is missing"),
        ("nats://a:port", "the port"),
        ("nats://a/b/c", "the prefix 'b/c'"),
        ("nats://a?user=me", "the option 'user'"),
    ],
)
def test_what_is_no_address(endpoint: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as raised:
        usbcast.subscribe("sim", endpoint)
    assert "secret" not in str(raised.value)


def test_another_way_is_refused() -> None:
    with pytest.raises(UsageError, match=r"via is 'push': nats://a:4222 can be read in one way only"):
        usbcast.subscribe("sim", "nats://a", via="push")
    with pytest.raises(UsageError, match="start is 'yesterday'"):
        usbcast.subscribe("sim", "nats://a", start="yesterday")


def test_nobody_answers(nowhere: str) -> None:
    assert re.fullmatch(
        rf"no NATS server answers at {nowhere}: .*[Cc]onnection refused.*; is one running there\?",
        refused(nowhere, "tcp://127.0.0.1:1"),
    )
    with usbcast.subscribe("sim", nowhere) as subscription:
        assert not subscription.ready(0.5)
        assert nowhere in str(subscription.unreachable())
        assert "is one running there?" in str(subscription.unreachable())
    with pytest.raises(NodeUnreachable, match="is one running there"):
        stored(nowhere)


def test_a_host_that_is_not_known() -> None:
    assert "no NATS server answers at nats://nowhere.invalid:4222" in refused(
        "nats://nowhere.invalid", "tcp://127.0.0.1:1"
    )


def test_no_jetstream(tmp_path: Path) -> None:
    with Server(tmp_path, jetstream=False) as server:
        said = f"the server {server.url} offers no JetStream to this user: start it with `-js`"
        assert said in refused(server.url, "tcp://127.0.0.1:1")
        with (
            usbcast.subscribe("sim", server.url) as subscription,
            pytest.raises(ServerRefused, match="offers no JetStream"),
        ):
            subscription.ready()


def test_who_is_not_let_in(tmp_path: Path) -> None:
    login = 'authorization { users: [ {user: lab, password: "s3cret"} ] }'
    with Server(tmp_path, login) as server, serving(rate_hz=1000, packets=100, ends=True) as served:
        for url in (server.url, server.url.replace("//", "//lab:wrong@")):
            said = refused(url, served.endpoint)
            assert said.startswith(f"the server {server.url} rejected the login (Authorization Violation)")
            assert "wrong" not in said
        with (
            usbcast.subscribe("sim", server.url) as subscription,
            pytest.raises(ServerRefused, match="rejected the login"),
        ):
            subscription.ready()
        url = server.url.replace("//", "//lab:s3cret@")
        with forwarding(url, served.endpoint) as forwarder:
            forwarder.wait_idle()
        with usbcast.subscribe("sim", url, start=0) as subscription:
            assert take_all(subscription.events(DEADLINE_S), 0).delivered == 100


@pytest.mark.slow
def test_who_may_not_publish(tmp_path: Path) -> None:
    rights = (
        'authorization { users: [ {user: lab, password: "p", permissions: {publish: ["$JS.API.>", "_INBOX.>"]}} ] }'
    )
    with Server(tmp_path, rights) as server, serving(rate_hz=1000, packets=100) as served:
        said = refused(server.url.replace("//", "//lab:p@"), served.endpoint)
        assert said.startswith(f"the server {server.url} refuses storing a description: ")
        assert 'permissions violation for publish to "usbcast.sim.info.' in said.lower()


def test_a_stream_with_another_configuration(server: Server) -> None:
    asyncio.run(make_store(server.url, "sim", subjects=["something.else"]))
    said = refused(server.url, "tcp://127.0.0.1:1")
    assert said == (
        f"the server {server.url} has usbcast-sim with another configuration: its subjects are something.else instead "
        "of usbcast.sim.batch, usbcast.sim.gap; remove it, or give another prefix in the address (nats://HOST/PREFIX)"
    )


def test_a_configuration_that_differs_from_the_wish_is_respected_and_said(server: Server) -> None:
    asyncio.run(make_store(server.url, "sim", max_age=3600))
    with serving(rate_hz=1000, packets=100, ends=True) as served:
        wish = Retention(keep_s=7 * 86400, keep_bytes=1 << 30, replicas=3)
        with forwarding(server.url, served.endpoint, retention=wish) as forwarder:
            forwarder.wait_idle()
        there = "is left so (`nats stream edit` changes it)"
        assert [warning for warning in forwarder.warnings if there in warning] == [
            "usbcast-sim exists already and keeps messages for 3600 s, not for 604800 s; it " + there,
            "usbcast-sim exists already and keeps an unlimited size, not 1,073,741,824 bytes; it " + there,
            "usbcast-sim exists already and has 1 replicas, not 3; it " + there,
        ]
        (one,) = stored(server.url)
        assert (one.keep_s, one.replicas, one.info.next_sequence, one.info.ended) == (3600, 1, 100, True)


def test_more_replicas_than_servers(server: Server) -> None:
    said = refused(server.url, "tcp://127.0.0.1:1", retention=Retention(replicas=3))
    assert said.startswith(f"the server {server.url} cannot create usbcast-sim: ")
    assert said.endswith("--replicas 3 needs as many servers in the cluster")


def test_a_stream_that_nobody_stored(server: Server) -> None:
    with usbcast.subscribe("sim", server.url) as subscription, pytest.raises(StreamUnknown) as raised:
        subscription.ready()
    assert str(raised.value) == f"the server {server.url} has no stream 'sim' below 'usbcast': it has none yet"


def test_a_stream_that_the_node_has_not(server: Server) -> None:
    with serving(stream="other", rate_hz=1000) as served:
        assert "sim" in refused(server.url, served.endpoint)


def test_no_node_is_said_after_ten_seconds_unless_it_is_to_wait(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usbcast.jetstream.forwarder.CONNECT_TIMEOUT_S", 0.3)
    assert "no node with stream 'sim' answered at tcp://127.0.0.1:1" in refused(server.url, "tcp://127.0.0.1:1")


def test_batches_larger_than_the_server_takes_are_told_at_the_start_and_declared(tmp_path: Path) -> None:
    settings = small(batch_size=8192)
    with (
        Server(tmp_path, "max_payload: 4096") as server,
        serving(rate_hz=0, packets=2000, settings=settings, ends=True) as served,
    ):
        with forwarding(server.url, served.endpoint) as forwarder:
            forwarder.wait_idle()
            (warning,) = [said for said in forwarder.warnings if "max_payload" in said]
            assert warning.startswith(
                f"stream sim: its batches have up to 8,192 bytes of packets, but the server {server.url} takes messages "
                "up to 4,096 bytes: raise max_payload there, or serve with a smaller --batch-size"
            )
            ledger = forwarder.ledger()
        with usbcast.subscribe("sim", server.url, start=0) as subscription:
            account = take_all(subscription.events(DEADLINE_S), 0)
        assert account.lost > 0
        assert {gap.stage for gap in account.gaps} == {"bridge"}
        assert account.delivered + account.lost == 2000
        assert (ledger["balanced"], ledger["out"], sum(ledger["lost"].values())) == (
            True,
            account.delivered,
            account.lost,
        )
        assert sum(count for _, _, count in lost(account.events)) == account.lost


def test_commands_do_not_go_through_a_server(server: Server) -> None:
    with serving(rate_hz=1000) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(1)
        with (
            usbcast.subscribe("sim", server.url) as subscription,
            pytest.raises(UsageError, match="is a server that stores streams, and cannot reach the device"),
        ):
            subscription.command(0xC0, 1, length=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [b"", b"\xff rubbish", pb.Gap(contract=2 << 16, epoch=1).SerializeToString()],
    ids=["empty", "random", "of another version"],
)
def test_foreign_messages_are_counted_said_once_and_stepped_over(server: Server, body: bytes) -> None:
    """By the forwarder, by a reader that is there, and by those that come later, wherever they begin."""

    def counters() -> dict[str, int]:
        return forwarder.ledger().get("counters", {})

    with serving(rate_hz=1000, packets=3000, ends=True) as served:
        with forwarding(server.url, served.endpoint) as forwarder:
            forwarder.wait_stored(100)
            with usbcast.subscribe("sim", server.url, start=0) as early:
                assert early.ready(DEADLINE_S)
                asyncio.run(publish(server.url, ["usbcast.sim.batch", "usbcast.sim.gap"], body))
                eventually(lambda: counters().get("foreign messages") == 2, "counted")
                asyncio.run(publish(server.url, ["usbcast.sim.gap"], body))
                eventually(lambda: counters().get("foreign messages") == 3, "counted again")
                forwarder.wait_idle()
                account = take_all(early.events(DEADLINE_S), 0)
                assert early.ledger.counters["malformed"] == 3
            assert bytes(account.payload) == served.expected(0, 3000)
            assert account.lost == 0
            said = [warning for warning in forwarder.warnings if "another program publishes to" in warning]
            assert len(said) == 1, forwarder.warnings
        # The last ones, behind the end, and nobody is there.
        asyncio.run(publish(server.url, ["usbcast.sim.gap", "usbcast.sim.batch"], body))
        for start in (0, "oldest", 2000):
            with usbcast.subscribe("sim", server.url, start=start) as late:
                begin = start if isinstance(start, int) else 0
                account = take_all(late.events(DEADLINE_S), begin)
            assert bytes(account.payload) == served.expected(begin, 3000 - begin)
        (one,) = stored(server.url)
        assert (one.info.next_sequence, one.info.ended) == (3000, True)
        with forwarding(server.url, served.endpoint) as forwarder:  # another one begins behind them
            eventually(lambda: counters().get("foreign messages") == 2, "counted by another one")
            assert forwarder.ledger()["in"] == 0


@pytest.mark.slow
def test_foreign_descriptions_and_signs_of_life_are_counted_and_stepped_over(server: Server) -> None:
    with serving(rate_hz=1000, packets=3000, ends=True) as served, forwarding(server.url, served.endpoint) as forwarder:
        forwarder.wait_stored(100)
        with usbcast.subscribe("sim", server.url, start=0) as early:
            assert early.ready(DEADLINE_S)
            subjects = ["usbcast.sim.notify", f"usbcast.sim.info.{early.info.epoch:016x}"]
            asyncio.run(publish(server.url, subjects, b"\xff rubbish"))
            forwarder.wait_idle()
            assert bytes(take_all(early.events(DEADLINE_S), 0).payload) == served.expected(0, 3000)
            assert early.ledger.counters["malformed"] == 2
        with usbcast.subscribe("sim", server.url, start=0) as late:  # the description that it finds is not one
            assert bytes(take_all(late.events(DEADLINE_S), 0).payload) == served.expected(0, 3000)
        assert [one.info.stream for one in stored(server.url)] == ["sim"]


def test_more_foreign_messages_than_are_stepped_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast.jetstream.store.MOST_FOREIGN", 3)
    asyncio.run(make_store(server.url, "sim"))
    asyncio.run(publish(server.url, ["usbcast.sim.gap"] * 2, b""))
    with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
        assert subscription.ready(DEADLINE_S)
    asyncio.run(publish(server.url, ["usbcast.sim.gap"], b""))
    with usbcast.subscribe("sim", server.url) as subscription, pytest.raises(ServerRefused) as raised:
        subscription.ready()
    assert str(raised.value) == (
        f"the last 3 messages of usbcast-sim on {server.url} are not usbcast's (a gap of 0 bytes has no contract "
        "version): let no other program publish to usbcast.sim.batch and usbcast.sim.gap, and purge usbcast-sim"
    )


async def publish(url: str, subjects: list[str], body: bytes) -> None:
    """As another program would."""
    import nats

    client = await nats.connect(url)
    for subject in subjects:
        await client.publish(subject, body)
    await client.flush()
    await client.close()


@pytest.mark.slow
def test_a_stream_that_somebody_emptied_goes_on_where_it_was(server: Server) -> None:
    async def purge() -> None:
        import nats

        client = await nats.connect(server.url)
        await client.jetstream().purge_stream("usbcast-sim")
        await client.close()

    with serving(rate_hz=1000, packets=3000, ends=True) as served:
        for _ in range(2):  # a forwarder that was there before knows where it was; another one is told by message ids
            with forwarding(server.url, served.endpoint) as forwarder:
                eventually(lambda forwarder=forwarder: forwarder.ledger().get("counters", {}).get("batches", 0) > 200)
                asyncio.run(purge())
        with forwarding(server.url, served.endpoint) as forwarder:
            forwarder.wait_idle()
            assert forwarder.ledger()["balanced"]
        with usbcast.subscribe("sim", server.url, start="oldest") as subscription:
            account = take_all(subscription.events(DEADLINE_S))
        assert account.gaps == []
        assert account.begin is not None
        assert account.begin > 0
        assert bytes(account.payload) == served.expected(account.begin, 3000 - account.begin)


def test_what_is_not_installed_is_one_sentence() -> None:
    code = (
        "import sys\nsys.modules['nats'] = None\nimport usbcast\n"
        "try:\n    usbcast.subscribe('imu', 'nats://a')\nexcept usbcast.UsageError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.strip() == f"nats is not installed: {install('nats')}", ran.stderr

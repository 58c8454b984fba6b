"""Nodes found by mDNS: real multicast on the loopback interface, between threads and processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import usbcast
from tests.support.nodes import Served, eventually, serving, small
from tests.support.programs import run, serve
from usbcast.node.discovery import LanBrowser, LanNode, find_on_lan, lan_nodes
from usbcast_broker.announcing import addresses_to_announce
from usbcast_schemas.errors import ConfigError, NodeUnreachable, StreamAmbiguous
from usbcast_schemas.interfaces import choose, interface_addresses, is_loopback
from usbcast_schemas.registry import local_nodes

pytestmark = pytest.mark.slow

HERE = "lan:127.0.0.1"


@contextmanager
def announced(stream: str) -> Iterator[Served]:
    with serving(stream=stream, settings=small(announce="127.0.0.1"), rate_hz=1000) as served:
        yield served


def found(browser: LanBrowser, served: Served) -> LanNode | None:
    return next((node for node in browser.nodes() if node.endpoint == served.endpoint), None)


def test_a_node_is_found_with_all_that_it_announces_and_gone_when_it_stops() -> None:
    with LanBrowser(HERE) as browser:
        with announced("lan-a") as served:
            node = eventually(lambda: found(browser, served), "it is found")
            assert node.announced.streams == ("lan-a",)
            assert node.announced.contract == "1.0"
            assert node.announced.version
            assert node.announced.key == ""
        eventually(lambda: found(browser, served) is None, "it said goodbye", timeout_s=5)


def test_a_subscription_finds_its_node_on_the_lan() -> None:
    with announced("lan-b") as served, usbcast.subscribe("lan-b", "lan:127.0.0.1", start=0) as stream:
        assert stream.ready()
        batch = next(iter(stream))
        assert batch.payload == served.expected(0, len(batch))
        assert stream.info.stream == "lan-b"


@pytest.mark.slow
def test_a_subscription_waits_for_a_node_that_is_announced_later_and_follows_one_that_moves() -> None:
    with usbcast.subscribe("lan-c", HERE) as stream:
        assert not stream.ready(1.5), "nobody is there"
        with announced("lan-c"):
            assert stream.ready()
        with announced("lan-c") as second:
            seen = eventually(lambda: _restart(stream), "the other node's epoch")
            assert seen.new_epoch == second.pipeline.outlet.epoch


def _restart(stream: usbcast.Subscription) -> usbcast.Restart | None:
    event = stream.receive(0.05)
    return event if isinstance(event, usbcast.Restart) else None


def test_two_nodes_with_one_stream_are_both_named() -> None:
    with announced("lan-d") as one, announced("lan-d") as other:
        with pytest.raises(StreamAmbiguous) as told:
            find_on_lan("lan-d", HERE)
        assert one.endpoint in str(told.value)
        assert other.endpoint in str(told.value)
        with usbcast.subscribe("lan-d", HERE) as stream, pytest.raises(StreamAmbiguous, match="2 nodes"):
            stream.ready()
        with usbcast.subscribe("lan-d", other.endpoint) as stream:
            assert stream.ready(), "an address is never ambiguous"


def test_a_stream_that_nobody_announces_is_told_with_those_that_are() -> None:
    with announced("lan-e") as served:
        eventually(lambda: served.endpoint in [node.endpoint for node in lan_nodes(HERE)])
        with pytest.raises(NodeUnreachable, match=r"no node with a stream 'lan-x'.*lan-e.*--announce"):
            find_on_lan("lan-x", HERE)


def test_a_node_is_announced_only_if_it_is_told_to() -> None:
    with serving(stream="lan-f") as served:
        assert served.endpoint not in [node.endpoint for node in lan_nodes(HERE)]


@pytest.mark.slow
def test_the_command_line_lists_the_lan_and_says_who_is_gone() -> None:
    with announced("lan-g") as served:
        listed = run("list", "--endpoint", HERE, "--json").stdout
        assert served.endpoint in listed
        assert '"answers": true' in listed
        assert "lan-g" in run("list", "--endpoint", HERE).stdout
        assert "lan-g" in run("info", "lan-g", "--endpoint", HERE).stdout


@pytest.mark.slow
def test_a_killed_node_is_no_longer_found_by_who_looks_now_and_said_to_be_gone_by_who_knew_it() -> None:
    program, endpoint = serve("--bind", "tcp://127.0.0.1:0", "--announce", "127.0.0.1", "--stream", "lan-h")
    with program, LanBrowser(HERE) as browser:
        eventually(lambda: [node for node in browser.nodes() if node.endpoint == endpoint], "it is found")
        program.kill()
        assert [node for node in browser.nodes() if node.endpoint == endpoint], "it could say no goodbye"
        with usbcast.NodeClient(endpoint, timeout_s=0.5) as client, pytest.raises(NodeUnreachable):
            client.describe()
        assert endpoint not in [node.endpoint for node in lan_nodes(HERE)]
    _sweep()


def _sweep() -> None:
    """A node sweeps what a killed one left; so this one does."""
    with serving(stream="sweeper"):
        assert len(local_nodes()) == 1


@pytest.mark.slow
def test_a_terminated_node_says_goodbye() -> None:
    program, endpoint = serve("--bind", "tcp://127.0.0.1:0", "--announce", "127.0.0.1", "--stream", "lan-j")
    with program, LanBrowser(HERE) as browser:
        eventually(lambda: [node for node in browser.nodes() if node.endpoint == endpoint], "it is found")
        program.signal(signal.SIGTERM)
        assert program.finish() == 0
        eventually(lambda: endpoint not in [node.endpoint for node in browser.nodes()], "gone", timeout_s=5)


LOOPBACK = "lo" if "lo" in interface_addresses() else "lo0"
OTHERS = [one for addresses in interface_addresses().values() for one in addresses if not is_loopback(one)]


@pytest.mark.parametrize(
    ("announce", "endpoint", "where"),
    [
        ("", "tcp://0.0.0.0:5570", []),
        ("127.0.0.1", "tcp://127.0.0.1:5570", ["127.0.0.1"]),
        (LOOPBACK, "tcp://127.0.0.1:5570", ["127.0.0.1"]),
        ("127.0.0.1", "tcp://0.0.0.0:5570", ["127.0.0.1"]),
    ],
)
def test_a_node_is_announced_where_it_listens(announce: str, endpoint: str, where: list[str]) -> None:
    assert addresses_to_announce(announce, endpoint) == where


@pytest.mark.parametrize(
    ("announce", "endpoint", "sentence"),
    [
        ("all", "tcp://127.0.0.1:5570", r"only on this machine \(tcp://127.0.0.1:5570\).*--bind tcp://"),
        ("127.0.0.1", "ipc:///tmp/x", "which only this machine can reach"),
        ("eth99", "tcp://0.0.0.0:5570", r"'eth99' is not a network interface.*lo"),
        ("192.0.2.7", "tcp://0.0.0.0:5570", r"'192.0.2.7' is not a network interface"),
        ("127.0.0.1", "tcp://[::1]:5570", "only IPv4"),
        ("127.0.0.1", "tcp://192.0.2.7:5570", r"at tcp://192.0.2.7:5570 alone.*nobody there could reach it"),
    ],
)
def test_what_nobody_could_reach_is_not_announced(announce: str, endpoint: str, sentence: str) -> None:
    if announce == "all" and not OTHERS:
        sentence = "no network interface"
    with pytest.raises(ConfigError, match=sentence):
        addresses_to_announce(announce, endpoint)


def test_a_node_that_may_not_be_announced_leaves_nothing_behind() -> None:
    refused = run("serve", "--simulate", "--bind", "tcp://127.0.0.1:0", "--announce", "eth99", "--ring-size", "4MiB")
    assert refused.finish() == 1
    assert "'eth99' is not a network interface" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_interfaces_are_chosen_by_name_or_address() -> None:
    assert choose([LOOPBACK]) == choose(["127.0.0.1"]) == ["127.0.0.1"]
    assert choose([LOOPBACK, "127.0.0.1"]) == ["127.0.0.1"]

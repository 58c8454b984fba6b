"""The node: what it refuses before it starts, and that it starts wherever it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nodes import serving, small, take_to_end
from usbcast_broker.node import Node
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_schemas.errors import ConfigError, DeviceMissing, EndpointTaken
from usbcast_schemas.profile import parse_profile


def test_packets_of_any_size_go_through() -> None:
    with serving(
        rate_hz=0, packet_size=1 << 20, fifo_bytes=1 << 24, packets=5, ends=True, settings=small(ring_size=32 << 20)
    ) as served:
        account = take_to_end("events", served, "notify", begin=0, start=0)
        assert bytes(account.payload) == served.expected(0, 5)
        assert len(account.batches[0].fields) == 4096, "as many as have names"


@pytest.mark.parametrize(
    "framing",
    [
        "method = 'fixed'\nsize = 1000000",
        "method = 'cobs'\nmax_size = 1000000",
        "method = 'length'\nlength_offset = 0\nlength_width = 4\nmax_size = 1000000",
    ],
)
def test_a_ring_that_is_too_small_for_the_packets(framing: str) -> None:
    text = f"[stream]\nname = 'big'\n[device]\nvendor_id = 1\nproduct_id = 2\n[framing]\n{framing}\n"
    sentence = "stream 'big' has packets of up to 1000000 bytes and ring_size is 2097152: .* give --ring-size 4000000"
    with Node(small(ring_size=2 << 20)) as node, pytest.raises(ConfigError, match=sentence):
        node.add(parse_profile(text, "big"), lambda _: pytest.fail("no feed is made"))


def test_a_runtime_directory_of_any_length(
    private_directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a local socket is limited; then there is none, and tcp does as well."""
    long = private_directories[1] / ("x" * 100)
    monkeypatch.setenv("USBCAST_RUNTIME_DIR", str(long))
    with serving(rate_hz=1000, packets=50, ends=True) as served:
        assert [endpoint.partition(":")[0] for endpoint in served.node.data_endpoints] == ["tcp"]
        assert take_to_end("events", served, "push", begin=0, start=0).delivered == 50
    long.rmdir()


def test_a_local_node_publishes_beside_its_own_address(private_directories: tuple[Path, Path]) -> None:
    endpoint = f"ipc://{private_directories[1]}/node"
    with serving(rate_hz=1000, packets=50, ends=True, settings=small(bind=endpoint)) as served:
        assert served.endpoint == endpoint
        assert served.node.data_endpoints[0] == f"{endpoint}.data"
        assert take_to_end("events", served, "push", begin=0, start=0).delivered == 50


def test_nothing_is_left_of_a_start_that_failed() -> None:
    """The other tests look for what is left; here it is that every kind of failure is met."""
    with serving(rate_hz=100) as served, Node(small(bind=served.endpoint)) as second:
        add_simulated(second, SimulatorConfig(), "other")
        with pytest.raises(EndpointTaken):
            second.start()
    with Node(small()) as node:
        _, device = add_simulated(node, SimulatorConfig(), "gone")
        device.unplug()
        with pytest.raises(DeviceMissing):
            node.start()


def test_the_same_stream_twice() -> None:
    with Node(small()) as node:
        add_simulated(node, SimulatorConfig(), "twin")
        with pytest.raises(ConfigError, match="two streams have the name 'twin': give each profile its own name"):
            add_simulated(node, SimulatorConfig(), "twin")

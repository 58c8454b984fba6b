"""What `usbcast health` says of the reads of a device, for people."""

from __future__ import annotations

import pytest
from usb_rig import until

from tests.support.nodes import small
from usbcast.cli.health import device_figures, stream_as_plain
from usbcast_broker.node import Node
from usbcast_broker.sources import add_device, simulated_backend
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_broker.sources.usb.readahead import Figures
from usbcast_schemas.v1 import usbcast_pb2 as pb


@pytest.mark.parametrize(
    ("counters", "said"),
    [
        ({}, ""),
        ({"restarts": 3}, ""),
        (Figures().as_counters(), "0 reads in flight"),
        ({"in_flight": 8, "starved": 2, "starved_us": 1500}, "8 reads in flight, starved 2 times for 1.5 ms in all"),
        ({"in_flight": 1, "io_errors": 1200, "stalls": 0}, "1 reads in flight, io errors 1,200"),
    ],
)
def test_reads_in_flight_starved_moments_and_faults(counters: dict[str, int], said: str) -> None:
    assert device_figures(counters) == said


def test_how_long_a_read_may_have_been_holding_data() -> None:
    assert device_figures({"in_flight": 8}, 7_250_000) == "8 reads in flight, the oldest may hold data for 7.2 ms"
    assert device_figures({}, 7_250_000) == ""


@pytest.mark.parametrize(("held_ns", "told_ms"), [(0, 0.0), (7_250_000, 7.25)])
def test_json_says_it_for_every_device(held_ns: int, told_ms: float) -> None:
    assert stream_as_plain(pb.StreamHealth(read_held_ns=held_ns))["read_held_ms"] == told_ms
    assert "read_held_ms" not in stream_as_plain(pb.StreamHealth())


def test_a_node_tells_the_age_of_what_a_read_may_hold() -> None:
    """Full packets, and a profile that sets no latency: they wait in the read."""
    config = SimulatorConfig(packet_size=512, max_packet_size=512, rate_hz=1000, packets=3)
    profile, backend, device = simulated_backend(config, "full")
    transfer = profile.transfer.model_copy(update={"latency_ms": 0, "timeout_ms": 5000})
    with Node(small()) as node:
        pipeline = add_device(node, profile.model_copy(update={"transfer": transfer}), backend=backend)
        node.start()
        until(lambda: device.produced == 3)
        until(lambda: node.health()[0].read_held_ns > 0)
        device.unplug()
        until(lambda: pipeline.feed.counters["bytes"] == (3 - device.dropped) * 512)
        until(lambda: node.health()[0].read_held_ns == 0)

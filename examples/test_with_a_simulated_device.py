"""How to test a program of yours without hardware: a node in the test's own process, with a device made of software.

Nothing below the simulated device knows that it is one: the real pyusb, framing and shared memory are at work.

    pytest examples/test_with_a_simulated_device.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import usbcast
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import Fault, SimulatedDevice, SimulatorConfig


def count_missing(stream: usbcast.Subscription, packets: int) -> int:
    """The program under test: how many packets were lost among the next so many that came."""
    received = missing = 0
    for batch in stream:
        missing += sum(gap.count for gap in batch.gaps)
        received += len(batch)
        if received >= packets:
            break
    return missing


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    """A device that sends 1000 packets a second, and loses 5 of them before packet 300."""
    config = SimulatorConfig(rate_hz=1000, faults=(Fault(kind="drop", at_packet=300, count=5),))
    with Node(NodeSettings(bind="tcp://127.0.0.1:0")) as node:
        _, simulated = add_simulated(node, config, "my-device")
        node.start()
        yield simulated


def test_losses_are_counted(device: SimulatedDevice) -> None:
    with usbcast.subscribe("my-device", start=0) as stream:  # the node of this machine that has this stream
        assert count_missing(stream, packets=500) == 5
    assert device.produced >= 505


def test_unplugging_is_told_and_survived(device: SimulatedDevice) -> None:
    told = []
    with usbcast.subscribe("my-device", start=0) as stream:
        device.unplug()
        for event in stream.events(timeout_s=10):
            if isinstance(event, usbcast.DeviceEvent):
                told.append(event.kind)
                if event.kind == "detached":
                    device.plug()
            elif isinstance(event, usbcast.Batch) and len(told) == 3:
                break  # packets come again
    assert told == ["attached", "detached", "attached"]

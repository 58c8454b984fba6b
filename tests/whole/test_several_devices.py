"""Several devices in one node: one that floods, hangs or is pulled out leaves the others alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import usbcast
from tests.support.nodes import eventually, quick_profile, small
from usbcast import Batch, DeviceEvent, End
from usbcast_broker.node import Node
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig, make_packets

STEADY = SimulatorConfig(rate_hz=500, packets=600)


class Hanging(SimulatorBackend):
    """The operating system does not return from a read, whatever its time limit, until it is let go."""

    def __init__(self, device: SimulatedDevice) -> None:
        super().__init__([device])
        self.hangs = threading.Event()
        self.let_go = threading.Event()

    def bulk_read(self, *arguments: Any) -> int:
        self.hangs.set()
        self.let_go.wait(60)
        return super().bulk_read(*arguments)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    backend = Hanging(SimulatedDevice(SimulatorConfig()))
    yield backend
    backend.let_go.set()


def unplugging() -> SimulatorBackend:
    return SimulatorBackend([SimulatedDevice(SimulatorConfig(rate_hz=1000))])


def flooding() -> SimulatorBackend:
    return SimulatorBackend([SimulatedDevice(SimulatorConfig(rate_hz=0, transfer_size=16384))])


def test_the_steady_one_loses_nothing(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast_broker.sources.usb.feed.JOIN_S", 0.2)
    steady, away = SimulatedDevice(STEADY), unplugging()
    with Node(small()) as node:
        for stream, backend in (
            ("hanging", hanging),
            ("flooding", flooding()),
            ("away", away),
            ("steady", SimulatorBackend([steady])),
        ):
            add_device(node, quick_profile(backend.devices[0].config, stream), stream=stream, backend=backend)
        node.start()
        assert hanging.hangs.wait(10)
        away.devices[0].unplug()
        events = []
        with usbcast.subscribe("steady", node.endpoint, start=0) as stream:
            for event in stream.events():
                events.append(event)
                if sum(len(one) for one in events if isinstance(one, Batch)) >= 600:
                    break
        batches = [one for one in events if isinstance(one, Batch)]
        assert b"".join(bytes(packet) for batch in batches for packet in batch) == make_packets(STEADY, 0, 600)
        assert [one.kind for one in events if isinstance(one, DeviceEvent)] == ["attached"]
        health = {found.stream: found for found in node.health()}
        assert [health[name].attached for name in ("hanging", "flooding", "away", "steady")] == [
            True,
            True,
            False,
            True,
        ]
        assert health["steady"].discrepancies == []
        assert eventually(lambda: node.pipelines[1].outlet.next_sequence > 10_000)
        node.stop("seen enough")
    ended = {found.stream: found.ended for found in node.last_health}
    assert ended == dict.fromkeys(("hanging", "flooding", "away", "steady"), True)


def test_the_end_reaches_the_subscribers_of_the_others(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast_broker.sources.usb.feed.JOIN_S", 0.2)
    steady = SimulatorBackend([SimulatedDevice(STEADY)])
    with Node(small()) as node:
        for stream, backend in (("hanging", hanging), ("steady", steady)):
            add_device(node, quick_profile(backend.devices[0].config, stream), stream=stream, backend=backend)
        node.start()
        assert hanging.hangs.wait(10)
        with usbcast.subscribe("steady", node.endpoint, start=0) as stream:
            assert stream.ready(10)
            stopper = threading.Thread(target=node.stop, args=("seen enough",), kwargs={"linger_s": 1.0})
            stopper.start()
            *_, last = stream.events()
            stopper.join(20)
        assert isinstance(last, End)
        assert last.reason == "seen enough"

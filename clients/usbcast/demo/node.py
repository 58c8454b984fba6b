"""The demo's node: the first case and a fast stream, both from simulated devices, for a given number of seconds."""

from __future__ import annotations

import argparse

from usbcast.cli.health import stream_as_plain
from usbcast.cli.output import emit
from usbcast.cli.signals import stop_signals
from usbcast.demo import PROGRESS_S, RATES_HZ
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import SimulatorConfig

RING_BYTES = 6 * 1024 * 1024
"""Some two and a half seconds of the fast stream, so that the slow subscriber finds something gone."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    seconds = parser.parse_args().seconds
    settings = NodeSettings(bind="tcp://127.0.0.1:0", ring_size=RING_BYTES, ring_slots=16384)
    with stop_signals() as stopped, Node(settings) as node:
        devices = {}
        for number, (name, rate_hz) in enumerate(RATES_HZ.items()):
            config = SimulatorConfig(rate_hz=rate_hz, packets=max(1, round(seconds * rate_hz)), serial=f"DEMO{number}")
            devices[name] = add_simulated(node, config, name)[1]
        node.start()
        emit({"event": "serving", "endpoint": node.endpoint})
        while True:
            finished = stopped.wait(PROGRESS_S) or all(device.exhausted.is_set() for device in devices.values())
            emit({"event": "progress", "streams": {name: device.produced for name, device in devices.items()}})
            if finished:
                break
        interrupted = stopped.is_set()
        reason = "interrupted" if interrupted else "the simulated device has sent all its packets"
        node.stop(reason, linger_s=0.3 if interrupted else 1.0)
        emit({"event": "ended", "streams": {found.stream: stream_as_plain(found) for found in node.last_health}})


if __name__ == "__main__":
    main()

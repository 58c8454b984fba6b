"""A node that ended goes on answering for a while, but not when it is told to hurry."""

from __future__ import annotations

import threading
import time

from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.simulator import SimulatorConfig
from usbcast_broker.sources import add_simulated


def test_who_tells_a_lingering_node_to_hurry_does_not_wait_for_it() -> None:
    with Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=1 << 20)) as node:
        pipeline, _ = add_simulated(node, SimulatorConfig(), "sim")
        node.start()
        hurry = threading.Event()
        stopping = threading.Thread(target=lambda: node.stop("enough", linger_s=60, hurry=hurry))
        stopping.start()
        deadline = time.monotonic() + 10
        while not pipeline.outlet.ended:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert stopping.is_alive()
        hurry.set()
        stopping.join(10)
        assert not stopping.is_alive()

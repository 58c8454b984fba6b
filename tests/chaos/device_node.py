"""The node of a run: owns a simulated device and writes down, beside the product, what that device has made.

SIGTERM stops the device's stream with an end and goes on answering until the second SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import threading
import time
from pathlib import Path

from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import SimulatorConfig, load_faults
from usbcast_schemas.ledger import Ledger

WRITE_EACH_S = 0.2


def main() -> None:
    # libfaketime shifts the deadline by which Python sleeps even where it leaves the monotonic clock alone.
    time.sleep = lambda seconds: select.select([], [], [], seconds) and None
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True, help="options of the simulated device, JSON")
    parser.add_argument("--node", required=True, help="settings of the node, JSON")
    parser.add_argument("--faults", type=Path, required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument(
        "--drain-s", type=float, default=20.0, help="wait so long at the end until the device has no more"
    )
    given = parser.parse_args()
    config = SimulatorConfig(**json.loads(given.device), faults=load_faults(given.faults))
    ended, left = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: left.set() if ended.is_set() else ended.set())
    with Node(NodeSettings(**json.loads(given.node))) as node:
        pipeline, device = add_simulated(node, config, given.stream)
        node.start()
        print(json.dumps({"event": "serving", "endpoint": node.endpoint}), flush=True)

        def write(*, whole: bool = False) -> None:
            (health,) = node.health()
            device_ledger = next((Ledger.from_proto(one) for one in health.ledgers if one.stage == "device"), None)
            said = {
                "epoch": pipeline.outlet.epoch,
                "made": device.produced,
                "dropped": device.dropped,
                "withheld": device.withheld,
                "discrepancies": list(health.discrepancies),
                "device_ledger": device_ledger.to_json() if device_ledger else None,
                "ended": whole,
            }
            beside = given.log.with_suffix(".new")
            beside.write_text(json.dumps(said))
            beside.replace(given.log)

        while not ended.wait(WRITE_EACH_S):
            write()
        device_is_out = device.exhausted.wait(given.drain_s)
        node.end(pipeline, "the run is over")
        write(whole=device_is_out)
        left.wait(120)


if __name__ == "__main__":
    main()

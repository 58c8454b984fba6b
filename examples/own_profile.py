"""Check a profile of your own before the hardware is there: serve it from a simulated device that sends in your format.

python examples/own_profile.py examples/my-device.toml
"""

from __future__ import annotations

import sys
from pathlib import Path

from cobs import cobs

import usbcast
from usbcast_broker import profiles
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_schemas.errors import ProfileError

path = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent / "my-device.toml")
try:
    profile = profiles.load(path)
except ProfileError as error:  # one line for each thing that is wrong: the key, its value, what is allowed
    sys.exit(str(error))

config = SimulatorConfig(rate_hz=50, packet_size=profile.packet_size, encode=lambda packet: cobs.encode(packet) + b"\0")
with Node(NodeSettings(bind="tcp://127.0.0.1:0")) as node:
    add_device(node, profile, backend=SimulatorBackend([SimulatedDevice(config)]))
    node.start()
    with usbcast.subscribe(profile.name, node.endpoint, start=0) as stream:
        for batch in stream:
            for name in batch.fields:
                print(f"{name} = {batch.scaled(name)[-1]:.2f}", end="  ")
            print()
            if batch.last_sequence >= 20:
                break
    print("lost so far:", stream.ledger.lost_total)

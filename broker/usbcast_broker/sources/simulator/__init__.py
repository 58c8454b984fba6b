"""A USB device made of software, under the real pyusb; docs/simulator.md is its reference."""

from usbcast_broker.sources.simulator.backend import SimulatorBackend
from usbcast_broker.sources.simulator.config import SimulatorConfig
from usbcast_broker.sources.simulator.device import SimulatedDevice
from usbcast_broker.sources.simulator.faults import Fault, load_faults, parse_faults
from usbcast_broker.sources.simulator.packets import make_packets

__all__ = [
    "Fault",
    "SimulatedDevice",
    "SimulatorBackend",
    "SimulatorConfig",
    "load_faults",
    "make_packets",
    "parse_faults",
]

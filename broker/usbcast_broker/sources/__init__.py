"""What a node can be given to serve: a device by its profile, or a simulated one. Both come to a profile and a feed."""

from __future__ import annotations

from usb.backend import IBackend

from usbcast_broker.node import Node
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.simulator.profile import profile_of
from usbcast_broker.sources.usb.feed import DeviceFeed
from usbcast_broker.sources.usb.transport import UsbTransport
from usbcast_broker.stream.intake import Intake
from usbcast_broker.stream.pipeline import Pipeline
from usbcast_schemas.contract import check_stream_name
from usbcast_schemas.profile import Profile


def add_device(
    node: Node, profile: Profile, *, stream: str | None = None, backend: IBackend | None = None, wait: bool = False
) -> Pipeline:
    """Serve the device that `profile` describes; with `wait`, also if it is plugged in later."""

    def make_feed(intake: Intake) -> DeviceFeed:
        return DeviceFeed(make_transport(profile, backend), intake, wait_for_device=wait)

    return node.add(profile, make_feed, stream=stream)


def add_simulated(node: Node, config: SimulatorConfig, stream: str) -> tuple[Pipeline, SimulatedDevice]:
    """Serve a simulated device, through the same transport and feed as a real one."""
    profile, backend, device = simulated_backend(config, stream)
    return add_device(node, profile, backend=backend), device


def make_transport(profile: Profile, backend: IBackend | None = None, *, whole: bool = False) -> UsbTransport:
    """The way to the device that `profile` describes; with `whole`, reads end where the device ends its transfers."""
    return UsbTransport(
        *(profile.device, profile.transfer, profile.startup, profile.shutdown, backend),
        bytes_per_s=profile.stream.rate_hz * (profile.packet_size or 0),
        whole=whole,
    )


def simulated_backend(config: SimulatorConfig, stream: str) -> tuple[Profile, IBackend, SimulatedDevice]:
    """A simulated device, its profile, and the backend on which it is plugged in."""
    device = SimulatedDevice(config)
    return profile_of(config, check_stream_name(stream)), SimulatorBackend([device]), device

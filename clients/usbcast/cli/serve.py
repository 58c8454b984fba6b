"""`usbcast serve`: run a node, with devices by their profiles or a simulated one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from usbcast.cli import probing
from usbcast.cli.node_options import (
    Announce,
    BatchAge,
    BatchSize,
    Bind,
    Config,
    Insecure,
    Linger,
    MaxConnections,
    NodeKeys,
    Publish,
    RingSize,
    RingSlots,
    ShowConfig,
    node_flags,
)
from usbcast.cli.node_run import attend, emit_serving, say_farewell
from usbcast.cli.nonwaiting import nonwaiting, shown
from usbcast.cli.options import AsJson
from usbcast.cli.output import console, show_settings, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.cli.watchdog import WatchdogReporter
from usbcast_schemas.errors import UsageError

if TYPE_CHECKING:
    from usbcast_broker.node import Node
    from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorConfig


@dataclass(frozen=True)
class Simulation:
    """Options of `--simulate`."""

    config: SimulatorConfig
    stream: str


def serve(
    profiles: Annotated[
        list[str] | None, typer.Argument(metavar="PROFILE...", help="Profile files, or names of shipped ones.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Serve a simulated device.")] = False,
    stream: Annotated[str | None, typer.Option("--stream", help="Name of the stream; default: the profile's.")] = None,
    rate: Annotated[
        float, typer.Option("--rate", help="Simulated packets per second; 0: as fast as they are read.")
    ] = 100.0,
    packet_size: Annotated[int, typer.Option("--packet-size", help="Bytes of a simulated packet.")] = 112,
    packets: Annotated[int | None, typer.Option("--packets", help="Stop after this many simulated packets.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the simulation.")] = 0,
    faults: Annotated[
        Path | None, typer.Option("--faults", metavar="FILE", help="Script of faults to simulate.")
    ] = None,
    bind: Bind = None,
    publish: Publish = None,
    insecure: Insecure = None,
    keys: NodeKeys = None,
    max_connections: MaxConnections = None,
    announce: Announce = None,
    ring_size: RingSize = None,
    ring_slots: RingSlots = None,
    batch_size: BatchSize = None,
    batch_age_ms: BatchAge = None,
    linger_s: Linger = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Show the device's raw transfers in hex instead of serving them.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Start even if a device is missing, and wait for it.")] = False,
    config: Config = None,
    show_config: ShowConfig = False,
    as_json: AsJson = False,
) -> None:
    """Own the devices of PROFILE... (or a simulated one) and publish every packet they send."""
    flags = node_flags(locals())
    from usbcast_broker.node import Node
    from usbcast_broker.settings import load_settings

    settings, sourced = load_settings(config, flags)
    if show_config:
        show_settings(sourced, as_json)
        return
    _check_source(profiles or [], stream, simulate=simulate)
    simulation = None
    if simulate:
        simulation = _simulation(
            stream, rate_hz=rate, packet_size=packet_size, packets=packets, seed=seed, faults=faults
        )
    if probe:
        with stop_signals() as stopped, shown(stopped):
            probing.run(_probed(profiles or [], simulation), stopped, as_json)
        return
    with nonwaiting("stdout"), stop_signals() as stopped, Node(settings) as node:
        device = _add(node, profiles or [], simulation, stream, wait=wait)
        node.start()
        watchdog = WatchdogReporter(node)
        _say_serving(node, as_json)
        exhausted = device.exhausted if device else None
        problem = attend(node, watchdog, stopped, _Rows(node).table, as_json=as_json, exhausted=exhausted)
        reason = problem or (
            "the node was stopped" if stopped.is_set() else "the simulated device has sent all its packets"
        )
        watchdog.stopping()
        node.stop(reason, linger_s=settings.linger_s, hurry=stopped)
        say_farewell(node, reason, as_json=as_json)
    if problem:
        raise typer.Exit(1)


def _check_source(profiles: list[str], stream: str | None, *, simulate: bool) -> None:
    """Raise UsageError unless it is clear what is served, and under which name."""
    if profiles and simulate:
        raise UsageError(
            f"--simulate serves the simulated device, whose profile is built in: leave out {' '.join(profiles)}, "
            "or leave out --simulate to serve the real device"
        )
    if not profiles and not simulate:
        raise UsageError("say which device to serve: one or more PROFILEs (a file, or first-case), or --simulate")
    if stream is not None and len(profiles) > 1:
        raise UsageError(f"--stream {stream} names one stream, and there are {len(profiles)} profiles")


def _probed(names: list[str], simulation: Simulation | None) -> probing.Probed:
    """The one device to be probed."""
    from usbcast_broker import profiles
    from usbcast_broker.sources import make_transport, simulated_backend

    if simulation is not None:
        profile, backend, device = simulated_backend(simulation.config, simulation.stream)
        return probing.Probed(make_transport(profile, backend, whole=True), device.exhausted)
    if len(names) != 1:
        raise UsageError(f"--probe shows one device, and there are {len(names)} profiles")
    return probing.Probed(make_transport(profiles.load(names[0]), whole=True))


def _simulation(stream: str | None, *, faults: Path | None, **options: Any) -> Simulation:
    from usbcast_broker.sources.simulator import SimulatorConfig, load_faults

    return Simulation(SimulatorConfig(**options, faults=load_faults(faults) if faults else ()), stream or "first-case")


def _add(
    node: Node, names: list[str], simulation: Simulation | None, stream: str | None, *, wait: bool
) -> SimulatedDevice | None:
    from usbcast_broker import profiles
    from usbcast_broker.sources import add_device, add_simulated

    if simulation is not None:
        return add_simulated(node, simulation.config, simulation.stream)[1]
    for name in names:
        add_device(node, profiles.load(name), stream=stream, wait=wait)
    return None


def _say_serving(node: Node, as_json: bool) -> None:
    streams = [pipeline.outlet.stream for pipeline in node.pipelines]
    waiting = {line.outlet.stream: line.problem for line in node.pipelines if not line.feed.attached}
    if as_json:
        emit_serving(node, streams, waiting=waiting)
        return
    console.print(styled("serving ", (", ".join(streams), "bold"), f" at {node.endpoint}  (Ctrl-C stops)"))
    if len(streams) == 1:
        console.print(f"  in another terminal:  usbcast watch {streams[0]}")
    for name, problem in waiting.items():
        console.print(f"  {name} waits for its device: {problem}", soft_wrap=True)


class _Rows:
    """Rows of a node's live view."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rates = {pipeline.outlet.stream: Rate() for pipeline in node.pipelines}

    def table(self) -> Table:
        rows = []
        for found in self._node.health():
            outlet = next(ledger for ledger in found.ledgers if ledger.stage == "outlet")
            rate = self._rates[found.stream].at(outlet.left, time.monotonic())
            lost = sum(n for ledger in found.ledgers if ledger.unit == "packets" for n in ledger.lost.values())
            rows.append(
                (
                    found.stream,
                    "attached" if found.attached else "detached",
                    rate,
                    outlet.left,
                    lost,
                    len(found.subscriptions),
                    not found.discrepancies,
                    found.problem,
                )
            )
        return table(
            "", ("stream", "device", "packets/s", "packets", "lost", "subscribers", "balanced", "problem"), rows
        )

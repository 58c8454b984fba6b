"""`usbcast serve`: run a node, with devices by their profiles or a simulated one."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from usbcast.cli import probing
from usbcast.cli.health import show_stream, stream_as_plain
from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.options import AsJson
from usbcast.cli.output import complain, console, emit, show_settings, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.cli.watchdog import WatchdogReporter
from usbcast_schemas.errors import UsageError

if TYPE_CHECKING:
    from usbcast_broker.node import Node
    from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorConfig
    from usbcast_schemas.v1 import usbcast_pb2 as pb

REFRESH_S = 0.25


@dataclass(frozen=True)
class Simulation:
    """What `--simulate` asks for."""

    config: SimulatorConfig
    stream: str


def serve(
    profiles: Annotated[
        list[str] | None, typer.Argument(metavar="PROFILE...", help="Profile files, or names of shipped ones.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Serve a simulated device.")] = False,
    stream: Annotated[str | None, typer.Option("--stream", help="Name of the stream; default: the profile's.")] = None,
    rate: Annotated[
        float, typer.Option("--rate", help="Simulated packets a second; 0: as fast as they are read.")
    ] = 100.0,
    packet_size: Annotated[int, typer.Option("--packet-size", help="Bytes of a simulated packet.")] = 112,
    packets: Annotated[
        int | None, typer.Option("--packets", help="Simulated packets; the node ends after them.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of what is simulated.")] = 0,
    faults: Annotated[
        Path | None, typer.Option("--faults", metavar="FILE", help="Script of faults to simulate.")
    ] = None,
    bind: Annotated[str | None, typer.Option("--bind", metavar="ENDPOINT", help="Address for requests.")] = None,
    publish: Annotated[str | None, typer.Option("--publish", metavar="ENDPOINT", help="Address of the data.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="May be reached from other machines, by anybody.")
    ] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="DIR", help="Let in only clients with a key that DIR allows.")
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option("--max-connections", help="Of all clients; half of them for one address.")
    ] = None,
    announce: Annotated[
        str | None,
        typer.Option(
            "--announce", metavar="IFACE,…", help="Be found on the LAN by mDNS: interfaces, addresses, or all."
        ),
    ] = None,
    ring_size: Annotated[
        str | None, typer.Option("--ring-size", metavar="SIZE", help="Bytes a ring holds, as 64MiB.")
    ] = None,
    ring_slots: Annotated[
        int | None, typer.Option("--ring-slots", help="Batches that a ring holds at the most.")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option("--batch-size", metavar="SIZE", help="Bytes at which a batch goes.")
    ] = None,
    batch_age_ms: Annotated[
        float | None, typer.Option("--batch-age-ms", help="How long packets may wait for others.")
    ] = None,
    linger_s: Annotated[
        float | None, typer.Option("--linger-s", help="Seconds an ended node goes on answering.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Show the device's raw transfers in hex instead of serving them.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Start though a device is missing, and wait for it.")] = False,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Say each setting and where it came from; exit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Own the devices of PROFILE... (or a simulated one) and publish every packet of theirs."""
    from usbcast_broker.node import Node
    from usbcast_broker.settings import load_settings

    flags = {
        "bind": bind, "publish": publish, "insecure": insecure, "keys": keys, "max_connections": max_connections,
        "announce": announce, "ring_size": ring_size, "ring_slots": ring_slots,
        "batch_size": batch_size, "batch_age_ms": batch_age_ms, "linger_s": linger_s,
    }  # fmt: skip
    settings, sourced = load_settings(config, flags)
    if show_config:
        show_settings(sourced, as_json)
        return
    if profiles and simulate:
        raise UsageError(
            f"--simulate serves the simulated device, whose profile is built in: leave out {' '.join(profiles)}, "
            "or leave out --simulate to serve the real device"
        )
    if not profiles and not simulate:
        raise UsageError("say which device to serve: one or more PROFILEs (a file, or first-case), or --simulate")
    if stream is not None and len(profiles or ()) > 1:
        raise UsageError(f"--stream {stream} names one stream, and there are {len(profiles or ())} profiles")
    simulation = None
    if simulate:
        simulation = _simulation(
            stream, rate_hz=rate, packet_size=packet_size, packets=packets, seed=seed, faults=faults
        )
    if probe:
        with stop_signals() as stopped:
            probing.run(_probed(profiles or [], simulation), stopped, as_json)
        return
    with nonwaiting("stdout"), stop_signals() as stopped, Node(settings) as node:
        device = _add(node, profiles or [], simulation, stream, wait=wait)
        node.start()
        watchdog = WatchdogReporter(node)
        reason = _run(node, stopped, device, watchdog, as_json)
        problem = node.problem
        watchdog.stopping()
        node.stop(reason, linger_s=settings.linger_s, hurry=stopped)
        _say_farewell(node, reason, as_json)
    if problem:
        raise typer.Exit(1)


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


def _run(
    node: Node, stopped: threading.Event, device: SimulatedDevice | None, watchdog: WatchdogReporter, as_json: bool
) -> str:
    """Stay until told to stop, or the simulated device has no more; return why it ended."""
    streams = [pipeline.outlet.stream for pipeline in node.pipelines]
    waiting = {line.outlet.stream: line.problem for line in node.pipelines if not line.feed.attached}
    if as_json:
        serving = {
            "event": "serving",
            "endpoint": node.endpoint,
            "data": node.data_endpoints,
            "streams": streams,
            "waiting": waiting,
        }
        emit(serving)
    else:
        console.print(styled("serving ", (", ".join(streams), "bold"), f" at {node.endpoint}  (Ctrl-C stops)"))
        if len(streams) == 1:
            console.print(f"  in another terminal:  usbcast watch {streams[0]}")
        for name, problem in waiting.items():
            console.print(f"  {name} waits for its device: {problem}", soft_wrap=True)
    view = _View(node) if console.is_terminal and not as_json else None
    with Live(view.table(), console=console, auto_refresh=False) if view else contextlib.nullcontext() as live:
        while not stopped.wait(REFRESH_S if view or device is None else 0.02):
            if device is not None and device.exhausted.is_set():
                return "the simulated device has sent all its packets"
            if node.problem:
                complain(node.problem)
                return node.problem
            watchdog.look()
            if view and live:
                live.update(view.table(), refresh=True)
    return "the node was stopped"


class _View:
    """The live table of a node."""

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


def _say_farewell(node: Node, reason: str, as_json: bool) -> None:
    health: list[pb.StreamHealth] = node.last_health
    if as_json:
        emit(
            {"event": "ended", "reason": reason, "streams": {found.stream: stream_as_plain(found) for found in health}}
        )
        return
    console.print(reason)
    for found in health:
        show_stream(found)

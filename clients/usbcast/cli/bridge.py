"""`usbcast bridge`: serve the streams of other nodes here, with a ring and a replay service of one's own."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from usbcast.cli.node_options import (
    Announce,
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
from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.options import AsJson, Via
from usbcast.cli.output import console, show_settings, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.cli.storing import Creds, Keep, KeepBytes, Replicas, To, check_alone, forward_options, store
from usbcast.cli.watchdog import WatchdogReporter

if TYPE_CHECKING:
    from usbcast.bridge.bridge import Bridge
    from usbcast.bridge.options import BridgeOptions
    from usbcast_broker.node import Node
    from usbcast_broker.settings import NodeSettings

UpstreamKeys = Annotated[
    str | None,
    typer.Option("--upstream-keys", metavar="DIR", help="Keys for upstreams that ask for them; default: USBCAST_KEYS."),
]
Upstreams = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=]ENDPOINT...", help="Nodes to receive from; NAME- is put before their streams' names."
    ),
]
Streams = Annotated[
    list[str] | None,
    typer.Option("--streams", metavar="PATTERN", help="Which streams, like 'imu*'; may be repeated."),
]
Start = Annotated[str, typer.Option("--start", help="oldest: all that the upstream's ring holds; or now.")]
Every = Annotated[int | None, typer.Option("--every", min=1, help="Carry one packet out of this many.")]
Latest = Annotated[
    float | None,
    typer.Option("--latest", metavar="HZ", help="Carry only the newest batch, this many times per second."),
]
Limit = Annotated[
    str | None, typer.Option("--limit", metavar="SIZE", help="Carry at most this many bytes per second, like 50kB.")
]
OnDemand = Annotated[bool, typer.Option("--on-demand", help="Carry only while somebody subscribes.")]
Commands = Annotated[
    bool, typer.Option("--commands/--no-commands", help="Pass subscribers' commands on to the device.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Start even if an upstream or a stream is not there yet.")]


def bridge(
    upstreams: Upstreams = None,
    streams: Streams = None,
    start: Start = "oldest",
    via: Via = "auto",
    every: Every = None,
    latest: Latest = None,
    limit: Limit = None,
    on_demand: OnDemand = False,
    commands: Commands = True,
    wait: Wait = False,
    bind: Bind = None,
    publish: Publish = None,
    announce: Announce = None,
    insecure: Insecure = None,
    keys: NodeKeys = None,
    upstream_keys: UpstreamKeys = None,
    max_connections: MaxConnections = None,
    ring_size: RingSize = None,
    ring_slots: RingSlots = None,
    linger_s: Linger = None,
    config: Config = None,
    show_config: ShowConfig = False,
    to: To = None,
    keep: Keep = None,
    keep_bytes: KeepBytes = None,
    replicas: Replicas = None,
    creds: Creds = None,
    as_json: AsJson = False,
) -> None:
    """Serve the streams of the nodes at ENDPOINT... here: same packets, sequences and events, each received once."""
    flags = node_flags(locals())
    storing = {"--keep": keep, "--keep-bytes": keep_bytes, "--replicas": replicas, "--creds": creds}
    serving = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    check_alone(to, storing, {**serving, "--config": config})
    if to is not None:
        forwarding = forward_options(
            to, upstreams or (), start=start, via=via, wait=wait, keep=keep, keep_bytes=keep_bytes, replicas=replicas,
            creds=creds, upstream_keys=upstream_keys,
        )  # fmt: skip
        store(tuple(streams or ("*",)), forwarding, as_json)
        return
    from usbcast.bridge.choice import Choice, read_choices, read_limit
    from usbcast.bridge.options import BridgeOptions, parse_upstream
    from usbcast_broker.settings import load_settings, read_toml

    settings, sourced = load_settings(config, flags, tables=("streams",))
    if show_config:
        show_settings(sourced, as_json)
        return
    choice = Choice(every or 1, latest or 0.0, read_limit(limit) if limit else 0, on_demand)
    tables = read_toml(config).get("streams", {}) if config else {}
    options = BridgeOptions(
        tuple(parse_upstream(text) for text in upstreams or ()),
        tuple(streams or ("*",)),
        start,
        via,
        commands,
        read_choices(tables, choice, str(config)),
        upstream_keys,
    )
    _run(settings, options, wait=wait, as_json=as_json)


def _run(settings: NodeSettings, options: BridgeOptions, *, wait: bool, as_json: bool) -> None:
    """Carry streams until Ctrl-C or SIGTERM; then show the ledgers."""
    from usbcast.bridge.bridge import Bridge
    from usbcast_broker.node import Node

    with nonwaiting("stdout"), stop_signals() as stopped, Node(settings) as node:
        bridged = Bridge(node, options, stopped)
        with contextlib.closing(_Stopping(bridged)):
            bridged.connect(wait=wait)
            node.start()
            bridged.watch()
            watchdog = WatchdogReporter(node)
            _say_serving(node, bridged, as_json)
            problem = attend(node, watchdog, stopped, _Rows(node).table, as_json=as_json)
            watchdog.stopping()
        reason = problem or "the bridge was stopped"
        node.stop(reason, linger_s=settings.linger_s, hurry=stopped)
        say_farewell(node, reason, as_json=as_json)
    if problem:
        raise typer.Exit(1)


class _Stopping:
    """Stops adding streams when closed, so that the node has all of them when it stops."""

    def __init__(self, bridged: Bridge) -> None:
        self.close = bridged.stop


def _say_serving(node: Node, bridged: Bridge, as_json: bool) -> None:
    if as_json:
        upstreams = {name: stream.upstream.endpoint for name, stream in bridged.streams.items()}
        emit_serving(node, list(bridged.streams), upstreams=upstreams)
    else:
        names = ", ".join(bridged.streams) or "nothing yet"
        console.print(styled("bridging ", (names, "bold"), f" at {node.endpoint}  (Ctrl-C stops)"))


class _Rows:
    """Rows of a bridge's live view."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rates: dict[str, Rate] = {}

    def table(self) -> Table:
        rows = []
        for found in self._node.health():
            ledgers = {ledger.stage: ledger for ledger in found.ledgers}
            rate = self._rates.setdefault(found.stream, Rate()).at(ledgers["outlet"].left, time.monotonic())
            rows.append(
                (
                    found.stream,
                    found.source,
                    rate,
                    ledgers["outlet"].left,
                    sum(n for ledger in found.ledgers for n in ledger.lost.values()),
                    sum(ledger.overhead for ledger in found.ledgers),
                    ledgers["bridge"].counters["behind"],
                    ledgers["bridge"].counters["lag_us"] / 1000,
                    len(found.subscriptions),
                    not found.discrepancies,
                    found.problem,
                )
            )
        columns = (
            "stream", "upstream", "packets/s", "packets", "lost", "left out", "behind", "lag ms", "subscribers",
            "balanced", "problem",
        )  # fmt: skip
        return table("", columns, rows)

"""`usbcast bridge`: serve the streams of other nodes here, with a ring and a replay service of one's own."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from usbcast.cli.health import show_stream, stream_as_plain
from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.options import AsJson
from usbcast.cli.output import complain, console, emit, show_settings, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.cli.storing import StoringOptions, check_alone, store
from usbcast.cli.watchdog import WatchdogReporter

if TYPE_CHECKING:
    from usbcast.bridge.bridge import Bridge
    from usbcast_broker.node import Node

REFRESH_S = 0.25


def bridge(
    upstreams: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]ENDPOINT...", help="Nodes to have streams from; NAME- is put before their names."
        ),
    ] = None,
    streams: Annotated[
        list[str] | None, typer.Option("--streams", metavar="PATTERN", help="Which, as 'imu*'; may be repeated.")
    ] = None,
    start: Annotated[
        str, typer.Option("--start", help="oldest: all that the upstream's ring holds; or now.")
    ] = "oldest",
    via: Annotated[str, typer.Option("--via", help="auto, ring, push or notify.")] = "auto",
    every: Annotated[int | None, typer.Option("--every", min=1, help="Carry one of so many packets.")] = None,
    latest: Annotated[
        float | None, typer.Option("--latest", metavar="HZ", help="Carry the newest batch, so many times a second.")
    ] = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="SIZE", help="Carry so many bytes a second at the most, as 50kB.")
    ] = None,
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Carry only while somebody subscribes.")] = False,
    commands: Annotated[
        bool, typer.Option("--commands/--no-commands", help="Pass commands of subscribers on to the device.")
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait", help="Start though an upstream or a stream is not there yet.")
    ] = False,
    bind: Annotated[str | None, typer.Option("--bind", metavar="ENDPOINT", help="Address for requests.")] = None,
    publish: Annotated[str | None, typer.Option("--publish", metavar="ENDPOINT", help="Address of the data.")] = None,
    announce: Annotated[
        str | None,
        typer.Option(
            "--announce", metavar="IFACE,…", help="Be found on the LAN by mDNS: interfaces, addresses, or all."
        ),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="May be reached from other machines, by anybody.")
    ] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="DIR", help="Let in only clients with a key that DIR allows.")
    ] = None,
    upstream_keys: Annotated[
        str | None,
        typer.Option(
            "--upstream-keys", metavar="DIR", help="Keys for upstreams that ask for them; default: USBCAST_KEYS."
        ),
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option("--max-connections", help="Of all clients; half of them for one address.")
    ] = None,
    ring_size: Annotated[
        str | None, typer.Option("--ring-size", metavar="SIZE", help="Bytes a ring holds, as 64MiB.")
    ] = None,
    ring_slots: Annotated[
        int | None, typer.Option("--ring-slots", help="Batches that a ring holds at the most.")
    ] = None,
    linger_s: Annotated[
        float | None, typer.Option("--linger-s", help="Seconds an ended bridge goes on answering.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Say each setting and where it came from; exit.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="nats://HOST", help="Serve nothing here: store the streams on a NATS server."),
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="DURATION", help="With --to: how long, as 12h; 7d if made anew.")
    ] = None,
    keep_bytes: Annotated[
        str | None, typer.Option("--keep-bytes", metavar="SIZE", help="With --to: how much; 10GiB if made anew.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, max=5, help="With --to: on so many servers of the cluster.")
    ] = None,
    creds: Annotated[
        str | None, typer.Option("--creds", metavar="FILE", help="With --to: a user's credentials of NATS.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the streams of the nodes at ENDPOINT... here: same packets, sequences and events, each received once."""
    storing = {"--keep": keep, "--keep-bytes": keep_bytes, "--replicas": replicas, "--creds": creds}
    serving = {
        "--bind": bind, "--publish": publish, "--insecure": insecure, "--keys": keys, "--config": config,
        "--max-connections": max_connections, "--ring-size": ring_size, "--ring-slots": ring_slots,
        "--linger-s": linger_s,
    }  # fmt: skip
    check_alone(to, storing, serving)
    if to is not None:
        wish = StoringOptions(
            to, tuple(upstreams or ()), tuple(streams or ("*",)), start, via, wait, keep, keep_bytes, replicas, creds,
            upstream_keys,
        )  # fmt: skip
        store(wish, as_json)
        return
    from usbcast.bridge.bridge import Bridge
    from usbcast.bridge.choice import Choice, read_choices, read_limit
    from usbcast.bridge.options import BridgeOptions, parse_upstream
    from usbcast_broker.node import Node
    from usbcast_broker.settings import load_settings, read_toml

    flags = {
        "bind": bind, "publish": publish, "insecure": insecure, "keys": keys, "max_connections": max_connections,
        "announce": announce, "ring_size": ring_size, "ring_slots": ring_slots, "linger_s": linger_s,
    }  # fmt: skip
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
    with nonwaiting("stdout"), stop_signals() as stopped, Node(settings) as node:
        bridged = Bridge(node, options, stopped)
        with contextlib.closing(_Stopping(bridged)):
            bridged.connect(wait=wait)
            node.start()
            bridged.watch()
            watchdog = WatchdogReporter(node)
            reason = _run(node, bridged, stopped, watchdog, as_json)
            problem = node.problem
            watchdog.stopping()
        node.stop(reason, linger_s=settings.linger_s, hurry=stopped)
        _say_farewell(node, reason, as_json)
    if problem:
        raise typer.Exit(1)


class _Stopping:
    """Stops adding streams when closed, so that the node has all of them when it stops."""

    def __init__(self, bridged: Bridge) -> None:
        self.close = bridged.stop


def _run(node: Node, bridged: Bridge, stopped: threading.Event, watchdog: WatchdogReporter, as_json: bool) -> str:
    """Stay until told to stop; return why it ended."""
    if as_json:
        emit(
            {
                "event": "serving",
                "endpoint": node.endpoint,
                "data": node.data_endpoints,
                "streams": list(bridged.streams),
                "upstreams": {name: stream.upstream.endpoint for name, stream in bridged.streams.items()},
            }
        )
    else:
        names = ", ".join(bridged.streams) or "nothing yet"
        console.print(styled("bridging ", (names, "bold"), f" at {node.endpoint}  (Ctrl-C stops)"))
    view = _View(node, bridged) if console.is_terminal and not as_json else None
    with Live(view.table(), console=console, auto_refresh=False) if view else contextlib.nullcontext() as live:
        while not stopped.wait(REFRESH_S):
            if node.problem:
                complain(node.problem)
                return node.problem
            watchdog.look()
            if view and live:
                live.update(view.table(), refresh=True)
    return "the bridge was stopped"


class _View:
    """The live table of a bridge."""

    def __init__(self, node: Node, bridged: Bridge) -> None:
        self._node = node
        self._bridged = bridged
        self._rates: dict[str, Rate] = {}

    def table(self) -> Table:
        rows = []
        for found in self._node.health():
            books = {ledger.stage: ledger for ledger in found.ledgers}
            rate = self._rates.setdefault(found.stream, Rate()).at(books["outlet"].left, time.monotonic())
            rows.append(
                (
                    found.stream,
                    found.source,
                    rate,
                    books["outlet"].left,
                    sum(n for ledger in found.ledgers for n in ledger.lost.values()),
                    sum(ledger.overhead for ledger in found.ledgers),
                    books["bridge"].counters["behind"],
                    books["bridge"].counters["lag_us"] / 1000,
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


def _say_farewell(node: Node, reason: str, as_json: bool) -> None:
    if as_json:
        streams = {found.stream: stream_as_plain(found) for found in node.last_health}
        emit({"event": "ended", "reason": reason, "streams": streams})
        return
    console.print(reason)
    for found in node.last_health:
        show_stream(found)

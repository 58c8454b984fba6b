"""`usbcast watch`: one stream, live: rate, lag, gaps, decoded fields."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

import typer
from rich.console import Group

from usbcast import Batch, DeviceEvent, End, Event, Gap, Restart, Silence, Subscription, subscribe
from usbcast.cli.live import LiveView
from usbcast.cli.nonwaiting import shown
from usbcast.cli.options import AsJson, Endpoint, Keys, Via
from usbcast.cli.output import console, emit, ledger_table, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.subscription import CONNECT_TIMEOUT_S

REFRESH_S = 0.5
LINE_S = 1.0
"""Time between two lines of output without a terminal."""
REMEMBERED_EVENTS = 8


def watch(
    stream: Annotated[str, typer.Argument(help="Name of the stream.")],
    endpoint: Endpoint = None,
    start: Annotated[str, typer.Option("--start", help="now, oldest, or a sequence.")] = "now",
    via: Via = "auto",
    latest: Annotated[
        bool, typer.Option("--latest", help="Always the newest packets; skipped ones are counted.")
    ] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="Stop after this many seconds.")] = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Watch STREAM until it ends or Ctrl-C; then show the ledger. Events as they come, a line or a table twice a second."""
    begin: str | int = int(start) if start.isdigit() else start
    deliver = "latest" if latest else "all"
    with (
        stop_signals() as stopped,
        shown(stopped),
        subscribe(stream, endpoint, begin, deliver, via, keys) as subscription,
    ):
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while not subscription.ready(REFRESH_S) and not stopped.is_set() and time.monotonic() < deadline:
            continue
        if not subscription.ready(0) and not stopped.is_set():
            raise subscription.unreachable()
        watched = _Watched(subscription)
        _follow(subscription, watched, stopped, seconds, as_json)
        if as_json:
            emit({"event": "books", **subscription.ledger.to_json()})
        else:
            console.print(ledger_table(f"{stream}: this subscription ({subscription.via})", [subscription.ledger]))


class _Watched:
    """Figures of one stream so far."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.packets = self.gaps = 0
        self.newest: Batch | None = None
        self.recent: list[str] = []
        self._rate = Rate()
        self._worst_lag_ns = 0

    def take(self, event: Event) -> None:
        if isinstance(event, Batch):
            self.packets += len(event)
            self.newest = event
            self._worst_lag_ns = max(self._worst_lag_ns, self._subscription.lag_ns)
            return
        if isinstance(event, Gap):
            self.gaps += event.count
        self.recent = [*self.recent, describe(event)][-REMEMBERED_EVENTS:]

    def figures(self) -> dict[str, Any]:
        """Rate, lag (the worst since the last time), packets, gaps."""
        worst_ns, self._worst_lag_ns = self._worst_lag_ns, 0
        return {
            "rate_hz": round(self._rate.at(self.packets, time.monotonic()), 2),
            "worst_lag_us": round(worst_ns / 1000, 1),
            "packets": self.packets,
            "lost": self.gaps,
            "next_sequence": self.newest.last_sequence + 1 if self.newest else None,
        }

    def values(self) -> dict[str, float | int]:
        """The fields of the newest packet: in their units where the profile scales them, else as they are."""
        newest = self.newest
        if newest is None:
            return {}
        return {
            field.name: float(newest.scaled(field.name)[-1])
            if field.zero or field.scale not in (0.0, 1.0)
            else newest.fields[field.name][-1].item()
            for field in self._subscription.info.fields
        }


def _follow(
    subscription: Subscription, watched: _Watched, stopped: threading.Event, seconds: float | None, as_json: bool
) -> None:
    until = None if seconds is None else time.monotonic() + seconds
    due = time.monotonic()
    with LiveView(REFRESH_S, as_json=as_json) as view:
        plain = not view.drawn and not as_json
        while not stopped.is_set() and (until is None or time.monotonic() < until):
            event = subscription.receive(max(0.0, due - time.monotonic()))
            if event is not None:
                watched.take(event)
                if as_json and not isinstance(event, Batch):
                    emit({"event": type(event).__name__.lower(), **_plain(event)})
                elif plain and not isinstance(event, Batch):
                    console.print(f"{subscription.info.stream}: {describe(event)}", soft_wrap=True)
            if time.monotonic() >= due or isinstance(event, End):
                due = time.monotonic() + (LINE_S if plain else REFRESH_S)
                if as_json:
                    emit({"event": "figures", **watched.figures(), "fields": watched.values()})
                elif plain:
                    console.print(_line(subscription.info.stream, watched.figures()), soft_wrap=True)
                view.draw(lambda: _screen(subscription, watched))
            if isinstance(event, End):
                return


def _line(stream: str, figures: dict[str, Any]) -> str:
    return (
        f"{stream}: {figures['rate_hz']:,.1f} packets/s, worst lag {figures['worst_lag_us'] / 1000:,.2f} ms, "
        f"{figures['packets']:,} packets, {figures['lost']:,} lost"
    )


def _screen(subscription: Subscription, watched: _Watched) -> Group:
    figures = watched.figures()
    info = subscription.info
    parts: list[Any] = [
        table(
            f"{info.stream} via {subscription.via}",
            ("packets/s", "worst lag ms", "packets", "lost", "next sequence"),
            [
                (
                    figures["rate_hz"],
                    f"{figures['worst_lag_us'] / 1000:.2f}",
                    figures["packets"],
                    figures["lost"],
                    figures["next_sequence"] if figures["next_sequence"] is not None else "-",
                )
            ],
        )
    ]
    values = watched.values()
    if values:
        units = {field.name: field.unit for field in info.fields}
        cells = [f"{name} {_shown(value)} {units[name]}".rstrip() for name, value in values.items()]
        beside = max(1, min(4, (console.width - 1) // (max(map(len, cells)) + 1)))
        rows = [(cells[i : i + beside] + [""] * beside)[:beside] for i in range(0, len(cells), beside)]
        parts.append(table("newest packet", [""] * beside, rows))
    parts += [f"  {line}" for line in watched.recent]
    return Group(*parts)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def describe(event: Event) -> str:
    """Return one line for a person to read."""
    match event:
        case Gap(first=first, last=last, count=count, stage=stage, reason=reason):
            which = f"{first:,} to {last:,}" if last >= first else f"before {first:,}"
            much = f"{'at least ' if event.at_least else ''}{count:,} packets"
            if not count:
                much = f"{event.size_bytes:,} bytes" if event.size_bytes else "an unknown number of packets"
            return f"lost {much} ({which}) at stage {stage}: {reason}"
        case Restart(old_epoch=old, new_epoch=new):
            return f"restart: epoch {old:016x} is over, {new:016x} began"
        case DeviceEvent(kind=kind, detail=detail):
            return f"device {kind}: {detail}"
        case Silence(duration_ns=duration, upstream=True):
            return f"silence for {duration / 1e9:.1f} s: the bridge lives, and hears nothing of its upstream"
        case Silence(duration_ns=duration):
            return f"silence for {duration / 1e9:.1f} s: the node is gone or hung; reconnecting"
        case End(reason=reason, packets=packets):
            return f"the stream ended after {packets:,} packets: {reason}"
    return repr(event)


def _plain(event: Event) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(event)  # type: ignore[arg-type]

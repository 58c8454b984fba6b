"""`usbcast demo`: see it work. The first case and a fast stream, three subscribers, one of them slow on purpose."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

import typer
from rich.console import Group

from usbcast.cli.live import LiveView
from usbcast.cli.nonwaiting import shown
from usbcast.cli.options import AsJson
from usbcast.cli.output import console, emit, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.demo import FAST, RATES_HZ
from usbcast.demo.children import Children
from usbcast_schemas.errors import NodeError

VIAS = ("ring", "notify", "push")
SLOW_VIA = "push"
SLOW_HZ = RATES_HZ[FAST] / 5
SLOW_SHARE = 0.6
"""Share of the time for which the slow subscriber is slow; then it catches up."""

START_TIMEOUT_S = 20.0
STRAGGLE_S = 15.0
INTERRUPTED_STRAGGLE_S = 0.8


def demo(
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, max=3600, help="How long the devices send.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Two simulated devices, three subscribers in processes of their own (ring, notify, push), and the ledgers at the end.

    The push subscriber is slow on purpose with the fast stream: it falls behind, is refilled from the ring, and is told
    exactly which packets the ring no longer held.
    """
    with stop_signals() as interrupted, shown(interrupted):
        with Children() as children:
            result = _Demo(children, seconds, interrupted).run(live=not as_json)
        if as_json:
            emit(result)
        else:
            _show(result)
    if not result["balanced"]:
        raise typer.Exit(1)


class _Demo:
    """One run of the demo."""

    def __init__(self, children: Children, seconds: float, interrupted: threading.Event) -> None:
        self._children = children
        self._seconds = seconds
        self._interrupted = interrupted
        self._produced = dict.fromkeys(RATES_HZ, 0)
        self._now: dict[tuple[str, str], dict[str, Any]] = {}
        self._rates: dict[tuple[str, str], Rate] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._books: dict[str, Any] | None = None

    def run(self, *, live: bool) -> dict[str, Any]:
        children = self._children
        children.start("node", "usbcast.demo.node", "--seconds", str(self._seconds))
        endpoint = children.wait_for("node", "serving", START_TIMEOUT_S)["endpoint"]
        for via in VIAS:
            slow = ["--slow-stream", FAST, "--slow-hz", str(SLOW_HZ), "--slow-s", str(self._seconds * SLOW_SHARE)]
            children.start(via, "usbcast.demo.subscriber", endpoint, via, *RATES_HZ, *(slow if via == SLOW_VIA else ()))
        with LiveView(as_json=not live) as view:
            view.draw(self._screen)
            self._follow(view)
        return self._result()

    def _follow(self, view: LiveView) -> None:
        deadline = time.monotonic() + self._seconds + START_TIMEOUT_S + STRAGGLE_S
        told = False
        while self._books is None or len(self._results) < len(VIAS):
            if self._interrupted.is_set() and not told:
                told = True
                for name in ("node", *sorted({via for _, via in self._now})):
                    self._children.interrupt(name)
                deadline = time.monotonic() + INTERRUPTED_STRAGGLE_S
            if time.monotonic() > deadline:
                if told:
                    return  # what is not in by now is shown as it stood last
                missing = [name for name in ("node", *VIAS) if name not in self._results and name != "node"]
                raise NodeError(
                    f"the demo did not come to its end: nothing came from {', '.join(missing) or 'the node'}"
                )
            heard = self._children.hear(0.05)
            if heard:
                self._take(*heard)
            if heard is None or heard[0] == "node":
                view.draw(self._screen)

    def _take(self, name: str, said: dict[str, Any]) -> None:
        match said["event"], name:
            case "progress", "node":
                self._produced.update(said["streams"])
            case "ended", "node":
                self._books = said["streams"]
            case "progress", via:
                for stream, figures in said["streams"].items():
                    self._now[stream, via] = figures
            case "done", via:
                self._results[via] = said["streams"]

    def _screen(self) -> Group:
        now_s = time.monotonic()
        rows = []
        for (stream, via), figures in sorted(self._now.items()):
            rate = self._rates.setdefault((stream, via), Rate()).at(figures["delivered"], now_s)
            who = f"slow {via}" if (stream, via) == (FAST, SLOW_VIA) else via
            rows.append(
                (
                    stream,
                    _count(self._produced[stream]),
                    who,
                    _hz(rate),
                    _count(figures["delivered"]),
                    _ms(figures["worst_lag_us"]),
                    _count(figures["declared_lost"]),
                    _count(figures["refilled"]),
                )
            )
        columns = ("stream", "sent", "subscriber", "out/s", "delivered", "worst ms", "lost", "refilled")
        return Group(table("usbcast demo: one process owns the device, three receive", columns, rows))

    def _result(self) -> dict[str, Any]:
        streams: dict[str, Any] = {}
        balanced = self._books is not None and len(self._results) == len(VIAS)
        for stream in RATES_HZ:
            books = (self._books or {}).get(stream)
            produced = books["ledgers"]["device"]["in"] if books else self._produced[stream]
            subscribers = []
            for via in VIAS:
                figures = self._results.get(via, {}).get(stream) or self._now.get((stream, via), {})
                subscribers.append({"via": via, **figures})
                balanced &= produced == figures.get("delivered", 0) + figures.get("declared_lost", 0)
            streams[stream] = {"produced": produced, "subscribers": subscribers, "books": books}
            balanced &= bool(books and books["balanced"])
        return {"streams": streams, "balanced": balanced, "interrupted": self._interrupted.is_set()}


def _hz(rate: float) -> str:
    if rate < 100_000:
        return f"{rate:,.1f}" if rate < 1000 else f"{rate:,.0f}"
    return f"{rate / 1e6:,.1f} M"


def _ms(lag_us: float) -> str:
    if lag_us < 10_000_000:
        return f"{lag_us / 1000:,.2f}" if lag_us < 100_000 else f"{lag_us / 1000:,.0f}"
    return f"{lag_us / 1e6:,.0f} s"


def _count(packets: int) -> str:
    """The exact number; without separators where these would make the table wider than 80 characters."""
    return f"{packets:,}" if packets < 10_000_000 else str(packets)


def _show(result: dict[str, Any]) -> None:
    wrong: list[str] = []
    for name, stream in result["streams"].items():
        produced = stream["produced"]
        rows = []
        for found in stream["subscribers"]:
            delivered, lost = found.get("delivered", 0), found.get("declared_lost", 0)
            rows.append(
                (
                    ("slow " if found.get("slow") else "") + found["via"],
                    _hz(found.get("rate_in_hz", 0.0)),
                    _hz(found.get("rate_out_hz", 0.0)),
                    _count(delivered),
                    _count(lost),
                    found.get("duplicates", 0),
                    _count(found.get("after_stop", 0)),
                    _count(found.get("refilled", 0)),
                    _ms(found.get("lag_p50_us", 0)),
                    _ms(found.get("lag_p99_us", 0)),
                )
            )
            if produced != delivered + lost:
                wrong.append(f"{name} by {found['via']}: {produced:,} sent, {delivered + lost:,} accounted for")
        columns = ("way", "in/s", "out/s", "delivered", "lost", "twice", "late", "refilled", "p50", "p99")
        console.print(table(f"{name}: the device sent {produced:,} packets", columns, rows))
    for line in (
        "  lost: declared, by sequence; late: over 50 ms after the device's last one;",
        "  p50, p99: lag in ms from the return of the USB read to the application.",
    ):
        console.print(line, style="dim")
    for name, stream in result["streams"].items():
        for found in stream["subscribers"]:
            if found.get("slow"):
                console.print(
                    styled(
                        "  The slow one fell behind on ",
                        (name, "bold"),
                        f": {found.get('refilled', 0):,} packets were refilled from the ring, and it was told of each of "
                        f"the {found.get('declared_lost', 0):,} that were gone.",
                    )
                )
    if result["balanced"]:
        console.print("  The ledgers balance: sent = delivered + declared lost, for every subscriber.", style="green")
    elif result["interrupted"]:
        console.print("  Interrupted before all had come to their end: these are the figures as they stood last.")
    else:
        console.print("  THE LEDGERS DO NOT BALANCE. " + "; ".join(wrong), style="bold red")

"""`usbcast bridge --to nats://…`: streams stored by a NATS server, until told to stop."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.live import Live
from rich.table import Table

from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.output import complain, console, emit, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.recording.sizes import parse_size
from usbcast.service_manager import ServiceManager
from usbcast_schemas.errors import UsageError

if TYPE_CHECKING:
    from usbcast.jetstream.forwarding import Forwarding

FIGURES_S = 1.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class StoringOptions:
    """What the command line said about storing."""

    to: str
    upstreams: tuple[str, ...]
    streams: tuple[str, ...]
    start: str
    via: str
    wait: bool
    keep: str | None
    keep_bytes: str | None
    replicas: int | None
    creds: str | None
    upstream_keys: str | None


def check_alone(to: str | None, storing: Mapping[str, object], serving: Mapping[str, object]) -> None:
    """Raise UsageError where options of the two kinds of bridge stand together."""
    wrong = storing if to is None else serving
    given = [name for name, value in wrong.items() if value is not None]
    if given and to is None:
        raise UsageError(f"{given[0]} is for a bridge that stores on a NATS server: say --to nats://HOST too")
    if given:
        raise UsageError(f"{given[0]} is for a bridge that serves, and --to serves nothing: leave out one of the two")


def store(wish: StoringOptions, as_json: bool) -> None:
    """Forward until Ctrl-C or SIGTERM; then show the books. Exit code 1 if they do not balance."""
    from usbcast.jetstream import require_nats
    from usbcast.node.endpoints import is_stored, parse

    if wish.start not in ("now", "oldest"):
        raise UsageError(f"--start is {wish.start!r}: now or oldest is allowed")
    if not is_stored(wish.to):
        raise UsageError(f"--to is {wish.to!r}: write the address of a NATS server, like nats://HOST:4222")
    if len(wish.upstreams) > 1 or any("=" in upstream for upstream in wish.upstreams):
        raise UsageError("--to stores the streams of one node, under their own names: run one bridge for each")
    require_nats()
    from usbcast.jetstream.forwarding import ForwardOptions, forward
    from usbcast.jetstream.store import Retention

    keep_bytes = None if wish.keep_bytes is None else _size(wish.keep_bytes)
    retention = Retention(None if wish.keep is None else seconds(wish.keep), keep_bytes, wish.replicas)
    address = parse(wish.to).with_creds(wish.creds or "")
    upstream = wish.upstreams[0] if wish.upstreams else None
    options = ForwardOptions(address, upstream, wish.start, wish.via, retention, wish.wait, wish.upstream_keys)
    view = _View(str(address), as_json)
    with nonwaiting("stdout"):
        with stop_signals() as stopped, view.showing():
            done = forward(wish.streams, options, stopped, warn=view.warn, look=view.look)
        view.farewell(done)
    if any(one.ledger.discrepancy() for one in done.forwarders.values()):
        raise typer.Exit(1)


def seconds(text: str) -> float:
    """A duration as people write it: 90s, 30m, 12h, 7d, 2w; raise UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if found is None or float(found[1]) * _UNITS_S[found[2]] < 1:
        raise UsageError(f"--keep is {text!r}: write a duration of at least a second, like 90s, 12h or 7d")
    return float(found[1]) * _UNITS_S[found[2]]


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise UsageError(f"--keep-bytes is {text!r}: write a size like 10GiB") from None


class _View:
    """Progress, for a person or a program."""

    def __init__(self, to: str, as_json: bool) -> None:
        self._to = to
        self._as_json = as_json
        self._rates: dict[str, Rate] = {}
        self._live: Live | None = None
        self._manager = ServiceManager()
        self._begun = False
        self._due_s = 0.0

    @contextlib.contextmanager
    def showing(self) -> Any:
        if self._as_json or not console.is_terminal:
            yield
            return
        with Live(console=console, auto_refresh=False) as self._live:
            yield

    def warn(self, sentence: str) -> None:
        if self._as_json:
            emit({"event": "warning", "message": sentence})
        else:
            complain(sentence, "bold yellow")

    def look(self, work: Forwarding) -> None:
        if not self._begun and work.forwarders:
            self._begun = True
            if self._as_json:
                emit({"event": "storing", "to": self._to, "streams": list(work.forwarders)})
            else:
                names = ", ".join(work.forwarders)
                console.print(styled("storing ", (names, "bold"), f" at {self._to}  (Ctrl-C stops)"))
        if not self._due_s:
            self._manager.ready()
        self._manager.alive(time.monotonic_ns())
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + FIGURES_S
        if self._as_json:
            emit({"event": "figures", "streams": work.figures()})
        elif self._live:
            self._live.update(self._table(work), refresh=True)

    def farewell(self, work: Forwarding) -> None:
        if self._as_json:
            emit({"event": "books", "streams": work.figures()})
        else:
            console.print(self._table(work))

    def _table(self, work: Forwarding) -> Table:
        rows = []
        for name, one in work.forwarders.items():
            books = one.ledger
            rate = self._rates.setdefault(name, Rate()).at(books.left, time.monotonic())
            state = one.trouble or ("ended" if one.ended else "well")
            rows.append((name, rate, books.left, books.held, books.lost_total, round(one.lag_ns / 1e6, 2), state))
        return table(
            f"Stored at {self._to}",
            ("stream", "packets/s", "acknowledged", "under way", "lost", "lag ms", "state"),
            rows,
        )

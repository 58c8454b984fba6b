"""`usbcast bridge --to nats://…`: streams stored by a NATS server, until told to stop."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from usbcast.cli.live import LiveView
from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.output import complain, console, emit, styled, table
from usbcast.cli.rates import Rate
from usbcast.cli.signals import stop_signals
from usbcast.recording.sizes import parse_size
from usbcast.service_manager import ServiceManager
from usbcast_schemas.errors import UsageError

if TYPE_CHECKING:
    from usbcast.jetstream.forwarding import Forwarding, ForwardOptions

FIGURES_S = 1.0

To = Annotated[
    str | None,
    typer.Option("--to", metavar="nats://HOST", help="Serve nothing here: store the streams on a NATS server."),
]
Keep = Annotated[
    str | None, typer.Option("--keep", metavar="DURATION", help="With --to: for how long, like 12h; a new store: 7d.")
]
KeepBytes = Annotated[
    str | None, typer.Option("--keep-bytes", metavar="SIZE", help="With --to: how much; a new store: 10GiB.")
]
Replicas = Annotated[
    int | None, typer.Option("--replicas", min=1, max=5, help="With --to: on this many servers of the cluster.")
]
Creds = Annotated[
    str | None, typer.Option("--creds", metavar="FILE", help="With --to: file of a NATS user's credentials.")
]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def check_alone(to: str | None, storing: Mapping[str, object], serving: Mapping[str, object]) -> None:
    """Raise UsageError where options of the two kinds of bridge stand together."""
    wrong = storing if to is None else serving
    given = [name for name, value in wrong.items() if value is not None]
    if given and to is None:
        raise UsageError(f"{given[0]} is for a bridge that stores on a NATS server: say --to nats://HOST too")
    if given:
        raise UsageError(f"{given[0]} is for a bridge that serves, and --to serves nothing: leave out one of the two")


def forward_options(
    to: str,
    upstreams: Sequence[str],
    *,
    start: str,
    via: str,
    wait: bool,
    keep: str | None,
    keep_bytes: str | None,
    replicas: int | None,
    creds: str | None,
    upstream_keys: str | None,
) -> ForwardOptions:
    """Return what the options of the command line say. Raises UsageError."""
    from usbcast.jetstream import require_nats
    from usbcast.node.endpoints import is_stored, parse

    if start not in ("now", "oldest"):
        raise UsageError(f"--start is {start!r}: now or oldest is allowed")
    if not is_stored(to):
        raise UsageError(f"--to is {to!r}: write the address of a NATS server, like nats://HOST:4222")
    if len(upstreams) > 1 or any("=" in upstream for upstream in upstreams):
        raise UsageError("--to stores the streams of one node, under their own names: run one bridge for each")
    require_nats()
    from usbcast.jetstream.forwarding import ForwardOptions
    from usbcast.jetstream.store import Retention

    size_bytes = None if keep_bytes is None else _size(keep_bytes)
    retention = Retention(None if keep is None else seconds(keep), size_bytes, replicas)
    address = parse(to).with_creds(creds or "")
    upstream = upstreams[0] if upstreams else None
    return ForwardOptions(address, upstream, start, via, retention, wait, upstream_keys)


def store(streams: tuple[str, ...], options: ForwardOptions, as_json: bool) -> None:
    """Forward until Ctrl-C or SIGTERM; then show the ledgers. Exit code 1 if they do not balance."""
    from usbcast.jetstream.forwarding import forward

    progress = _Progress(str(options.address), as_json)
    with nonwaiting("stdout"):
        with stop_signals() as stopped, progress.view:
            done = forward(streams, options, stopped, warn=progress.warn, look=progress.look)
        progress.say_farewell(done)
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


class _Progress:
    """Shows what has been stored, to a person or a program."""

    def __init__(self, to: str, as_json: bool) -> None:
        self._to = to
        self._as_json = as_json
        self._rates: dict[str, Rate] = {}
        self.view = LiveView(FIGURES_S, as_json=as_json)
        self._manager = ServiceManager()
        self._begun = False
        self._ready = False

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
        if not self._ready:
            self._ready = True
            self._manager.ready()
        self._manager.alive(time.monotonic_ns())
        if not self.view.due():
            return
        if self._as_json:
            emit({"event": "figures", "streams": work.figures()})
        self.view.draw(lambda: self._table(work))

    def say_farewell(self, work: Forwarding) -> None:
        if self._as_json:
            emit({"event": "books", "streams": work.figures()})
        else:
            console.print(self._table(work))

    def _table(self, work: Forwarding) -> Table:
        rows = []
        for name, one in work.forwarders.items():
            ledger = one.ledger
            rate = self._rates.setdefault(name, Rate()).at(ledger.left, time.monotonic())
            state = one.trouble or ("ended" if one.ended else "well")
            rows.append((name, rate, ledger.left, ledger.held, ledger.lost_total, round(one.lag_ns / 1e6, 2), state))
        return table(
            f"Stored at {self._to}",
            ("stream", "packets/s", "acknowledged", "under way", "lost", "lag ms", "state"),
            rows,
        )

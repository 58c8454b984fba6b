"""`usbcast play`: a recording instead of a device; subscribers see no difference."""

from __future__ import annotations

import contextlib
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from usbcast.cli.node_options import Bind, Linger, NodeKeys, RingSize, node_flags
from usbcast.cli.node_run import attend, emit_serving
from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.options import AsJson
from usbcast.cli.output import console, emit, styled, table
from usbcast.cli.signals import overdue, stop_signals
from usbcast.cli.watchdog import WatchdogReporter
from usbcast_schemas.errors import RecordingError, UsageError

if TYPE_CHECKING:
    from usbcast.recording.player import Player
    from usbcast.recording.reader import Recording
    from usbcast_broker.node import Node


def play(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files, a directory, or the BASE of a recording.")
    ],
    stream: Annotated[list[str] | None, typer.Option("--stream", help="Only this stream; may be repeated.")] = None,
    speed: Annotated[
        float, typer.Option("--speed", min=0, max=1e6, help="1 is the original speed; 0 is as fast as possible.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again from the beginning, until stopped.")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Seconds from the beginning, or a time (ISO 8601).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Seconds from the beginning, or a time (ISO 8601).")] = None,
    step: Annotated[
        bool, typer.Option("--step", help="Play one batch for each line on standard input (Enter).")
    ] = False,
    original_times: Annotated[
        bool, typer.Option("--original-times", help="Keep the arrival times of the recording instead of today's.")
    ] = False,
    bind: Bind = None,
    keys: NodeKeys = None,
    ring_size: RingSize = None,
    linger_s: Linger = None,
    as_json: AsJson = False,
) -> None:
    """Serve what FILE... holds as if the devices were here: same packets, fields, events and gaps, at the original pace."""
    flags = node_flags(locals())
    from usbcast.recording.player import Player, PlayOptions
    from usbcast.recording.reader import open_recording
    from usbcast_broker.node import Node
    from usbcast_broker.settings import load_settings

    recording = open_recording([str(path) for path in files])
    options = PlayOptions(
        speed, loop, _moment("--from", start, recording), _moment("--to", until, recording), original_times, step
    )
    settings, _ = load_settings(None, flags)
    with nonwaiting("stdout"):
        with overdue() as alarm, stop_signals(alarm) as stopped, Node(settings) as node:
            player = Player(node, recording, options, tuple(stream or ()))
            node.start()
            if step:
                threading.Thread(target=_step_by_lines, args=(player,), name="usbcast-steps", daemon=True).start()
            _say_serving(node, as_json)
            screen = partial(_screen, node, player, recording)
            problem = attend(node, WatchdogReporter(node), stopped, screen, as_json=as_json, exhausted=player.finished)
            reason = problem or ("playing was stopped" if stopped.is_set() else "the recording is over")
            node.stop(reason, linger_s=0.1 if stopped.is_set() else settings.linger_s)
        if player.error is not None:
            raise RecordingError(f"playing has stopped: {player.error}")
        if as_json:
            emit({"event": "ended", "reason": reason, "passes": player.passes})
        else:
            console.print(reason)
    if problem:
        raise typer.Exit(1)


def _say_serving(node: Node, as_json: bool) -> None:
    streams = [line.outlet.stream for line in node.pipelines]
    if as_json:
        emit_serving(node, streams)
    else:
        console.print(styled("playing ", (", ".join(streams), "bold"), f" at {node.endpoint}  (Ctrl-C stops)"))


def _screen(node: Node, player: Player, recording: Recording) -> Table:
    at_s = max(0, player.position_ns - recording.start_ns) / 1e9
    whole_s = (recording.end_ns - recording.start_ns) / 1e9
    title = f"{at_s:,.1f} of {whole_s:,.1f} s" + (f", pass {player.passes + 1}" if player.passes else "")
    rows = [(line.outlet.stream, line.outlet.next_sequence, line.feed.counters["batches"]) for line in node.pipelines]
    return table(title, ("stream", "packets", "batches"), rows)


def _moment(option: str, text: str | None, recording: Recording) -> int | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return recording.start_ns + int(float(text) * 1e9)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} is {text!r}: write seconds, or a time like 2026-01-31T12:00:00Z") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e9)


def _step_by_lines(player: Player) -> None:
    for _ in sys.stdin:
        player.step()

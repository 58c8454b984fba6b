"""A verb's node while it runs, and the farewell when it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from usbcast.cli.health import show_stream, stream_as_plain
from usbcast.cli.live import LiveView
from usbcast.cli.output import complain, console, emit
from usbcast.cli.watchdog import WatchdogReporter

if TYPE_CHECKING:
    from usbcast_broker.node import Node

REFRESH_S = 0.25
POLL_S = 0.02
"""How often to check for the end of a source that can end."""


def emit_serving(node: Node, streams: list[str], **more: Any) -> None:
    """Say to a program where `node` serves which streams."""
    emit({"event": "serving", "endpoint": node.endpoint, "data": node.data_endpoints, "streams": streams, **more})


def attend(
    node: Node,
    watchdog: WatchdogReporter,
    stopped: threading.Event,
    draw: Callable[[], RenderableType],
    *,
    as_json: bool,
    exhausted: threading.Event | None = None,
) -> str:
    """Draw the live view and feed the watchdog until `stopped` or `exhausted` is set, or the node has a problem.

    Return the problem, which has been shown, or "".
    """
    poll_s = REFRESH_S if exhausted is None else POLL_S
    with LiveView(REFRESH_S, as_json=as_json) as view:
        view.draw(draw)
        while not (stopped.wait(poll_s) or (exhausted and exhausted.is_set()) or node.problem):
            watchdog.look()
            if view.due():
                view.draw(draw)
    problem = node.problem
    if problem:
        complain(problem)
    return problem


def say_farewell(node: Node, reason: str, *, as_json: bool) -> None:
    """Say why `node` ended, and show the ledgers of its streams."""
    if as_json:
        streams = {found.stream: stream_as_plain(found) for found in node.last_health}
        emit({"event": "ended", "reason": reason, "streams": streams})
        return
    console.print(reason)
    for found in node.last_health:
        show_stream(found)

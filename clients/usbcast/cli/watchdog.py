"""A node under a service manager: says when it is ready, how it fares, and that it lives, as long as all its threads go round."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from usbcast.cli.rates import Rate
from usbcast.service_manager import ServiceManager

if TYPE_CHECKING:
    from usbcast_broker.node import Node

log = logging.getLogger(__name__)

STATUS_S = 5.0
LEAST_STILL_S = 10.0
"""No thread that is well stands still for so long: one waits a second for news, one up to 5 s before it looks for a device."""


class WatchdogReporter:
    """Reports to the service manager's watchdog. The main thread calls `look` several times a second."""

    def __init__(self, node: Node, manager: ServiceManager | None = None) -> None:
        self._node = node
        self._manager = manager or ServiceManager()
        self._rates: dict[str, tuple[int, Rate]] = {}
        self._status_due_s = 0.0
        self._stalled = ""
        self._manager.ready()
        self.look()

    def look(self) -> None:
        """Give a sign of life, unless a part of the node has stood still for half of the watchdog's time, or 10 s."""
        manager = self._manager
        if not manager.present:
            return
        now_s = time.monotonic()
        if manager.watchdog_s:
            stalled = self._node.problem or self._node.stalled(max(manager.watchdog_s / 2, LEAST_STILL_S))
            if not stalled:
                manager.alive(time.monotonic_ns())
            elif not self._stalled:
                log.error("%s: the watchdog is not told any more that this node lives", stalled)
                manager.status(stalled)
            self._stalled = stalled
        if now_s >= self._status_due_s and not self._stalled:
            self._status_due_s = now_s + STATUS_S
            manager.status("; ".join(self._stream_status(now_s)) or "no stream yet")

    def stopping(self) -> None:
        """The streams are going to end."""
        self._manager.stopping()

    def _stream_status(self, now_s: float) -> list[str]:
        told = []
        for line in self._node.pipelines:
            name, packets = line.outlet.stream, line.outlet.next_sequence
            epoch, rate = self._rates.get(name, (line.outlet.epoch, Rate()))
            if epoch != line.outlet.epoch:
                rate = Rate()  # numbering began again
            self._rates[name] = line.outlet.epoch, rate
            told.append(line.problem or f"{name}: {rate.at(packets, now_s):,.1f} packets/s, {packets:,} in all")
        return told


__all__ = ["WatchdogReporter"]

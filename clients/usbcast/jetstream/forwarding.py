"""Forwarding several streams to a server: finds those that match, runs a forwarder for each, and says how they fare."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from usbcast.jetstream import require_nats
from usbcast.jetstream.forwarder import Forwarder, ForwardOptions
from usbcast.node.locate import endpoints
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import NodeUnreachable, UsageError, UsbcastError
from usbcast_schemas.registry import local_nodes

LOOK_S = 0.1
DISCOVER_S = 2.0


@dataclass(slots=True)
class Forwarding:
    """What is being forwarded; read by whoever shows it."""

    forwarders: dict[str, Forwarder] = field(default_factory=dict)

    def figures(self) -> dict[str, dict[str, Any]]:
        """How each stream fares, for a program."""
        return {
            name: {
                "lag_ms": round(one.lag_ns / 1e6, 2),
                "trouble": one.trouble,
                "interruptions": one.interruptions,
                "ended": one.ended,
                "ledger": one.ledger.to_json(),
            }
            for name, one in self.forwarders.items()
        }


def forward(
    patterns: tuple[str, ...],
    options: ForwardOptions,
    stopped: threading.Event,
    *,
    warn: Callable[[str], None],
    look: Callable[[Forwarding], None] = lambda _: None,
    until_end: bool = False,
) -> Forwarding:
    """Forward the streams that match `patterns` (names, `*`, `?`) until `stopped`, or until all have ended; blocks.

    `warn` hears sentences, `look` is called ten times a second. Raises UsageError, NodeUnreachable, StreamUnknown,
    ServerRefused for what fails at the beginning; afterwards it goes on, and says why nothing is stored.
    """
    forwarding = Forwarding()
    asyncio.run(_Work(patterns, options, forwarding, warn).run(stopped, look, until_end))
    return forwarding


class _Work:
    """The forwarders' tasks, in one event loop."""

    def __init__(
        self, patterns: tuple[str, ...], options: ForwardOptions, forwarding: Forwarding, warn: Callable[[str], None]
    ) -> None:
        self._patterns = patterns or ("*",)
        self._options = options
        self._forwarding = forwarding
        self._warn = warn
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, stopped: threading.Event, look: Callable[[Forwarding], None], until_end: bool) -> None:
        discover_s = 0.0
        loop = asyncio.get_running_loop()
        looking: asyncio.Future[list[str]] | None = None
        try:
            await self._find(await asyncio.to_thread(self._there, stopped))
            if not self._tasks and not self._options.wait:
                raise UsageError(
                    f"no stream is called {' or '.join(self._patterns)}: `usbcast list` shows the streams; "
                    "--wait starts anyway"
                )
            while not stopped.is_set():
                await asyncio.wait([asyncio.ensure_future(asyncio.sleep(LOOK_S)), *self._tasks.values()],
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                self._raise()
                look(self._forwarding)
                ended = [one.ended for one in self._forwarding.forwarders.values()]
                if until_end and ended and all(ended):
                    break
                if looking is None and loop.time() >= discover_s:
                    looking = asyncio.ensure_future(asyncio.to_thread(self._there_now, stopped))
                elif looking is not None and looking.done():
                    await self._find(looking.result())
                    looking, discover_s = None, loop.time() + DISCOVER_S
            for one in self._forwarding.forwarders.values():
                one.stop()
            await asyncio.gather(*self._tasks.values())
        finally:
            for name, task in self._tasks.items():
                self._forwarding.forwarders[name].stop()
                while not task.done():  # the library may take a cancellation for its own
                    task.cancel()
                    await asyncio.wait({task}, timeout=LOOK_S)
        look(self._forwarding)

    def _there_now(self, stopped: threading.Event) -> list[str]:
        """The streams that there are by now; none of a node that does not answer, which may do so the next time."""
        if self._options.upstream is None:
            return [name for node in local_nodes() for name in node.streams]
        with contextlib.suppress(UsbcastError):
            return self._there(stopped)
        return []

    def _there(self, stopped: threading.Event) -> list[str]:
        """The streams of the nodes that are to be forwarded from. Raises NodeUnreachable."""
        named = [name for name in self._patterns if not _is_pattern(name)]
        if len(named) == len(self._patterns):
            return named
        found = list(named)
        for address in endpoints(self._options.upstream):
            try:
                with NodeClient(address, keys=self._options.keys, stopping=stopped) as node:
                    found += [info.stream for info in node.describe()]
            except NodeUnreachable:
                if self._options.upstream is not None and not self._options.wait:
                    raise
        return found

    async def _find(self, names: list[str]) -> None:
        for name in names:
            if name not in self._tasks and any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns):
                one = Forwarder(name, self._options, self._warn)
                self._forwarding.forwarders[name] = one
                self._tasks[name] = asyncio.ensure_future(one.run())

    def _raise(self) -> None:
        for task in self._tasks.values():
            if task.done():
                task.result()


def _is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")


__all__ = ["ForwardOptions", "Forwarding", "forward", "require_nats"]

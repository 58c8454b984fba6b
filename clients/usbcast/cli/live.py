"""The live view of a verb that runs for a while: a table that is redrawn in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import RenderableType
from rich.live import Live

from usbcast.cli.output import console


class LiveView:
    """A table that is redrawn in place. Draws nothing with `--json` or without a terminal."""

    def __init__(self, period_s: float = 0.0, *, as_json: bool) -> None:
        self.drawn = console.is_terminal and not as_json
        self._live = Live(console=console, auto_refresh=False)
        self._period_s = period_s
        self._due_s = 0.0

    def __enter__(self) -> Self:
        if self.drawn:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.drawn:
            self._live.stop()

    def due(self) -> bool:
        """Return True at the first call, and then once in each period."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._period_s
        return True

    def draw(self, make: Callable[[], RenderableType]) -> None:
        """Draw what `make` returns; where nothing is drawn, it is not called."""
        if self.drawn:
            self._live.update(make(), refresh=True)

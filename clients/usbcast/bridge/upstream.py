"""The upstream of one bridged stream: where it comes from, and how it is carried on."""

from __future__ import annotations

from dataclasses import dataclass

from usbcast.bridge.carrier import Carrier, Level, Whole
from usbcast.bridge.choice import EVERYTHING, LEFT_OUT, Choice
from usbcast.bridge.decimation import EveryNth
from usbcast.node.credentials import Keys


@dataclass(frozen=True, slots=True)
class Upstream:
    """One stream of another node, its name here, and the part of it that the bridge carries."""

    endpoint: str
    stream: str
    """Name at the upstream."""
    local: str
    """Name at the bridge."""
    start: str
    via: str
    commands: bool
    keys: Keys
    choice: Choice = EVERYTHING

    def carrier(self, upstream_epoch: int, level: Level | None = None) -> Carrier:
        """Return a carrier for this epoch of the upstream; `level` is where the bridge has announced the stream to begin."""
        if self.choice.every > 1:
            return EveryNth(upstream_epoch, self.choice.every, self.choice.reason)
        if self.choice.asks:
            return Whole(upstream_epoch, level, self.choice.reason)
        if self.start == "now":
            return Whole(upstream_epoch, level, f"{LEFT_OUT}: from before the bridge began")
        return Whole(upstream_epoch, level, "gone before the bridge had it", on_purpose=False)

"""Restarts of a bridged stream, without sockets or clock: which epoch of the upstream is carried, and when the next one begins.

A batch of a new epoch begins it at once. A restart that arrives before any batch waits for the description of the new epoch,
so that the bridge announces the epoch with its own description; but not for ever, as the description may never come.
"""

from __future__ import annotations

import logging

from usbcast.bridge.carrier import Carrier, Level
from usbcast.bridge.upstream import Upstream
from usbcast.events import Restart
from usbcast_broker.stream.outlet import Description
from usbcast_broker.stream.relay import EpochChange
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

DESCRIBED_S = 3.0
"""How long a new epoch waits for its description, before it begins with the previous one."""


class EpochTracker:
    """The carried epoch of one stream. Times in seconds of any steady clock are handed in."""

    def __init__(self, upstream: Upstream, info: pb.StreamInfo) -> None:
        self._upstream = upstream
        self.info = info
        """The last description."""
        self.epoch = info.epoch
        """The epoch of the upstream that is carried."""
        self.carrier: Carrier = upstream.carrier(info.epoch, Level(info.next_sequence, info.next_number))
        self._waiting: tuple[Restart, float] | None = None
        """A restart that waits for its description, and until when."""

    @property
    def is_waiting(self) -> bool:
        """True while a restart waits: nothing may be received before `begin_waiting` has begun its epoch."""
        return self._waiting is not None

    def wait_for_description(self, restart: Restart, now_s: float) -> None:
        """Note a restart; `begin_waiting` begins its epoch."""
        self._waiting = restart, now_s + DESCRIBED_S

    def begin_waiting(self, described_epoch: int | None, now_s: float) -> EpochChange | None:
        """Begin the epoch that waits, if it is described or has waited for too long; else return None."""
        assert self._waiting is not None
        restart, until_s = self._waiting
        if described_epoch != restart.new_epoch and now_s < until_s:
            return None
        self._waiting = None
        return self.begin(restart.new_epoch)

    def begin(self, epoch: int) -> EpochChange:
        """Carry `epoch` from now on; return the change to publish before its first batch."""
        log.info("stream %s: %s has begun epoch %016x", self._upstream.local, self._upstream.endpoint, epoch)
        self.epoch = epoch
        self.carrier = self._upstream.carrier(epoch)
        return EpochChange(self.carrier.epoch, describe(self._upstream.local, self.info))


def describe(local: str, info: pb.StreamInfo) -> Description:
    """Return the description of an upstream's stream, under its name at the bridge."""
    return Description(
        local, info.profile_name, info.profile_toml, tuple(info.fields), info.packet_size, info.nominal_rate_hz
    )

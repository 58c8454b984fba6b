"""Whose clocks the times of a stream are of: this host's, unless the feed brings what another host has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from usbcast_schemas.places import host_id


@dataclass(frozen=True, slots=True)
class ReadingHost:
    """The host that reads the device, and how far its realtime clock is ahead of this host's; None while unknown."""

    host_id: str
    ahead_ns: int | None
    uncertainty_ns: int = 0


@runtime_checkable
class ReadElsewhere(Protocol):
    """The additional part of a feed whose device another host reads, such as that of a bridge."""

    def reading_host(self) -> ReadingHost:
        """The reading host as known now. For any thread."""


def reading_host_of(feed: object) -> ReadingHost:
    return feed.reading_host() if isinstance(feed, ReadElsewhere) else ReadingHost(host_id(), 0)

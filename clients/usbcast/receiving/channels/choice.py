"""Choice of the channel by which a stream is received, and where in a ring to begin."""

from __future__ import annotations

import logging

from usbcast.node.credentials import Credentials
from usbcast.receiving.channels import Channel
from usbcast.receiving.channels.published import PublishedChannel
from usbcast.receiving.channels.ring import RingChannel
from usbcast.receiving.continuity import Continuity
from usbcast.receiving.subscribe_options import SubscribeOptions
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.errors import RingUnavailable
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)


def connect(
    options: SubscribeOptions,
    info: pb.StreamInfo,
    core: Continuity,
    waiter: Waiter,
    *,
    reached_by: str,
    keys: Credentials | None,
    heard_ns: int | None,
) -> Channel:
    """Connect by the channel that the options name. The one before it, if any, heard something last at `heard_ns`.

    Raises RingUnavailable if only the ring will do, WireError for an address of no use.
    """
    if options.via in ("auto", "ring"):
        try:
            channel = RingChannel(info, waiter, latest=options.latest, copy=options.copy)
        except RingUnavailable as error:
            if options.via == "ring":
                raise
            log.info("stream %s: no ring (%s), so batches are pushed", options.stream, error)
        else:
            _begin(channel, options, info, core)
            return channel
    via = "push" if options.via == "auto" else options.via
    return PublishedChannel(info, reached_by, via, waiter, keys, latest=options.latest, heard_ns=heard_ns)


def _begin(channel: RingChannel, options: SubscribeOptions, info: pb.StreamInfo, core: Continuity) -> None:
    """Begin in the ring where `core` stands, or where the options say; a ring needs no first message for that."""
    start = options.start
    if core.epoch is not None:
        channel.begin_at(core.next_sequence)
    elif isinstance(start, int):
        # A stream that ended before it reached the start still has its End to deliver.
        channel.begin_at(min(start, info.next_sequence) if info.ended else start)
        core.start(info.epoch, start)
    elif options.latest:
        channel.begin_newest()
        core.start(info.epoch, None)
    elif start == "now":
        core.start(info.epoch, *channel.begin_now())
    else:
        channel.begin_oldest()
        core.start(info.epoch, None, joined_at=info.next_sequence)


__all__ = ["connect"]

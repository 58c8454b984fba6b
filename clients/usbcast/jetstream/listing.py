"""List the streams that a server stores: for `usbcast list`, `info`, and patterns of names."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from nats.errors import Error

from usbcast.jetstream import require_nats
from usbcast.jetstream.connection import Servers
from usbcast.jetstream.names import Names
from usbcast.jetstream.seek import seek
from usbcast.jetstream.store import Store
from usbcast.node.endpoints import parse
from usbcast_schemas.errors import NodeUnreachable, PeerError, StreamUnknown
from usbcast_schemas.v1 import usbcast_pb2 as pb


@dataclass(frozen=True, slots=True)
class Stored:
    """A stream stored on a server."""

    info: pb.StreamInfo
    """The node's description, with the position up to which the server has stored."""
    server: str
    store: str
    messages: int
    size_bytes: int
    replicas: int
    keep_s: float
    """0: without a limit of age."""


def stored(endpoint: str, stream: str = "") -> list[Stored]:
    """Return all streams at `endpoint`, or only `stream`; blocks. Raises RemoteError, UsageError."""
    require_nats()
    return asyncio.run(_ask(endpoint, stream))


async def _ask(endpoint: str, stream: str) -> list[Stored]:
    address = parse(endpoint)
    found = []
    try:
        async with Servers(address).connection() as connection:
            names = [stream] if stream else await Store(connection, Names(address.prefix, "")).streams()
            for name in names:
                try:
                    found.append(await _one(Store(connection, Names(address.prefix, name))))
                except StreamUnknown:
                    if stream:
                        raise
    except (Error, OSError) as error:
        raise NodeUnreachable(f"the request to the server at {address} failed: {error}") from None
    return found


async def _one(store: Store) -> Stored:
    standing = await store.standing()
    names = store.names
    state = await store.connection.ask(store.connection.js.stream_info(names.store), f"the state of {names.store}")
    at = standing.position
    info = None
    if at is not None:
        with contextlib.suppress(PeerError):  # anybody may have published it; the rest is known without
            info = await store.description(at.epoch)
    info = info or pb.StreamInfo(stream=names.stream)
    info.ClearField("ring")
    info.ClearField("ring_bytes")
    del info.data_endpoints[:]
    if at is not None:
        first = await store.after(await seek(store, standing, 0))
        info.epoch, info.next_sequence = at.epoch, at.next_sequence
        info.oldest_sequence = first.begins if first else at.next_sequence
        info.ended = standing.ended
        if standing.ended:
            info.attached = False
    config = state.config
    return Stored(
        info,
        store.connection.server,
        names.store,
        state.state.messages,
        state.state.bytes,
        config.num_replicas or 1,
        config.max_age or 0.0,
    )

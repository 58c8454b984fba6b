"""The multipart messages on the sockets: how they are framed, and the exact checks of a receiver.

Every `decode_*` returns, or raises WireError or VersionMismatch, and never anything else: h11's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError

from usbcast_schemas.batch import Buffer, EncodedBatch, decode_batch
from usbcast_schemas.contract import check_contract
from usbcast_schemas.errors import WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_REQUEST_BYTES = 2 * 1024 * 1024
"""A node takes no larger request. It says so up to twice that; from a peer that sends even more it disconnects."""

MAX_DATA_BYTES = 64 * 1024 * 1024
"""A client's sockets take no larger message."""

_M = TypeVar("_M", pb.Notification, pb.Request, pb.Reply)


def decode_published(frames: Sequence[Buffer]) -> tuple[bytes, Buffer]:
    """Split what a SUB socket received into topic and body: exactly two frames."""
    if len(frames) != 2:
        raise WireError(f"a published message has {len(frames)} frames, not the 2 of topic and body")
    return bytes(frames[0]), frames[1]


def decode_notification(body: Buffer) -> pb.Notification:
    return _decode(pb.Notification, body, "a notification")


def decode_request(frames: Sequence[Buffer]) -> pb.Request:
    """Read what a ROUTER socket received behind the peer's identity: exactly one frame."""
    if len(frames) != 1:
        raise WireError(f"a request has {len(frames)} frames, not 1: use a DEALER socket, without an empty delimiter")
    if len(frames[0]) > MAX_REQUEST_BYTES:
        raise WireError(f"a request has {len(frames[0])} bytes: at most {MAX_REQUEST_BYTES} are allowed")
    request = _decode(pb.Request, frames[0], "a request")
    if request.WhichOneof("body") is None:
        raise WireError(f"request {request.request_id} asks for nothing that this version of the contract knows")
    return request


def decode_reply(frames: Sequence[Buffer]) -> tuple[pb.Reply, list[EncodedBatch]]:
    """Read what a DEALER socket received: the reply, and for a fetch as many batches as it announces."""
    if not frames:
        raise WireError("a reply has no frame")
    reply = _decode(pb.Reply, frames[0], "a reply")
    announced = reply.fetched.batch_count if reply.WhichOneof("body") == "fetched" else 0
    if len(frames) - 1 != announced:
        raise WireError(f"a reply announces {announced} batches and carries {len(frames) - 1}")
    batches = [decode_batch(frame) for frame in frames[1:]]
    if any(batch.epoch != reply.fetched.epoch for batch in batches):
        raise WireError(f"a reply of epoch {reply.fetched.epoch:016x} carries batches of another epoch")
    return reply, batches


def _decode(kind: type[_M], body: Buffer, what: str) -> _M:
    try:
        message: _M = kind.FromString(bytes(body))
    except DecodeError as error:
        raise WireError(f"{len(body)} bytes are not {what}: the protobuf library says {error}") from None
    if not message.HasField("contract"):
        raise WireError(f"{what} of {len(body)} bytes bears no contract version")
    check_contract(message.contract, what)
    return message


__all__ = [
    "MAX_DATA_BYTES",
    "MAX_REQUEST_BYTES",
    "decode_notification",
    "decode_published",
    "decode_reply",
    "decode_request",
]

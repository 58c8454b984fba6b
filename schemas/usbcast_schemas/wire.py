"""The multipart messages on the sockets: how they are framed, and the exact checks of a receiver.

Every `decode_*` returns, or raises WireError or VersionMismatch, and never anything else: h11's rule.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from usbcast_schemas.batch import Buffer, EncodedBatch, decode_batch
from usbcast_schemas.contract import check_contract
from usbcast_schemas.errors import PeerError, WireError
from usbcast_schemas.parsing import MAX_FIELDS, parse
from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_REQUEST_BYTES = 2 * 1024 * 1024
"""A node takes no larger request. It says so up to twice that; from a peer that sends even more it disconnects."""

MAX_DATA_BYTES = 64 * 1024 * 1024
"""A client's sockets take no larger message."""

MAX_REQUEST_FIELDS = 16_384
"""A request has no more fields, at all its levels together."""

MAX_NOTIFICATION_BYTES = 4096
"""A notification is some 80 bytes; it may grow."""

_M = TypeVar("_M", pb.Gap, pb.Notification, pb.Request, pb.Reply, pb.StreamInfo)


def decode_published(frames: Sequence[Buffer]) -> tuple[bytes, Buffer]:
    """Split what a SUB socket received into topic and body: exactly two frames."""
    if len(frames) != 2:
        raise WireError(f"a published message has {len(frames)} frames, not the 2 of topic and body")
    return bytes(frames[0]), frames[1]


def decode_notification(body: Buffer) -> pb.Notification:
    if len(body) > MAX_NOTIFICATION_BYTES:
        raise WireError(f"a notification has {len(body)} bytes: at most {MAX_NOTIFICATION_BYTES} are allowed")
    news = decode_message(pb.Notification, body, "a notification")
    check_level(news)
    return news


def decode_request(frames: Sequence[Buffer]) -> pb.Request:
    """Read what a ROUTER socket received behind the peer's identity: exactly one frame."""
    if len(frames) != 1:
        raise WireError(f"a request has {len(frames)} frames, not 1: use a DEALER socket, without an empty delimiter")
    if len(frames[0]) > MAX_REQUEST_BYTES:
        raise WireError(f"a request has {len(frames[0])} bytes: at most {MAX_REQUEST_BYTES} are allowed")
    request = decode_message(pb.Request, frames[0], "a request", MAX_REQUEST_FIELDS)
    if request.WhichOneof("body") is None:
        raise WireError(f"request {request.request_id} asks for nothing that this version of the contract knows")
    return request


class ReceivedReply(NamedTuple):
    """A reply, the batches that came with it, and why each of the others could not be read."""

    reply: pb.Reply
    batches: list[EncodedBatch]
    unreadable: list[PeerError]


def decode_reply(frames: Sequence[Buffer]) -> ReceivedReply:
    """Read what a DEALER socket received: the reply, and for a fetch as many batches as it announces.

    A batch that is malformed is stepped over, as on a SUB socket: the others are as good without it.
    """
    if not frames:
        raise WireError("a reply has no frame")
    received = ReceivedReply(decode_message(pb.Reply, frames[0], "a reply"), [], [])
    reply = received.reply
    announced = reply.fetched.batch_count if reply.WhichOneof("body") == "fetched" else 0
    if len(frames) - 1 != announced:
        raise WireError(f"a reply announces {announced} batches and carries {len(frames) - 1}")
    for info in reply.described.streams:
        check_level(info)
    for frame in frames[1:]:
        try:
            batch = decode_batch(frame)
            if batch.epoch != reply.fetched.epoch:
                raise WireError(f"a reply of epoch {reply.fetched.epoch:016x} carries batches of another epoch")
            received.batches.append(batch)
        except PeerError as error:
            received.unreadable.append(error)
    return received


def check_level(level: pb.Notification | pb.StreamInfo) -> None:
    """Raise WireError if a stream cannot stand as it says: its end is a batch, so one that has ended has a number."""
    if level.ended and not level.next_number:
        raise WireError("a stream is reported as ended, and has no batch that could carry its end")


def decode_message(kind: type[_M], body: Buffer, what: str, most_fields: int = MAX_FIELDS) -> _M:
    """Read a top-level message other than a batch, and check its version."""
    message = parse(kind, body, what, most_fields)
    if not message.HasField("contract"):
        raise WireError(f"{what} of {len(body)} bytes has no contract version")
    check_contract(message.contract, what)
    return message


__all__ = [
    "MAX_DATA_BYTES",
    "MAX_REQUEST_BYTES",
    "ReceivedReply",
    "check_level",
    "decode_message",
    "decode_notification",
    "decode_published",
    "decode_reply",
    "decode_request",
]

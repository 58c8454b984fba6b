"""The contract's version and names: what two processes must agree on before the first byte.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import re

from usbcast_schemas.errors import UsageError, VersionMismatch

MAJOR = 1
MINOR = 0
CONTRACT = MAJOR << 16 | MINOR

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
"""Default address for requests; a client learns everything else from the answer to describe."""

HEARTBEAT_S = 1.0
"""A notification is repeated this often, news or not."""

SILENCE_S = 3.0
"""No message and no heartbeat for so long: the node is gone or hung."""

NOTIFICATION_INTERVAL_NS = 1_000_000
"""Least time between two notifications; the first is sent at once, and the last is always sent."""

TAIL_NS = 50_000_000
"""A burst ends when nothing has been published for this long; push subscribers then get the end-of-burst notification."""

_STREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def is_stream_name(name: str) -> bool:
    return _STREAM_NAME.fullmatch(name) is not None


def check_stream_name(name: str) -> str:
    """Return `name`; raise UsageError if it is not a valid stream name."""
    if not is_stream_name(name):
        raise UsageError(
            f"{name!r} is not a stream name: use 1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or digit"
        )
    return name


def check_contract(contract: int, what: str) -> None:
    """Raise VersionMismatch unless `contract` has this side's major version."""
    if contract >> 16 != MAJOR:
        raise VersionMismatch(
            f"{what} is of contract version {contract >> 16}.{contract & 0xFFFF} and this side speaks {MAJOR}.{MINOR}: "
            "install the same major version of usbcast on both sides"
        )


def data_topic(stream: str) -> bytes:
    """Topic of the batches. It ends in a delimiter: a ZeroMQ subscription is a prefix, and `data/imu` would match imu2."""
    return b"data/" + stream.encode() + b"/"


def notify_topic(stream: str) -> bytes:
    """Topic of the notifications."""
    return b"notify/" + stream.encode() + b"/"


def tail_topic(stream: str) -> bytes:
    """Topic of the notifications of a stream that has come to rest."""
    return b"tail/" + stream.encode() + b"/"

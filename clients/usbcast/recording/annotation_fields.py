"""Required and optional fields of annotations, by kind: checked once, where they are read, so that no later code has to.

Unknown kinds and unknown fields are those of later versions, and pass.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from usbcast.recording.contents import Contents
from usbcast_schemas.contract import is_stream_name

MAX_ANNOTATION_BYTES = 4 * 1024 * 1024

Check = Callable[[Any], bool]

_EPOCH = re.compile(r"[0-9a-f]{16}")


def is_epoch(value: Any) -> bool:
    return isinstance(value, str) and _EPOCH.fullmatch(value) is not None


def is_whole(value: Any) -> bool:
    return type(value) is int


def is_count(value: Any) -> bool:
    """Return True for a sequence, or a number of packets or batches."""
    return type(value) is int and 0 <= value < 2**64


def is_time(value: Any) -> bool:
    """Return True for nanoseconds, including differences and times before 1970."""
    return type(value) is int and -(2**63) <= value < 2**63


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_drift(value: Any) -> bool:
    """Return True for a drift in parts per million; a clock that stands still or runs backwards has none."""
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e6


def is_position(value: Any) -> bool:
    """Return True for the position of a stream at the end of a segment; a stream without packets has no position."""
    return isinstance(value, dict) and ("epoch" not in value or _fits(value, _POSITION, {}))


_POSITION: dict[str, Check] = {"epoch": is_epoch, "next_sequence": is_count, "next_number": is_count}
_CLOCK: dict[str, Check] = {
    "realtime_ns": is_time,
    "node_ahead_ns": is_time,
    "uncertainty_ns": is_count,
    "drift_ppm": is_drift,
    "drift_uncertainty_ppm": is_drift,
}
_REASON: dict[str, Check] = {"reason": is_text}

_REQUIRED: dict[str, dict[str, Check]] = {
    "begin": {},
    "close": {"streams": lambda streams: isinstance(streams, dict) and all(map(is_position, streams.values()))},
    "clock": {},
    "damaged": _REASON,
    "disk": _REASON | {"since_ns": is_time},
    "dropped": _REASON | {"before": is_count},
    "gap": _REASON | {"epoch": is_epoch, "first": is_count, "last": is_whole, "count": is_count, "stage": is_text},
    "rate": _REASON,
    "recovered": _REASON,
    "refused": _REASON,
    "restart": {"epoch": is_epoch, "old_epoch": is_epoch, "delivered_until": is_count, "known_until": is_count},
    "silence": {"duration_ns": is_count},
    "stalled": _REASON,
    "unknown": _REASON | {"epoch": is_epoch, "first": is_count},
}
_OPTIONAL: dict[str, dict[str, Check]] = {
    "close": {"reason": is_text, "final": is_flag},
    "gap": {"on_purpose": is_flag},
    "silence": {"upstream": is_flag},
}
_TOGETHER: dict[str, tuple[str, dict[str, Check]]] = {
    "begin": ("epoch", _POSITION),
    "clock": ("node_ahead_ns", _CLOCK),
}
"""If the first field is present, the others are required as well."""


def read_annotation(data: bytes) -> tuple[str, int, str, dict[str, Any]]:
    """Return kind, time, stream and fields of an annotation. Raises ValueError for anything else."""
    if len(data) > MAX_ANNOTATION_BYTES:
        raise ValueError(f"it has {len(data):,} bytes: at most {MAX_ANNOTATION_BYTES:,} are allowed")
    try:
        fields = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    kind, time_ns, stream = fields.pop("kind", None), fields.pop("time_ns", None), fields.pop("stream", "")
    if not (is_text(kind) and is_count(time_ns) and is_text(stream) and (not stream or is_stream_name(stream))):
        raise ValueError("kind, time_ns or stream is missing or invalid")
    json.dumps(fields, ensure_ascii=False).encode()  # refuses lone surrogates, which cannot be printed or written
    _check(kind, fields)
    return kind, time_ns, stream, fields


def _check(kind: str, fields: dict[str, Any]) -> None:
    required = dict(_REQUIRED.get(kind, {}))
    key, others = _TOGETHER.get(kind, ("", {}))
    if key in fields:
        required |= others
    if not _fits(fields, required, _OPTIONAL.get(kind, {})):
        raise ValueError(f"a field of this {kind} annotation is missing or invalid")
    if kind == "gap" and not (fields["last"] == fields["first"] + fields["count"] - 1 and fields["last"] < 2**64 - 1):
        raise ValueError(f"a gap of {fields['count']} packets cannot go from {fields['first']} to {fields['last']}")
    if kind == "contents":
        Contents.from_fields(fields)


def _fits(fields: dict[str, Any], required: dict[str, Check], optional: dict[str, Check]) -> bool:
    return all(name in fields and check(fields[name]) for name, check in required.items()) and all(
        name not in fields or check(fields[name]) for name, check in optional.items()
    )


__all__ = ["MAX_ANNOTATION_BYTES", "read_annotation"]

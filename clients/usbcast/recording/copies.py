"""The second copy of what is needed to read a file: its head, its channels, and the descriptions of its streams.

The first chunk holds them, and an MCAP attachment behind it, with a checksum of its own, repeats them: damage to one leaves
the other.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from typing import Final

from usbcast.recording.entries import Channel, decode_info
from usbcast_schemas.errors import WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb

NAME: Final = "usbcast.copies"
"""Name of the attachment."""

MEDIA_TYPE: Final = "application/json"
MAX_BYTES: Final = 16 * 1024 * 1024
"""An attachment that claims to be larger is not read."""

_CRC_BYTES: Final = 4


@dataclass(slots=True)
class Copies:
    """Writing: what is new since the last attachment. Reading: the content of all attachments."""

    head: dict[str, str] = field(default_factory=dict)
    """As in the metadata record at the beginning of the file."""
    channels: dict[int, Channel] = field(default_factory=dict)
    descriptions: list[pb.StreamInfo] = field(default_factory=list)

    def encode(self) -> bytes:
        return json.dumps(
            {
                "head": self.head,
                "channels": {
                    number: [c.topic, c.encoding, c.schema, dict(c.metadata)] for number, c in self.channels.items()
                },
                "descriptions": [base64.b64encode(info.SerializeToString()).decode() for info in self.descriptions],
            },
            separators=(",", ":"),
        ).encode()

    def add(self, data: bytes) -> None:
        """Add the content of an attachment. Raises WireError for anything else."""
        try:
            said = json.loads(data)
            channels = {
                int(number): Channel(str(topic), str(encoding), str(schema), _texts(metadata))
                for number, (topic, encoding, schema, metadata) in said["channels"].items()
            }
            descriptions = [decode_info(base64.b64decode(text)) for text in said["descriptions"]]
            head = dict(_texts(said["head"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, WireError):
            raise WireError(f"{data[:80]!r} is not a valid copy of channels and descriptions") from None
        self.head |= head
        self.channels |= channels
        self.descriptions += descriptions

    def info(self, stream: str, epoch: int | None = None) -> pb.StreamInfo | None:
        """Return the last description of `stream`, in `epoch` if given; None if there is no copy."""
        fitting = [i for i in self.descriptions if i.stream == stream and epoch in (None, i.epoch)]
        return fitting[-1] if fitting else None


def _texts(mapping: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), str(value)) for key, value in mapping.items())


def is_sound(record: bytes) -> bool:
    """Return True if the checksum at the end of an attachment's record is right."""
    body, crc = record[:-_CRC_BYTES], record[-_CRC_BYTES:]
    return len(crc) == _CRC_BYTES and zlib.crc32(body) == int.from_bytes(crc, "little")

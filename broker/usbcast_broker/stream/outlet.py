"""The outlet of one stream: what is published, and what is said of it. Ring, notifications, description."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.stream.batcher import device_info
from usbcast_broker.stream.coalescing import CLOSE_NS, Coalescer
from usbcast_broker.stream.notification_schedule import NotificationPacer, TailPacer
from usbcast_schemas.batch import Encoded
from usbcast_schemas.contract import CONTRACT, check_stream_name, data_topic, notify_topic, tail_topic
from usbcast_schemas.engine.protocols import Plan, Send
from usbcast_schemas.ring import DEFAULT_DATA_BYTES, DEFAULT_SLOTS, RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a stream: everything that does not change while it runs."""

    stream: str
    profile_name: str = ""
    profile_toml: str = ""
    fields: Sequence[pb.Field] = ()
    packet_size: int = 0
    nominal_rate_hz: float = 0.0


@dataclass(slots=True)
class Source:
    """Source of a stream that another node serves, and whether that node is heard."""

    endpoint: str
    silent_since_ns: int | None = None
    """Monotonic time since which it has been silent; None while it is heard."""


class Outlet:
    """Written to by the publisher's thread alone; described to any thread."""

    def __init__(
        self,
        description: Description,
        ring_directory: Path,
        *,
        ring_bytes: int = DEFAULT_DATA_BYTES,
        ring_slots: int = DEFAULT_SLOTS,
        epoch: int | None = None,
        source: Source | None = None,
        level: tuple[int, int] = (0, 0),
    ) -> None:
        self.description = description
        self.stream = check_stream_name(description.stream)
        self.epoch = secrets.randbits(64) if epoch is None else epoch
        self.data_topic = data_topic(self.stream)
        self.notify_topic = notify_topic(self.stream)
        self.tail_topic = tail_topic(self.stream)
        self.pacer = NotificationPacer()
        self.tail = TailPacer()
        self.coalescer = Coalescer()
        self.ended = False
        self.source = source
        self.ring = RingWriter(
            ring_directory,
            self.stream,
            self.epoch,
            data_bytes=ring_bytes,
            slots=ring_slots,
            copy=epoch is not None,
            level=level,
        )
        self.writer = self.ring.stream_writer
        self.bypass: Plan | None = None
        """How transfers may become batches without framing, as the last turn of a pipeline left it; None if they may not."""

    @property
    def next_sequence(self) -> int:
        """Sequence of the packet that is published next."""
        return self.writer.next_sequence

    @property
    def next_number(self) -> int:
        """Number of the batch that is published next."""
        return self.writer.next_number

    def store(self, batch: Encoded) -> None:
        """Put `batch` into the ring and wake the readers that sleep."""
        self.writer.append(batch)
        self.pacer.mark_new()
        self.tail.mark_new(time.monotonic_ns())

    def open_fast_path(self, bell_at_ns: int, send: Send | None) -> None:
        """Let the feed's thread write transfers into the ring, and send them, if they may bypass framing.

        From `bell_at_ns` on it rings the doorbell for them nevertheless; and for all of them if it cannot send them itself.
        """
        plan = self.bypass
        if plan is not None:
            self.writer.open(
                Plan(plan.packet_size, plan.max_payload_bytes, self.coalescer.next_ns, CLOSE_NS, bell_at_ns, send)
            )

    @property
    def oldest_sequence(self) -> int:
        try:
            oldest = self.ring.oldest
        except ValueError:  # its epoch is just over, and the ring was closed while we looked
            oldest = None
        return self.next_sequence if oldest is None else oldest.first_sequence

    def source_silent_ns(self, monotonic_ns: int) -> int:
        """Return for how long the stream's source has been silent; 0 while it is heard."""
        if self.source is None or self.source.silent_since_ns is None:
            return 0
        return max(1, monotonic_ns - self.source.silent_since_ns)

    def notification(self, realtime_ns: int, monotonic_ns: int) -> bytes:
        return pb.Notification(
            contract=CONTRACT,
            epoch=self.epoch,
            oldest_sequence=self.oldest_sequence,
            next_sequence=self.next_sequence,
            next_number=self.next_number,
            sent_realtime_ns=realtime_ns,
            sent_monotonic_ns=monotonic_ns,
            ended=self.ended,
            source_silent_ns=self.source_silent_ns(monotonic_ns) or None,
        ).SerializeToString()

    def describe(self, device: DeviceIdentity | None) -> pb.StreamInfo:
        """All that the outlet knows; the node adds its endpoints and itself."""
        what = self.description
        return pb.StreamInfo(
            contract=CONTRACT,
            stream=self.stream,
            epoch=self.epoch,
            device=device_info(device) if device else None,
            profile_name=what.profile_name,
            profile_toml=what.profile_toml,
            fields=what.fields,
            packet_size=what.packet_size,
            nominal_rate_hz=what.nominal_rate_hz,
            ring=pb.Ring(path=str(self.ring.path), wake_path=str(self.ring.wake_path), nonce=self.ring.nonce),
            ring_bytes=self.ring.data_bytes,
            oldest_sequence=self.oldest_sequence,
            next_sequence=self.next_sequence,
            next_number=self.next_number,
            ended=self.ended,
            source=self.source.endpoint if self.source else None,
            has_tail=True,
        )

    def close(self) -> None:
        self.ring.close()

"""One stream of a recording: turns the records of its receiver into entries, and keeps its position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from usbcast.events import Gap, Restart, Silence
from usbcast.node.credentials import Keys
from usbcast.receiving.continuity import Delivery, Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.open import Receiver, receive
from usbcast.receiving.resume_point import position_behind
from usbcast.receiving.resuming import RETRIED, ResumingReceiver
from usbcast.recording.entries import (
    STAGE,
    Entry,
    annotation_entry,
    batch_entry,
    begin_annotation,
    clock_annotation,
    gap_annotation,
    hex_epoch,
    info_entry,
    restart_annotation,
    silence_annotation,
)
from usbcast.recording.policy import RateWatch
from usbcast_schemas.errors import AccessRefused, KeysError
from usbcast_schemas.v1 import usbcast_pb2 as pb

NOT_WANTED = "outside of a trigger's time"
_SECOND_NS = 1_000_000_000
_EXCUSED_NS = 2_000_000_000
"""How long after its cause a gap may be noticed: by the next batch, or by the answer to a fetch."""


class StreamRecorder:
    """Used by one thread. `next_record` returns records, `entries` turns them into what is written."""

    def __init__(
        self,
        stream: str,
        endpoint: str | None,
        start: str | Position,
        via: str,
        keys: Keys = None,
        *,
        patient: bool = False,
    ) -> None:
        self.stream = stream
        self.position: Position | None = start if isinstance(start, Position) else None
        """Position behind what was written."""
        self.durable = self.position
        """`position` as of the last sync."""
        self.info: pb.StreamInfo | None = None
        self.packets = self.lost = self.batches = 0
        self.ended = False
        self.refused = ""
        """Why the node refuses this recorder; empty while it does not. After a refusal nothing more arrives."""
        self._excuse = ""
        """Why the ring may have overtaken the recorder; the reason of gaps until it has caught up."""
        self._excused_until_ns = 0
        self.rate_watch = RateWatch()
        self.lag_ns = 0
        self.resuming = ResumingReceiver(
            lambda at: receive(stream, endpoint, at, "all", via, keys), start, RETRIED if patient else ()
        )
        self._asked_ns = 0
        self._skipped: tuple[int, int, int] | None = None
        """Epoch, first and next sequence of packets outside of a trigger's time, not yet declared."""

    @property
    def receiver(self) -> Receiver:
        return self.resuming.receiver

    def be_patient(self) -> None:
        """Keep asking a node that does not have the stream, from now on, instead of giving up."""
        self.resuming.retried = RETRIED

    def pump(self) -> None:
        """Pump the receiver. Raises StreamUnknown, unless patient."""
        if self.refused:
            return
        try:
            self.resuming.pump()
        except (AccessRefused, KeysError) as error:
            self.refused = str(error)

    def next_record(self) -> Record | None:
        return self.resuming.take_record()

    def excuse_for(self, reason: str, now_ns: int) -> None:
        """Give the reason for what the ring loses while the recorder does not read, until it has caught up."""
        self._excuse = reason
        self._excused_until_ns = now_ns + _EXCUSED_NS

    def caught_up(self, now_ns: int) -> None:
        """Note that no record is left for now."""
        if now_ns >= self._excused_until_ns:
            self._excuse = ""

    def described(self, realtime_ns: int) -> list[Entry]:
        """Return an entry with the description of the stream, if there is a new one."""
        info = self.receiver.info
        if info is None or (
            self.info is not None and self.info.epoch == info.epoch and self.info.device == info.device
        ):
            return []
        self.info = info
        return [info_entry(info, realtime_ns)]

    def entries(self, record: Record, realtime_ns: int) -> list[Entry]:
        """Return what to write for `record`."""
        made = self._declare_skipped(realtime_ns)
        match record:
            case Delivery():
                batch = record.batch
                made += [self._gap(gap, batch.epoch, realtime_ns) for gap in record.gaps]
                made.append(batch_entry(self.stream, batch))
                self.packets += batch.packet_count
                self.batches += 1
                self.lag_ns = self.receiver.lag_ns
                self.ended = batch.end is not None
            case Gap():
                made.append(self._gap(record, record.epoch, realtime_ns))
            case Restart():
                made.append(annotation_entry(restart_annotation(self.stream, record, realtime_ns)))
                self.ended = False
            case Silence():
                made.append(annotation_entry(silence_annotation(self.stream, record, realtime_ns)))
        self.position = position_behind(record, self.position)
        return made

    def skip(self, record: Record, realtime_ns: int) -> list[Entry]:
        """Skip a record outside of a trigger's time; its packets are declared later. Return what to write anyway."""
        if not isinstance(record, Delivery) or not record.batch.packet_count:
            return self.entries(record, realtime_ns)
        batch = record.batch
        first = record.gaps[0].first if record.gaps and record.gaps[0].count else batch.first_sequence
        if self._skipped is None:
            self._skipped = (batch.epoch, first, batch.end_sequence)
        else:
            self._skipped = (batch.epoch, self._skipped[1], batch.end_sequence)
        self.position = position_behind(record, self.position)
        self.ended = batch.end is not None
        return []

    def head(self, realtime_ns: int) -> list[Entry]:
        """Return the entries about this stream for the beginning of a segment."""
        made = [annotation_entry(begin_annotation(self.stream, self.durable, realtime_ns))]
        if self.info is not None:
            made.insert(0, info_entry(self.info, realtime_ns))
        return made

    @property
    def clock_has_changed(self) -> bool:
        """True if the reading host has reported its clock since the last entry about it."""
        return self._asked_at() not in (0, self._asked_ns)

    def clock(self, realtime_ns: int) -> Entry:
        """Return an entry with the current clock offset of the reading host."""
        self._asked_ns = self._asked_at()
        return annotation_entry(clock_annotation(self.stream, self.receiver.clock, realtime_ns))

    def _asked_at(self) -> int:
        """Return a number that changes with each answer; 0 before the first."""
        known = self.receiver.clock
        if known is None:
            return 0
        return (known.at_ns - known.age_ns) // _SECOND_NS if known.uncertainty_ns else 1

    def tail(self) -> dict[str, Any]:
        """Return the state of this stream for the annotation that closes a segment."""
        said: dict[str, Any] = {"packets": self.packets, "lost": self.lost, "batches": self.batches}
        if self.position is not None and self._skipped is None:
            said |= {
                "epoch": hex_epoch(self.position.epoch),
                "next_sequence": self.position.next_sequence,
                "next_number": self.position.next_number,
            }
        said["subscription"] = self.resuming.ledger().to_json()
        return said

    def close(self) -> None:
        self.resuming.close()

    def _gap(self, gap: Gap, epoch: int, realtime_ns: int) -> Entry:
        if self._excuse and gap.stage == "ring":
            gap = replace(gap, stage=STAGE, reason=f"{self._excuse}; meanwhile {gap.reason}")
        self.lost += gap.count
        return annotation_entry(gap_annotation(self.stream, epoch, gap, realtime_ns))

    def _declare_skipped(self, realtime_ns: int) -> list[Entry]:
        if self._skipped is None:
            return []
        (epoch, first, until), self._skipped = self._skipped, None
        gap = Gap(first, until - 1, until - first, STAGE, NOT_WANTED, epoch=epoch)
        return [annotation_entry(gap_annotation(self.stream, epoch, gap, realtime_ns))]

    def finish(self, realtime_ns: int) -> list[Entry]:
        """Return the entries that are still due at the end."""
        return self._declare_skipped(realtime_ns)

    def note_synced(self) -> None:
        if self._skipped is None:
            self.durable = self.position

"""The ledger of a recording: for each stream and epoch, recorded + declared lost = the range; everything else is a problem.

Segments are handed in one after another, each with its items in the order of the file. The rule for a batch: it begins
where the last entry ended, and its number is the next one. Packets that are neither recorded nor declared lost are missing.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from usbcast.clock.offset import ClockOffset
from usbcast.events import stage_of
from usbcast.recording.contents import Contents
from usbcast.recording.entries import STAGE, Annotation, Item, clock_of, gap_of, hex_epoch
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_PROBLEMS = 1000
"""Problems and notes that are kept as sentences; further problems are only counted."""


@dataclass(slots=True)
class EpochLedger:
    """Ledger of one stream in one epoch."""

    stream: str
    epoch: int
    first: int | None = None
    next_sequence: int = 0
    next_number: int | None = None
    recorded: int = 0
    batches: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    """Sequences declared lost, by stage and reason."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Sequences that a bridge left out on purpose, by stage and reason."""
    lost_earlier: dict[str, int] = field(default_factory=dict)
    """Packets that were lost before they got a sequence, by stage and reason."""
    missing: int = 0
    doubled: int = 0
    ended: bool = False
    events: int = 0
    clock_steps: int = 0
    """How often the clock of the reading host was stepped."""
    start_ns: int = 0
    end_ns: int = 0
    number_may_jump: bool = False
    """Packets were declared lost, or found missing, since the last batch, so its number may jump."""

    @property
    def span(self) -> int:
        return self.next_sequence - (self.first or 0)

    @property
    def balanced(self) -> bool:
        accounted = self.recorded + sum(self.lost.values()) + sum(self.left_out.values())
        return accounted == self.span and not self.missing and not self.doubled

    def to_json(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "epoch": hex_epoch(self.epoch),
            "first_sequence": self.first or 0,
            "next_sequence": self.next_sequence,
            "packets": self.span,
            "recorded": self.recorded,
            "batches": self.batches,
            "lost": dict(sorted(self.lost.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "lost_before_numbering": dict(sorted(self.lost_earlier.items())),
            "missing": self.missing,
            "doubled": self.doubled,
            "device_events": self.events,
            "clock_steps": self.clock_steps,
            "ended": self.ended,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "balanced": self.balanced,
        }


class RecordingLedger:
    """Ledger of one recording. `segment` begins a file, `add` adds its items in order; `finish` ends the recording."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], EpochLedger] = {}
        self.problems: list[str] = []
        self.problem_count = 0
        self.notes: list[str] = []
        self.disks: list[str] = []
        self.clocks: dict[str, ClockOffset] = {}
        """By stream, the last known clock offset of the reading host against the recording host."""
        self._where = ""
        self._index: int | None = None
        self._seen: set[int] = set()
        self._dropped_before = 0
        """Segments below this index were removed by --keep."""
        self._open_end = ""
        """Declared reason why this segment may have ended early; empty if it did not."""
        self._before_open = ""
        """The same for the previous segment."""
        self._absent: tuple[int, ...] = ()
        self._closed: Annotation | None = None

    def segment(self, index: int, name: str) -> None:
        """Begin the file with this index."""
        self._where = name
        expected = 0 if self._index is None else self._index + 1
        self._absent = tuple(i for i in range(expected, index) if i >= self._dropped_before)
        if index in self._seen:
            self.problem(f"segment {index} exists twice: one of its files is {name}")
        self._seen.add(index)
        self._index = max(index, self._index or 0)
        self._closed = None
        self._before_open, self._open_end = self._open_end, ""

    def add(self, stream: str, item: Item) -> None:
        """Add one entry of the current file."""
        if isinstance(item, EncodedBatch):
            self._batch(stream, item)
        elif isinstance(item, Annotation):
            self._annotation(item)

    def finish(self) -> None:
        """Check what can be checked only after the last file."""
        for index in self._missing_segments():
            self.problem(f"segment {index} is missing: its file has been removed, or was not named")
        if self._closed is not None and not self._closed.fields.get("final"):
            self.problem(f"the recording continues after {self._where}, in a segment that is missing")
        elif self._closed is None and not self._open_end and self._index is not None:
            self.problem(
                f"{self._where} was not closed: the recorder was killed or is still running, and what came after is unknown "
                "(`usbcast recover` repairs the file, `usbcast record --resume` continues the recording)"
            )

    def note(self, sentence: str) -> None:
        """Note something worth knowing that does not unbalance the ledger."""
        if len(self.notes) < MAX_PROBLEMS:
            self.notes.append(sentence)

    def problem(self, sentence: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(sentence)

    @property
    def balanced(self) -> bool:
        return not self.problem_count and all(ledger.balanced for ledger in self.epochs.values())

    def _missing_segments(self) -> list[int]:
        if self._index is None:
            return []
        return [i for i in range(self._dropped_before, self._index) if i not in self._seen]

    def _epoch_ledger(self, stream: str, epoch: int) -> EpochLedger:
        ledger = self.epochs.get((stream, epoch))
        if ledger is None:
            ledger = self.epochs[stream, epoch] = EpochLedger(stream, epoch)
        return ledger

    def _batch(self, stream: str, batch: EncodedBatch) -> None:
        ledger = self._epoch_ledger(stream, batch.epoch)
        first = batch.first_sequence
        if ledger.first is None:
            ledger.first = ledger.next_sequence = first
        if ledger.next_number is not None and batch.number < ledger.next_number:
            ledger.doubled += batch.packet_count
            self.problem(f"{_name(ledger)}: batch {batch.number} is recorded twice, the second time in {self._where}")
            return
        if first > ledger.next_sequence:
            self._missing(ledger, first, f"before batch {batch.number} in {self._where}")
        elif first < ledger.next_sequence:
            ledger.doubled += ledger.next_sequence - first
            self.problem(
                f"{_name(ledger)}: batch {batch.number} in {self._where} begins at packet {first:,}, "
                f"but packets up to {ledger.next_sequence - 1:,} are already recorded or declared lost"
            )
        elif ledger.next_number is not None and batch.first_number > ledger.next_number and not ledger.number_may_jump:
            self.problem(
                f"{_name(ledger)}: {batch.first_number - ledger.next_number} batches without packets, such as device events, "
                f"are missing before batch {batch.number} in {self._where}"
            )
        ledger.number_may_jump = False
        ledger.next_sequence = batch.end_sequence
        ledger.next_number = batch.number + 1
        ledger.recorded += batch.packet_count
        ledger.batches += 1
        ledger.events += len(batch.events)
        for event in batch.events:
            if event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED:
                ledger.clock_steps += 1
                self.note(f"{_name(ledger)}: before packet {first:,} {event.detail}")
        for loss in batch.losses:
            what = f"{stage_of(loss.stage)}: {loss.reason}"
            ledger.lost_earlier[what] = ledger.lost_earlier.get(what, 0) + loss.packets
        if batch.arrivals.realtime_ns:
            ledger.start_ns = ledger.start_ns or batch.arrivals.realtime_ns[0]
            ledger.end_ns = batch.arrivals.realtime_ns[-1]
        if batch.end is not None:
            ledger.ended = True
            if batch.end.packets != ledger.next_sequence:
                self._missing(ledger, batch.end.packets, f"before the end of the stream in {self._where}")

    def _annotation(self, annotation: Annotation) -> None:
        fields = annotation.fields
        match annotation.kind:
            case "gap":
                self._gap(annotation)
            case "begin" if "epoch" in fields:
                self._begin(annotation)
            case "restart":
                self._restart(annotation)
            case "close":
                self._close(annotation)
            case "contents":
                self._contents(annotation)
            case "unknown":
                self.problem(f"{annotation.stream}: {fields['reason']}")
            case "damaged":
                self.note(str(fields["reason"]))
            case "dropped":
                if int(fields["before"]) > self._dropped_before:
                    self._dropped_before = int(fields["before"])
                    self.note(f"the segments before {self._dropped_before} were {fields['reason']}")
            case "recovered":
                self._open_end = str(fields["reason"])
                self.note(f"{self._where} was recovered: {fields['reason']}")
            case "disk":
                self.disks.append(str(fields["reason"]))
                self.note(
                    f"recording paused for {(annotation.time_ns - fields['since_ns']) / 1e9:.1f} s: {fields['reason']}"
                )
            case "clock":
                known = clock_of(annotation)
                if known is not None:
                    self.clocks[annotation.stream] = known
            case "stalled":
                self.note(str(fields["reason"]))
            case "silence":
                self.note(
                    f"{annotation.stream}: silence for {fields['duration_ns'] / 1e9:.1f} s, "
                    + ("the bridge itself received nothing" if fields.get("upstream") else "the node was gone or hung")
                )
            case "rate":
                self.note(str(fields["reason"]))
            case "refused":
                self.note(f"{annotation.stream}: {fields['reason']}")

    def _gap(self, annotation: Annotation) -> None:
        gap = gap_of(annotation)
        ledger = self._epoch_ledger(annotation.stream, int(annotation.fields["epoch"], 16))
        ledger.number_may_jump = True
        if ledger.first is None:
            ledger.first = ledger.next_sequence = gap.first
        if gap.last < gap.first:
            return
        if gap.first > ledger.next_sequence:
            self._missing(ledger, gap.first, f"before a declared gap in {self._where}")
        elif gap.first < ledger.next_sequence:
            self.problem(
                f"{_name(ledger)}: a gap in {self._where} declares packet {gap.first:,} lost, "
                "which is already recorded or declared lost"
            )
            return
        what = f"{gap.stage}: {gap.reason}"
        column = ledger.left_out if gap.on_purpose else ledger.lost
        column[what] = column.get(what, 0) + gap.last + 1 - gap.first
        ledger.next_sequence = gap.last + 1

    def _begin(self, annotation: Annotation) -> None:
        """Compare where a segment begins with where the previous one ended; something between them may be missing."""
        fields = annotation.fields
        ledger = self._epoch_ledger(annotation.stream, int(fields["epoch"], 16))
        sequence, number = int(fields["next_sequence"]), int(fields["next_number"])
        if ledger.first is None:
            if self._before_open:
                self.problem(
                    f"{_name(ledger)}: {self._where} continues at packet {sequence:,}, and everything before it is gone: "
                    f"{self._before_open}"
                )
            ledger.first = ledger.next_sequence = sequence
            ledger.next_number = number
            return
        if sequence > ledger.next_sequence:
            if self._before_open:
                what = f"{STAGE}: {self._before_open}"
                ledger.lost[what] = ledger.lost.get(what, 0) + sequence - ledger.next_sequence
                ledger.next_sequence = sequence
            else:
                self._missing(ledger, sequence, f"before {self._where}" + self._absence())
        elif sequence < ledger.next_sequence:
            self.problem(
                f"{_name(ledger)}: {self._where} begins at packet {sequence:,}, "
                f"but packets up to {ledger.next_sequence - 1:,} were recorded before it"
            )
        elif (
            ledger.next_number is not None
            and number > ledger.next_number
            and not self._before_open
            and not ledger.number_may_jump
        ):
            self.problem(
                f"{_name(ledger)}: {number - ledger.next_number} batches without packets are missing before {self._where}"
                + self._absence()
            )
        ledger.next_number = max(number, ledger.next_number or 0)

    def _absence(self) -> str:
        if not self._absent:
            return ""
        names = ", ".join(map(str, self._absent))
        return f" (segment {names} is missing)" if len(self._absent) == 1 else f" (segments {names} are missing)"

    def _restart(self, annotation: Annotation) -> None:
        fields = annotation.fields
        old = self._epoch_ledger(annotation.stream, int(fields["old_epoch"], 16))
        if old.first is not None and int(fields["known_until"]) > old.next_sequence:
            self._missing(old, int(fields["known_until"]), f"before the restart in {self._where}")
        new = self._epoch_ledger(annotation.stream, int(fields["epoch"], 16))
        if new.first is None:
            new.first, new.next_sequence, new.next_number = 0, 0, 0
        self.note(f"{annotation.stream}: a new epoch began after {old.next_sequence:,} packets of the previous one")

    def _close(self, annotation: Annotation) -> None:
        self._closed = annotation
        for stream, said in annotation.fields["streams"].items():
            if "epoch" not in said:
                continue
            ledger = self._epoch_ledger(stream, int(said["epoch"], 16))
            until = int(said["next_sequence"])
            if ledger.first is not None and until > ledger.next_sequence:
                self._missing(ledger, until, f"before the end of {self._where}")

    def _contents(self, annotation: Annotation) -> None:
        """Compare what the file claims to cover with what was read."""
        for stream, runs in Contents.from_fields(annotation.fields).runs.items():
            for run in runs:
                ledger = self._epoch_ledger(stream, run.epoch)
                if ledger.first is None:
                    ledger.first = ledger.next_sequence = run.first
                if run.first < ledger.first:
                    ledger.missing += ledger.first - run.first
                    self.problem(
                        f"{_name(ledger)}: {ledger.first - run.first:,} packets ({run.first:,} to {ledger.first - 1:,}) "
                        f"are missing at the beginning of {self._where}, and nothing declares them lost"
                    )
                    ledger.first = run.first
                if run.until > ledger.next_sequence:
                    self._missing(ledger, run.until, f"in {self._where}")

    def _missing(self, ledger: EpochLedger, until: int, where: str) -> None:
        count = until - ledger.next_sequence
        ledger.missing += count
        self.problem(
            f"{_name(ledger)}: {count:,} packets ({ledger.next_sequence:,} to {until - 1:,}) are missing {where}, "
            "and nothing declares them lost"
        )
        ledger.next_sequence = until
        ledger.number_may_jump = True


def _name(ledger: EpochLedger) -> str:
    return f"stream {ledger.stream}, epoch {hex_epoch(ledger.epoch)}"

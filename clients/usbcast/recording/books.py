"""The books of a recording: for each stream and epoch, recorded + declared lost = the range; and whatever is against it.

Segments are handed in one after another, each with its items in the order of the file. The rule for a batch: it begins
where the last entry ended, and its number is the next one. A hole that no gap declares is missing, and a problem.

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
"""So many are kept in words; all are counted."""


@dataclass(slots=True)
class EpochBooks:
    """One stream in one epoch."""

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
    """How often the clock of the reading host was set."""
    start_ns: int = 0
    end_ns: int = 0
    told: bool = False
    """A gap was declared since the last batch, so its number may jump."""

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


class Books:
    """Of one recording. `segment` begins a file, `take` takes its items, `close` ends it; `finish` ends all."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], EpochBooks] = {}
        self.problems: list[str] = []
        self.problem_count = 0
        self.notes: list[str] = []
        self.disks: list[str] = []
        self.clocks: dict[str, ClockOffset] = {}
        """What was known last of the clock of the host that reads each stream, against that of the recording host."""
        self._where = ""
        self._index: int | None = None
        self._seen: set[int] = set()
        self._dropped_before = 0
        """The segments below are gone by wish."""
        self._open_end = ""
        """Why this segment may have ended before its time, where that is declared."""
        self._before_open = ""
        """The same of the segment before."""
        self._absent: tuple[int, ...] = ()
        self._closed: Annotation | None = None

    def segment(self, index: int, name: str) -> None:
        """The file of this index comes next."""
        self._where = name
        expected = 0 if self._index is None else self._index + 1
        self._absent = tuple(i for i in range(expected, index) if i >= self._dropped_before)
        if index in self._seen:
            self.problem(f"segment {index} exists twice: one of its files is {name}")
        self._seen.add(index)
        self._index = max(index, self._index or 0)
        self._closed = None
        self._before_open, self._open_end = self._open_end, ""

    def take(self, stream: str, item: Item) -> None:
        """One entry of the current file."""
        if isinstance(item, EncodedBatch):
            self._batch(stream, item)
        elif isinstance(item, Annotation):
            self._remark(item)

    def finish(self) -> None:
        """All files have been handed in."""
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
        """Something worth knowing that is not against the books."""
        if len(self.notes) < MAX_PROBLEMS:
            self.notes.append(sentence)

    def problem(self, sentence: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(sentence)

    @property
    def balanced(self) -> bool:
        return not self.problem_count and all(books.balanced for books in self.epochs.values())

    def _missing_segments(self) -> list[int]:
        if self._index is None:
            return []
        return [i for i in range(self._dropped_before, self._index) if i not in self._seen]

    def _of(self, stream: str, epoch: int) -> EpochBooks:
        books = self.epochs.get((stream, epoch))
        if books is None:
            books = self.epochs[stream, epoch] = EpochBooks(stream, epoch)
        return books

    def _batch(self, stream: str, batch: EncodedBatch) -> None:
        books = self._of(stream, batch.epoch)
        first = batch.first_sequence
        if books.first is None:
            books.first = books.next_sequence = first
        if books.next_number is not None and batch.number < books.next_number:
            books.doubled += batch.packet_count
            self.problem(f"{_who(books)}: batch {batch.number} is recorded twice, the second time in {self._where}")
            return
        if first > books.next_sequence:
            self._missing(books, first, f"before batch {batch.number} in {self._where}")
        elif first < books.next_sequence:
            books.doubled += books.next_sequence - first
            self.problem(
                f"{_who(books)}: batch {batch.number} in {self._where} begins at packet {first:,}, "
                f"but packets up to {books.next_sequence - 1:,} are already recorded or declared lost"
            )
        elif books.next_number is not None and batch.first_number > books.next_number and not books.told:
            self.problem(
                f"{_who(books)}: {batch.first_number - books.next_number} batches without packets, such as device events, "
                f"are missing before batch {batch.number} in {self._where}"
            )
        books.told = False
        books.next_sequence = batch.end_sequence
        books.next_number = batch.number + 1
        books.recorded += batch.packet_count
        books.batches += 1
        books.events += len(batch.events)
        for event in batch.events:
            if event.kind == pb.DeviceEvent.KIND_CLOCK_STEPPED:
                books.clock_steps += 1
                self.note(f"{_who(books)}: before packet {first:,} {event.detail}")
        for loss in batch.losses:
            what = f"{stage_of(loss.stage)}: {loss.reason}"
            books.lost_earlier[what] = books.lost_earlier.get(what, 0) + loss.packets
        if batch.arrivals.realtime_ns:
            books.start_ns = books.start_ns or batch.arrivals.realtime_ns[0]
            books.end_ns = batch.arrivals.realtime_ns[-1]
        if batch.end is not None:
            books.ended = True
            if batch.end.packets != books.next_sequence:
                self._missing(books, batch.end.packets, f"before the end of the stream in {self._where}")

    def _remark(self, remark: Annotation) -> None:
        fields = remark.fields
        match remark.kind:
            case "gap":
                self._gap(remark)
            case "begin" if "epoch" in fields:
                self._begin(remark)
            case "restart":
                self._restart(remark)
            case "close":
                self._close(remark)
            case "contents":
                self._contents(remark)
            case "unknown":
                self.problem(f"{remark.stream}: {fields['reason']}")
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
                    f"recording paused for {(remark.time_ns - fields['since_ns']) / 1e9:.1f} s: {fields['reason']}"
                )
            case "clock":
                known = clock_of(remark)
                if known is not None:
                    self.clocks[remark.stream] = known
            case "stalled":
                self.note(str(fields["reason"]))
            case "silence":
                self.note(
                    f"{remark.stream}: silence for {fields['duration_ns'] / 1e9:.1f} s, "
                    + ("the bridge itself received nothing" if fields.get("upstream") else "the node was gone or hung")
                )
            case "rate":
                self.note(str(fields["reason"]))
            case "refused":
                self.note(f"{remark.stream}: {fields['reason']}")

    def _gap(self, remark: Annotation) -> None:
        gap = gap_of(remark)
        books = self._of(remark.stream, int(remark.fields["epoch"], 16))
        books.told = True
        if books.first is None:
            books.first = books.next_sequence = gap.first
        if gap.last < gap.first:
            return
        if gap.first > books.next_sequence:
            self._missing(books, gap.first, f"before a declared gap in {self._where}")
        elif gap.first < books.next_sequence:
            self.problem(
                f"{_who(books)}: a gap in {self._where} declares packet {gap.first:,} lost, "
                "which is already recorded or declared lost"
            )
            return
        what = f"{gap.stage}: {gap.reason}"
        column = books.left_out if gap.on_purpose else books.lost
        column[what] = column.get(what, 0) + gap.last + 1 - gap.first
        books.next_sequence = gap.last + 1

    def _begin(self, remark: Annotation) -> None:
        """A segment says where it goes on; between that and what has been read, something may be gone."""
        fields = remark.fields
        books = self._of(remark.stream, int(fields["epoch"], 16))
        sequence, number = int(fields["next_sequence"]), int(fields["next_number"])
        if books.first is None:
            if self._before_open:
                self.problem(
                    f"{_who(books)}: {self._where} continues at packet {sequence:,}, and everything before it is gone: "
                    f"{self._before_open}"
                )
            books.first = books.next_sequence = sequence
            books.next_number = number
            return
        if sequence > books.next_sequence:
            if self._before_open:
                what = f"{STAGE}: {self._before_open}"
                books.lost[what] = books.lost.get(what, 0) + sequence - books.next_sequence
                books.next_sequence = sequence
            else:
                self._missing(books, sequence, f"before {self._where}" + self._absence())
        elif sequence < books.next_sequence:
            self.problem(
                f"{_who(books)}: {self._where} begins at packet {sequence:,}, "
                f"but packets up to {books.next_sequence - 1:,} were recorded before it"
            )
        elif books.next_number is not None and number > books.next_number and not self._before_open and not books.told:
            self.problem(
                f"{_who(books)}: {number - books.next_number} batches without packets are missing before {self._where}"
                + self._absence()
            )
        books.next_number = max(number, books.next_number or 0)

    def _absence(self) -> str:
        if not self._absent:
            return ""
        names = ", ".join(map(str, self._absent))
        return f" (segment {names} is missing)" if len(self._absent) == 1 else f" (segments {names} are missing)"

    def _restart(self, remark: Annotation) -> None:
        fields = remark.fields
        old = self._of(remark.stream, int(fields["old_epoch"], 16))
        if old.first is not None and int(fields["known_until"]) > old.next_sequence:
            self._missing(old, int(fields["known_until"]), f"before the restart in {self._where}")
        new = self._of(remark.stream, int(fields["epoch"], 16))
        if new.first is None:
            new.first, new.next_sequence, new.next_number = 0, 0, 0
        self.note(f"{remark.stream}: a new epoch began after {old.next_sequence:,} packets of the previous one")

    def _close(self, remark: Annotation) -> None:
        self._closed = remark
        for stream, said in remark.fields["streams"].items():
            if "epoch" not in said:
                continue
            books = self._of(stream, int(said["epoch"], 16))
            until = int(said["next_sequence"])
            if books.first is not None and until > books.next_sequence:
                self._missing(books, until, f"before the end of {self._where}")

    def _contents(self, remark: Annotation) -> None:
        """The file says what it covers up to here."""
        for stream, runs in Contents.from_fields(remark.fields).runs.items():
            for run in runs:
                books = self._of(stream, run.epoch)
                if books.first is None:
                    books.first = books.next_sequence = run.first
                if run.first < books.first:
                    books.missing += books.first - run.first
                    self.problem(
                        f"{_who(books)}: {books.first - run.first:,} packets ({run.first:,} to {books.first - 1:,}) are missing "
                        f"at the beginning of {self._where}, and nothing declares them lost"
                    )
                    books.first = run.first
                if run.until > books.next_sequence:
                    self._missing(books, run.until, f"in {self._where}")

    def _missing(self, books: EpochBooks, until: int, where: str) -> None:
        count = until - books.next_sequence
        books.missing += count
        self.problem(
            f"{_who(books)}: {count:,} packets ({books.next_sequence:,} to {until - 1:,}) are missing {where}, "
            "and nothing declares them lost"
        )
        books.next_sequence = until
        books.told = True


def _who(books: EpochBooks) -> str:
    return f"stream {books.stream}, epoch {hex_epoch(books.epoch)}"

"""Holes between the entries of a recording: gaps and restarts that nothing declares, mostly because of damage.

Entries are handed in, in the order of the files. Between two that do not join, annotations are made that declare the hole.
Where a stream began, and what followed its last entry, is known from the contents that the file lists.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from usbcast.events import Gap, Restart
from usbcast.receiving.continuity import Position
from usbcast.recording.contents import Contents, Run
from usbcast.recording.entries import (
    STAGE,
    Annotation,
    Item,
    gap_annotation,
    gap_of,
    restart_annotation,
    run_of,
    unknown_annotation,
)
from usbcast_schemas.batch import EncodedBatch

NOT_THERE = "it is not in the recording, and nothing says why"


@dataclass(frozen=True, slots=True)
class _At:
    """Position of a stream. The number is None after a gap, which does not say how many batches it took."""

    epoch: int
    sequence: int
    number: int | None

    @classmethod
    def beginning(cls, run: Run) -> _At:
        return cls(run.epoch, run.first, run.first_number)


class Holes:
    """`segment` begins a file; for each entry, `before` declares what is missing and `add` moves on; `rest` ends the file.

    If reading begins `anywhere` in a recording, nothing before that place counts as missing.
    """

    def __init__(self, *, anywhere: bool = False) -> None:
        self.dropped_before = 0
        """Segments below this index were removed by --keep."""
        self.unknown: list[str] = []
        """Sentences about losses of unknown size."""
        self._anywhere = anywhere
        self._at: dict[str, _At] = {}
        self._begun: set[str] = set()
        """Streams that have begun since the last damage."""
        self._reason = ""
        self._told: Annotation | None = None
        self._find_contents: Callable[[], Contents | None] = lambda: None

    @property
    def positions(self) -> dict[str, Position]:
        """Position of each stream."""
        return {stream: Position(at.epoch, at.sequence, at.number or 0) for stream, at in self._at.items()}

    def segment(self, contents: Callable[[], Contents | None]) -> None:
        """Begin the next file. `contents` is called only when something missing makes it necessary."""
        self._find_contents = contents
        self._told = None
        self._reason = ""

    def damage(self, reason: str) -> None:
        """Note damage: what is found missing from now on has this reason."""
        self._reason = reason
        self._begun.clear()

    def before(self, stream: str, item: Item, time_ns: int) -> Iterator[Annotation]:
        """Annotations that have to precede `item`."""
        if isinstance(item, Annotation) and item.kind == "close":
            yield from self._before_close(item, time_ns)
        begin = _beginning_of(item)
        if begin is None:
            return
        at = self._at.get(stream)
        if at is None:
            if isinstance(item, Annotation) and item.kind == "begin":
                return
            at = self._start(stream)
            if at is None:
                if self._reason and stream not in self._begun and not self._anywhere:
                    yield self._unknown(stream, begin.epoch, begin.sequence, time_ns)
                return
        yield from self._advance(stream, at, begin, time_ns)

    def add(self, stream: str, item: Item) -> None:
        """Move on past `item`."""
        if isinstance(item, Annotation):
            if item.kind == "contents":
                self._told = item
            elif item.kind == "dropped":
                self.dropped_before = max(self.dropped_before, int(item.fields["before"]))
            elif item.kind == "begin":
                self._begun.add(stream)
        run = run_of(item)
        if run is not None:
            self._at[stream] = _At(run.epoch, run.until, run.until_number)

    def rest(self, time_ns: int) -> Iterator[Annotation]:
        """Annotations for what the file claims to cover and did not contain; call it at the end of the file."""
        told = Contents.from_fields(self._told.fields) if self._told is not None else None
        if self._reason:
            told = self._find_contents() or told
        for stream, runs in told.runs.items() if told is not None else ():
            at = self._at.get(stream) or self._start(stream)
            if runs and at is not None:
                last = runs[-1]
                yield from self._advance(stream, at, _At(last.epoch, last.until, last.until_number), time_ns)

    def _before_close(self, close: Annotation, time_ns: int) -> Iterator[Annotation]:
        """Annotations before a close, which gives each stream's position even in a file that lists no contents."""
        yield from self.rest(time_ns)
        for stream, said in close.fields["streams"].items():
            if "epoch" not in said:
                continue
            end = _At(int(said["epoch"], 16), int(said["next_sequence"]), int(said["next_number"]))
            at = self._at.get(stream) or self._start(stream)
            if at is not None:
                yield from self._advance(stream, at, end, time_ns)
            elif self._reason and said.get("batches") and not self._anywhere:
                yield self._unknown(stream, end.epoch, end.sequence, time_ns)

    def _advance(self, stream: str, at: _At, to: _At, time_ns: int) -> Iterator[Annotation]:
        """Annotations for what is missing between `at` and `to`, across all epochs between them."""
        reason = self._reason or NOT_THERE
        while at.epoch != to.epoch:
            old, new = self._neighbours(stream, at.epoch, to.epoch)
            until = max(at.sequence, old.until if old is not None else 0)
            yield from _gap(
                stream, at, _At(at.epoch, until, old.until_number if old is not None else None), reason, time_ns
            )
            after = _At.beginning(new) if new is not None else _At(to.epoch, 0, 0)
            yield restart_annotation(stream, Restart(at.epoch, after.epoch, until, until), time_ns)
            if new is None and self._reason:
                yield self._unknown(stream, at.epoch, at.sequence, time_ns)
            at = after
        yield from _gap(stream, at, to, reason, time_ns)
        if to.sequence > at.sequence or (to.sequence == at.sequence and to.number is not None):
            self._at[stream] = to
        else:
            self._at[stream] = at

    def _neighbours(self, stream: str, epoch: int, until: int) -> tuple[Run | None, Run | None]:
        """The runs of `epoch` and of the next one, where the file tells them and comes to `until` that way."""
        runs = self._runs(stream)
        epochs = [run.epoch for run in runs]
        if epoch in epochs and until in epochs[epochs.index(epoch) + 1 :]:
            at = epochs.index(epoch)
            return runs[at], runs[at + 1]
        if until in epochs:  # the epoch before is of an earlier file
            return None, runs[0]
        return None, None

    def _start(self, stream: str) -> _At | None:
        runs = self._runs(stream)
        return _At.beginning(runs[0]) if runs else None

    def _runs(self, stream: str) -> Sequence[Run]:
        contents = None if self._anywhere else self._find_contents()
        if contents is None or contents.forgotten.get(stream):
            return ()
        return contents.runs.get(stream, ())

    def _unknown(self, stream: str, epoch: int, first: int, time_ns: int) -> Annotation:
        reason = f"nobody can say how much of stream {stream} stood where {self._reason}: the file is of an older form"
        self.unknown.append(reason)
        return unknown_annotation(stream, epoch, first, reason, time_ns)


def _beginning_of(item: Item) -> _At | None:
    """Return the position that a stream must have before this item; None if any will do."""
    if isinstance(item, EncodedBatch):
        return _At(item.epoch, item.first_sequence, item.first_number)
    if not isinstance(item, Annotation):
        return None
    fields = item.fields
    if item.kind == "gap":
        return _At(int(fields["epoch"], 16), gap_of(item).first, None)
    if item.kind == "restart":
        return _At(int(fields["old_epoch"], 16), int(fields["delivered_until"]), None)
    if item.kind == "begin" and "epoch" in fields:
        return _At(int(fields["epoch"], 16), int(fields["next_sequence"]), int(fields["next_number"]))
    return None


def _gap(stream: str, at: _At, to: _At, reason: str, time_ns: int) -> Iterator[Annotation]:
    """Annotation of the gap between two positions of one epoch, if there is one; it may consist of batches without packets."""
    unseen = at.number is not None and to.number is not None and to.number > at.number
    if to.sequence > at.sequence or (unseen and to.sequence == at.sequence):
        count = to.sequence - at.sequence
        yield gap_annotation(stream, at.epoch, Gap(at.sequence, to.sequence - 1, count, STAGE, reason), time_ns)

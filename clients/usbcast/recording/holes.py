"""What is missing between the entries of a recording: the gaps and restarts that damage took, or left undeclared.

Entries are handed in, in the order of the files. Between two of them that do not join, remarks are made that say what is gone.
Where a stream began, and what followed its last entry, is known by the contents that the file itself tells.

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
    gap_of,
    gap_remark,
    restart_remark,
    run_of,
    unknown_remark,
)
from usbcast_schemas.batch import EncodedBatch

NOT_THERE = "it is not in the recording, and nothing says why"


@dataclass(frozen=True, slots=True)
class _At:
    """Where a stream stands. The number is None behind a gap, which does not say how many batches it swallowed."""

    epoch: int
    sequence: int
    number: int | None

    @classmethod
    def beginning(cls, run: Run) -> _At:
        return cls(run.epoch, run.first, run.first_number)


class Holes:
    """`segment` begins a file; for each entry `before` says what is missing, then `take` moves on; `rest` ends the file.

    Reading that begins `anywhere` in a recording misses nothing of what came earlier.
    """

    def __init__(self, *, anywhere: bool = False) -> None:
        self.dropped_before = 0
        """The segments of the recording below this one were removed by wish."""
        self.unknown: list[str] = []
        """Sentences about what nobody can say how much it was."""
        self._anywhere = anywhere
        self._at: dict[str, _At] = {}
        self._begun: set[str] = set()
        """Streams that have begun since the last damage."""
        self._reason = ""
        self._told: Annotation | None = None
        self._find_contents: Callable[[], Contents | None] = lambda: None

    @property
    def positions(self) -> dict[str, Position]:
        """Where each stream stands."""
        return {stream: Position(at.epoch, at.sequence, at.number or 0) for stream, at in self._at.items()}

    def segment(self, contents: Callable[[], Contents | None]) -> None:
        """The next file begins. `contents` is called only if something is missing for which it is needed."""
        self._find_contents = contents
        self._told = None
        self._reason = ""

    def damage(self, reason: str) -> None:
        """Something could not be read: what is found missing from now on is for this reason."""
        self._reason = reason
        self._begun.clear()

    def before(self, stream: str, item: Item, time_ns: int) -> Iterator[Annotation]:
        """What is to be declared before `item`."""
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

    def take(self, stream: str, item: Item) -> None:
        """Move on behind `item`."""
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
        """What the file says to have covered, and what has not come, at its end."""
        told = Contents.from_fields(self._told.fields) if self._told is not None else None
        if self._reason:
            told = self._find_contents() or told
        for stream, runs in told.runs.items() if told is not None else ():
            at = self._at.get(stream) or self._start(stream)
            if runs and at is not None:
                last = runs[-1]
                yield from self._advance(stream, at, _At(last.epoch, last.until, last.until_number), time_ns)

    def _before_close(self, close: Annotation, time_ns: int) -> Iterator[Annotation]:
        """A file without contents says at least here where each stream stood."""
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
        """Declare what lies between `at` and `to`, over all epochs between them."""
        reason = self._reason or NOT_THERE
        while at.epoch != to.epoch:
            old, new = self._neighbours(stream, at.epoch, to.epoch)
            until = max(at.sequence, old.until if old is not None else 0)
            yield from _gap(
                stream, at, _At(at.epoch, until, old.until_number if old is not None else None), reason, time_ns
            )
            after = _At.beginning(new) if new is not None else _At(to.epoch, 0, 0)
            yield restart_remark(stream, Restart(at.epoch, after.epoch, until, until), time_ns)
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
        return unknown_remark(stream, epoch, first, reason, time_ns)


def _beginning_of(item: Item) -> _At | None:
    """Where a stream has to stand before this item; None where that does not matter."""
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
    """The gap between two places of one epoch, if there is one; batches without packets may be missing as well."""
    unseen = at.number is not None and to.number is not None and to.number > at.number
    if to.sequence > at.sequence or (unseen and to.sequence == at.sequence):
        count = to.sequence - at.sequence
        yield gap_remark(stream, at.epoch, Gap(at.sequence, to.sequence - 1, count, STAGE, reason), time_ns)

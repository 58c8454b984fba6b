"""Where each stream of a recording stands, by its entries: for going on with a recording, and for finding what damage took."""

from __future__ import annotations

from usbcast.continuity import Position
from usbcast.recording.entries import Item, Remark, gap_of
from usbcast_schemas.batch import EncodedBatch


class Positions:
    """Pure. `before` says where an item begins, `take` moves on."""

    def __init__(self) -> None:
        self.of: dict[str, Position] = {}
        self.dropped_before = 0
        """The segments of the recording below this one were removed by wish."""

    def hole_before(self, stream: str, item: Item) -> tuple[Position, int] | None:
        """What is missing between the last item and this one: from where to which sequence; None if nothing is."""
        at = self.of.get(stream)
        if at is None:
            return None
        if isinstance(item, EncodedBatch):
            if item.epoch != at.epoch:
                return None
            lost = item.first_sequence > at.next_sequence or item.number > at.next_number
            return (at, item.first_sequence) if lost else None
        if isinstance(item, Remark):
            until = self._until(item, at)
            if until is not None and until > at.next_sequence:
                return at, until
        return None

    def take(self, stream: str, item: Item) -> None:
        if isinstance(item, EncodedBatch):
            self.of[stream] = Position(item.epoch, item.end_sequence, item.number + 1)
        elif isinstance(item, Remark):
            fields = item.fields
            if item.kind == "begin" and "epoch" in fields:
                self.of[stream] = Position(int(fields["epoch"], 16), fields["next_sequence"], fields["next_number"])
            elif item.kind == "restart":
                self.of[stream] = Position(int(fields["epoch"], 16), 0, 0)
            elif item.kind == "dropped":
                self.dropped_before = max(self.dropped_before, int(fields["before"]))
            elif item.kind == "gap":
                gap, at = gap_of(item), self.of.get(stream)
                if gap.last >= gap.first:
                    epoch = int(fields["epoch"], 16)
                    number = at.next_number if at is not None and at.epoch == epoch else 0
                    self.of[stream] = Position(epoch, gap.last + 1, number)

    def _until(self, remark: Remark, at: Position) -> int | None:
        """The sequence up to which a remark expects its stream to have come, in the same epoch."""
        fields = remark.fields
        if remark.kind == "gap" and int(fields["epoch"], 16) == at.epoch and fields["last"] >= fields["first"]:
            return int(fields["first"])
        if remark.kind == "restart" and int(fields["old_epoch"], 16) == at.epoch:
            return int(fields["delivered_until"])
        return None

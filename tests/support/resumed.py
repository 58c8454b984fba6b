"""The contract of the resuming receiver, whatever it receives by: no record is missing or comes twice, however often it fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.nodes import DEADLINE_S
from usbcast.receiving.continuity import Delivery, Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.open import Receiver
from usbcast.receiving.resuming import ResumingReceiver
from usbcast_schemas.errors import StreamUnknown

OpenAt = Callable[[str | Position], Receiver]
AWAY = "it is not there now"
FAILS_AFTER = (1, 2, 30)
"""Records after which the receiver in use fails."""


def fail(resuming: ResumingReceiver[Receiver]) -> None:
    """Let the receiver in use find at its next turn that the node does not have the stream any more."""

    def refuse() -> bool:
        raise StreamUnknown(AWAY)

    resuming.receiver.pump = refuse  # type: ignore[method-assign]


def take_to_end(resuming: ResumingReceiver[Receiver], then: Callable[[int], None] = lambda _: None) -> list[Record]:
    """Take records until the end of the stream; after each, `then` is told how many there are."""
    taken: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while not (taken and isinstance(taken[-1], Delivery) and taken[-1].batch.end is not None):
        assert time.monotonic() < deadline, f"{len(taken)} records came; {resuming.trouble}"
        resuming.pump()
        record = resuming.take_record()
        if record is not None:
            taken.append(record)
            then(len(taken))
        elif (park_s := resuming.park_s()) > 0:
            resuming.waiter.wait(min(park_s, deadline - time.monotonic()))
    return taken


def check_resumes(open_at: OpenAt, packets: int) -> None:
    """Take a stream of so many packets to its end; its receivers fail several times on the way."""
    resuming = ResumingReceiver(open_at, "oldest")
    said: list[str] = []

    def then(records: int) -> None:
        if records in FAILS_AFTER:
            last, position = resuming.receiver, resuming.point.position
            fail(resuming)
            assert not resuming.pump()
            assert resuming.is_away
            assert resuming.take_record() is None
            assert resuming.point.position == position
            assert resuming.receiver is last, "it still tells what it knew"
            said.append(resuming.trouble)

    try:
        taken = take_to_end(resuming, then)
        assert said == [AWAY] * len(FAILS_AFTER)
        assert resuming.trouble == ""
        here, number = 0, -1
        for record in taken:
            assert isinstance(record, Delivery), record
            assert not record.gaps
            assert (record.batch.first_sequence + record.skip, record.batch.first_number) == (here, number + 1)
            here, number = record.batch.end_sequence, record.batch.number
        assert here == packets
        assert resuming.point.position == Position(taken[-1].batch.epoch, packets, number + 1)
        ledger = resuming.ledger()
        assert (ledger.entered, ledger.left, ledger.held, ledger.discrepancy()) == (packets, packets, 0, None)
    finally:
        resuming.close()
        resuming.close()


__all__ = ["AWAY", "check_resumes", "fail", "take_to_end"]

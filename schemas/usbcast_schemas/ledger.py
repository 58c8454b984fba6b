"""The ledger of one stage: what came in, what went out, and what was lost, by reason.

The rule: entered = left + overhead + held + the sum of lost. `audit` computes it; nothing assumes it.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from usbcast_schemas.v1 import usbcast_pb2 as pb

_MOST = 2**64 - 1


class Ledger:
    """Counters of one stage in one unit. Owned and written by one thread; read by any.

    >>> ledger = Ledger("host", "bytes")
    >>> ledger.enter(112)
    >>> ledger.lose("queue full", 112)
    >>> ledger.discrepancy() is None
    True
    """

    __slots__ = ("counters", "entered", "held", "left", "lost", "overhead", "stage", "unit")

    def __init__(self, stage: str, unit: str) -> None:
        self.stage = stage
        self.unit = unit
        self.entered = 0
        self.left = 0
        self.overhead = 0
        self.held = 0
        self.lost: dict[str, int] = {}
        self.counters: dict[str, int] = {}

    def __repr__(self) -> str:
        lost = ", ".join(f"{n} {reason}" for reason, n in sorted(self.lost.items()) if n) or "0"
        return (
            f"<Ledger {self.stage}: {self.entered} {self.unit} in, {self.left} out, {self.overhead} overhead, "
            f"{self.held} held, lost {lost}>"
        )

    def enter(self, n: int) -> None:
        self.entered += n

    def leave(self, n: int) -> None:
        self.left += n

    def lose(self, reason: str, n: int) -> None:
        """Count `n` as lost here for `reason`."""
        self.lost[reason] = self.lost.get(reason, 0) + n

    def count(self, what: str, n: int = 1) -> None:
        """Add to a further figure, which is not part of the balance."""
        self.counters[what] = self.counters.get(what, 0) + n

    def add(self, other: Ledger) -> None:
        """Add the figures of `other`."""
        self.entered += other.entered
        self.left += other.left
        self.overhead += other.overhead
        self.held += other.held
        for reason, n in other.lost.items():
            self.lose(reason, n)
        for what, n in other.counters.items():
            self.count(what, n)

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())

    def discrepancy(self) -> str | None:
        """One sentence if it does not balance, else None."""
        accounted = self.left + self.overhead + self.held + self.lost_total
        if self.entered == accounted:
            return None
        return (
            f"stage {self.stage}: {self.entered} {self.unit} came in but {accounted} are accounted for "
            f"({self.left} out, {self.overhead} overhead, {self.held} held, {self.lost_total} lost): "
            f"{abs(self.entered - accounted)} {'missing' if self.entered > accounted else 'too many'}"
        )

    def to_proto(self) -> pb.Ledger:
        """The form on the wire. A sum that a hostile peer has driven beyond 64 bits is sent as the largest that there is."""
        return pb.Ledger(
            stage=self.stage,
            unit=self.unit,
            entered=_sent(self.entered),
            left=_sent(self.left),
            overhead=_sent(self.overhead),
            held=_sent(self.held),
            lost={reason: _sent(n) for reason, n in self.lost.items()},
            counters={what: _sent(n) for what, n in self.counters.items()},
        )

    @classmethod
    def from_proto(cls, message: pb.Ledger) -> Ledger:
        ledger = cls(message.stage, message.unit)
        ledger.entered, ledger.left = message.entered, message.left
        ledger.overhead, ledger.held = message.overhead, message.held
        ledger.lost = dict(message.lost)
        ledger.counters = dict(message.counters)
        return ledger

    def to_json(self) -> dict[str, Any]:
        """The form that every `--json` of the command line uses."""
        return {
            "stage": self.stage,
            "unit": self.unit,
            "in": self.entered,
            "out": self.left,
            "overhead": self.overhead,
            "held": self.held,
            "lost": dict(sorted(self.lost.items())),
            "counters": dict(sorted(self.counters.items())),
            "balanced": self.discrepancy() is None,
        }


def _sent(figure: int) -> int:
    return min(max(0, figure), _MOST)


def audit(ledgers: Iterable[Ledger], links: Iterable[tuple[str, int, str, int]] = ()) -> list[str]:
    """Return every sentence that there is to say against these ledgers.

    `links` are (what one stage gave, figure, what the next one took, figure); the two figures must be equal.
    """
    found = [sentence for ledger in ledgers if (sentence := ledger.discrepancy())]
    found += [f"{gave} is {a} but {took} is {b}" for gave, a, took, b in links if a != b]
    return found

"""Reports: what the subscriptions last said of themselves, cut to size, bounded in all, and forgotten after some seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from usbcast_schemas.v1 import usbcast_pb2 as pb

MAX_REPORTS = 1024
MAX_BYTES = 1024 * 1024
"""All reports together, as they are sent in answer to health; an honest one has some 400."""

KEPT_NS = 10_000_000_000
ALIVE_NS = 1_500_000_000
"""A subscription reports every second; one whose last report is older than this is taken for stopped or gone."""

MAX_NAME, MAX_REASON, MAX_FIGURES = 200, 100, 64
"""Characters of the subscription's name and of any other text; entries of the ledger, of each kind."""

RING = "ring"


class Reports:
    """Latest report of each subscription, the oldest first. Pure; the caller supplies monotonic nanoseconds."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[int, int, pb.SubscriptionReport]] = OrderedDict()
        self._size_bytes = 0

    def note(self, stream: str, told: pb.SubscriptionReport, now_ns: int) -> bool:
        """Remember this report in place of the last one of the same subscription; return whether there was none."""
        report = _cut(told)
        is_new = (stream, report.name) not in self._kept
        size = report.ByteSize()
        self._drop(stream, report.name)
        self._kept[stream, report.name] = (now_ns, size, report)
        self._size_bytes += size
        while len(self._kept) > MAX_REPORTS or self._size_bytes > MAX_BYTES:
            self._drop(*next(iter(self._kept)))
        return is_new

    def forget(self, now_ns: int) -> None:
        """Drop what is too old."""
        while self._kept:
            oldest, (at_ns, _, _) = next(iter(self._kept.items()))
            if now_ns - at_ns <= KEPT_NS:
                return
            self._drop(*oldest)

    def of(self, stream: str, now_ns: int) -> list[pb.SubscriptionReport]:
        """Return the reports on `stream` that are not too old, with their age."""
        found = []
        for (of, _), (at_ns, _, report) in list(self._kept.items()):
            if of == stream and now_ns - at_ns <= KEPT_NS:
                report.age_ns = now_ns - at_ns
                found.append(report)
        return found

    def waits_for(self, stream: str, next_number: int, now_ns: int) -> bool:
        """Return True if a live subscription that depends on the node still lacks batches before `next_number`."""
        return any(
            report.next_number < next_number
            for report in self.of(stream, now_ns)
            # One that reads the ring has it in its own memory.
            if report.via != RING and (report.joining or report.HasField("next_number")) and report.age_ns < ALIVE_NS
        )

    def _drop(self, stream: str, name: str) -> None:
        _, size, _ = self._kept.pop((stream, name), (0, 0, None))
        self._size_bytes -= size


def _cut(told: pb.SubscriptionReport) -> pb.SubscriptionReport:
    """The fields that this version knows, each no longer than it has reason to be."""
    report = pb.SubscriptionReport(name=told.name[:MAX_NAME], via=told.via[:MAX_REASON])
    for field in ("lag_ns", "next_sequence", "joining", "next_number"):
        if told.HasField(field):
            setattr(report, field, getattr(told, field))
    if told.HasField("ledger"):
        ledger = report.ledger
        ledger.stage, ledger.unit = told.ledger.stage[:MAX_REASON], told.ledger.unit[:MAX_REASON]
        for figure in ("entered", "left", "overhead", "held"):
            if told.ledger.HasField(figure):
                setattr(ledger, figure, getattr(told.ledger, figure))
        ledger.lost.update(_figures(told.ledger.lost.items()))
        ledger.counters.update(_figures(told.ledger.counters.items()))
    return report


def _figures(told: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    return ((reason[:MAX_REASON], figure) for reason, figure in islice(told, MAX_FIGURES))

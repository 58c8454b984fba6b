"""What subscriptions say of themselves: cut to size, bounded in all, forgotten. Times are handed in."""

from __future__ import annotations

from usbcast_broker.serving.reports import (
    ALIVE_NS,
    KEPT_NS,
    MAX_BYTES,
    MAX_FIGURES,
    MAX_NAME,
    MAX_REASON,
    MAX_REPORTS,
    Reports,
)
from usbcast_schemas.v1 import usbcast_pb2 as pb


def honest() -> pb.SubscriptionReport:
    report = pb.SubscriptionReport(
        name="host:1:2", via="push", lag_ns=-5, next_sequence=7, next_number=0, joining=False
    )
    report.ledger.stage, report.ledger.unit, report.ledger.entered, report.ledger.held = "subscription", "packets", 9, 0
    report.ledger.lost["ring: overwritten in the ring"] = 2
    report.ledger.counters["refilled"] = 3
    return report


def size(reports: Reports, stream: str) -> int:
    return sum(report.ByteSize() for report in reports.of(stream, 0))


def test_an_honest_report_stays_as_it_is() -> None:
    reports = Reports()
    reports.note("s", honest(), 0)
    (kept,) = reports.of("s", 250)
    assert kept.age_ns == 250
    kept.ClearField("age_ns")
    assert kept == honest()
    assert reports.of("other", 0) == []


def test_what_is_too_long_is_cut_field_by_field() -> None:
    long = "x" * 100_000
    told = pb.SubscriptionReport(name=long, via=long)
    told.ledger.stage = told.ledger.unit = long
    for n in range(10_000):
        told.ledger.lost[f"{n:06d}{long[:100]}"] = n
        told.ledger.counters[f"{n:06d}{long[:100]}"] = n
    reports = Reports()
    reports.note("s", pb.SubscriptionReport.FromString(told.SerializeToString() + b"\xfa\x3e\x03abc"), 0)
    (kept,) = reports.of("s", 0)
    assert (len(kept.name), len(kept.via), len(kept.ledger.stage)) == (MAX_NAME, MAX_REASON, MAX_REASON)
    assert (len(kept.ledger.lost), len(kept.ledger.counters)) == (MAX_FIGURES, MAX_FIGURES)
    assert kept.ByteSize() < 20_000
    assert b"abc" not in kept.SerializeToString(), "nor is a field kept that nobody knows"


def test_one_of_a_name_is_kept_and_old_ones_are_forgotten() -> None:
    reports = Reports()
    assert reports.note("s", honest(), 0)
    assert not reports.note("s", honest(), 100)
    assert [report.age_ns for report in reports.of("s", 100)] == [0]
    reports.forget(KEPT_NS + 100)
    assert len(reports.of("s", KEPT_NS + 100)) == 1
    reports.forget(KEPT_NS + 101)
    assert reports.of("s", 100) == []
    assert reports._size_bytes == 0


def test_all_together_are_bounded_by_number_and_by_bytes() -> None:
    reports = Reports()
    for n in range(2 * MAX_REPORTS):
        reports.note("s", pb.SubscriptionReport(name=f"{n}", via="push"), 0)
    assert [report.name for report in reports.of("s", 0)] == [f"{n}" for n in range(MAX_REPORTS, 2 * MAX_REPORTS)]
    large = honest()
    large.ledger.lost.update({f"{n:02d}" + "x" * 90: n for n in range(MAX_FIGURES)})
    for n in range(MAX_REPORTS):
        large.name = f"large {n}"
        reports.note("t", large, 0)
    assert MAX_BYTES // 2 < size(reports, "t") <= MAX_BYTES
    assert reports.of("t", 0)[-1].name == f"large {MAX_REPORTS - 1}", "the newest stay"


def test_a_node_waits_for_live_subscriptions_that_lack_something() -> None:
    reports = Reports()
    report = honest()
    report.next_number = 5
    reports.note("s", report, 0)
    assert reports.waits_for("s", 6, ALIVE_NS - 1)
    assert not reports.waits_for("s", 5, 0), "it has all"
    assert not reports.waits_for("s", 6, ALIVE_NS), "it says nothing any more"
    report.via = "ring"
    reports.note("s", report, 0)
    assert not reports.waits_for("s", 6, 0), "it reads the ring by itself"

"""The offset of another clock, from probes of made-up clocks whose truth is known: never further off than it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast.clock.offset import MAX_DRIFT, WINDOW, ClockOffset, OffsetTracker, Probe, same_clock

BEGIN_NS = 1_700_000_000_000_000_000
MS, S = 1_000_000, 1_000_000_000


class Clocks:
    """This host's clocks, and another's that is ahead by `offset_ns` and runs faster by `drift`."""

    def __init__(self, offset_ns: int, drift: float = 0.0) -> None:
        self.offset_ns = offset_ns
        self.drift = drift
        self._drifted_ns = 0.0
        self.now_ns = 0

    def pass_by(self, elapsed_ns: int) -> None:
        self.now_ns += elapsed_ns
        self._drifted_ns += elapsed_ns * self.drift

    @property
    def true_offset_ns(self) -> int:
        return self.offset_ns + round(self._drifted_ns)

    @property
    def local_ns(self) -> int:
        return BEGIN_NS + self.now_ns

    @property
    def other_ns(self) -> int:
        return self.local_ns + self.true_offset_ns

    def probe(self, there_ns: int, back_ns: int, at_work_ns: int = 1000) -> Probe:
        sent = self.local_ns
        self.pass_by(there_ns)
        received = self.other_ns
        self.pass_by(at_work_ns)
        replied = self.other_ns
        self.pass_by(back_ns)
        return Probe(sent, received, replied, self.local_ns, self.now_ns)

    def told_by(self, tracker: OffsetTracker) -> ClockOffset:
        told = tracker.offset(self.now_ns, self.local_ns)
        assert told is not None
        return told


def check(clocks: Clocks, tracker: OffsetTracker) -> ClockOffset:
    told = clocks.told_by(tracker)
    assert abs(told.offset_ns - clocks.true_offset_ns) <= told.uncertainty_ns
    return told


def test_nothing_is_known_before_the_first_probe() -> None:
    assert OffsetTracker().offset(5, 6) is None


def test_a_way_that_takes_as_long_in_both_directions_gives_the_offset_itself() -> None:
    clocks, tracker = Clocks(3_500 * MS), OffsetTracker()
    tracker.add([clocks.probe(MS, MS)])
    told = check(clocks, tracker)
    assert abs(told.offset_ns - 3_500 * MS) <= 1
    assert told.uncertainty_ns == pytest.approx(MS, rel=0.01), "half the round trip"


@pytest.mark.parametrize(("there_ns", "back_ns"), [(0, 40 * MS), (40 * MS, 0), (1 * MS, 39 * MS)])
def test_a_lopsided_way_is_wrong_by_less_than_it_says(there_ns: int, back_ns: int) -> None:
    clocks, tracker = Clocks(-7 * S), OffsetTracker()
    tracker.add([clocks.probe(there_ns, back_ns)])
    told = check(clocks, tracker)
    wrong_ns = abs(told.offset_ns - clocks.true_offset_ns)
    assert wrong_ns == pytest.approx(abs(there_ns - back_ns) / 2, abs=25_000)
    assert told.uncertainty_ns <= 20.1 * MS


def test_of_probes_sent_together_the_quickest_counts() -> None:
    clocks, tracker = Clocks(S), OffsetTracker()
    tracker.add([clocks.probe(there, back) for there, back in ((30 * MS, MS), (50_000, 60_000), (MS, 90 * MS))])
    assert check(clocks, tracker).uncertainty_ns < 200_000


def test_two_lopsided_ways_together_know_more_than_each() -> None:
    clocks, tracker = Clocks(S), OffsetTracker()
    tracker.add([clocks.probe(40 * MS, 10_000)])
    tracker.add([clocks.probe(10_000, 40 * MS)])
    assert check(clocks, tracker).uncertainty_ns < MS, "each alone would say 20 ms"


def test_the_drift_is_learnt_and_foreseen() -> None:
    clocks, tracker = Clocks(2 * S, drift=80e-6), OffsetTracker()
    for _ in range(10):
        tracker.add([clocks.probe(100_000, 120_000)])
        clocks.pass_by(30 * S)
    told = check(clocks, tracker)
    assert told.drift_ppm == pytest.approx(80, abs=5)
    assert told.uncertainty_ns < 30 * S * 25e-6, "not what an unknown drift would widen it by"
    clocks.pass_by(300 * S)
    later = check(clocks, tracker)
    assert later.age_ns - told.age_ns == 300 * S
    assert later.uncertainty_ns > told.uncertainty_ns


def test_a_clock_that_is_set_is_known_anew_at_the_next_probe() -> None:
    clocks, tracker = Clocks(0), OffsetTracker()
    for _ in range(5):
        tracker.add([clocks.probe(MS, MS)])
        clocks.pass_by(30 * S)
    clocks.offset_ns += 10 * S
    tracker.add([clocks.probe(MS, MS)])
    assert tracker.steps == 1
    assert check(clocks, tracker).uncertainty_ns < 1.1 * MS


def test_another_rate_takes_the_place_of_the_old_one() -> None:
    clocks, tracker = Clocks(0, drift=100e-6), OffsetTracker()
    for _ in range(8):
        tracker.add([clocks.probe(10_000, 10_000)])
        clocks.pass_by(30 * S)
    clocks.drift = -100e-6
    for _ in range(4):
        tracker.add([clocks.probe(10_000, 10_000)])
        clocks.pass_by(30 * S)
    assert check(clocks, tracker).drift_ppm == pytest.approx(-100, abs=10)


def test_an_answer_before_its_question_teaches_nothing() -> None:
    tracker = OffsetTracker()
    tracker.add([Probe(1000, 500, 600, 900, 10)])
    assert tracker.offset(10, 10) is None


def test_uncertainties_and_offsets_of_a_chain_add_up() -> None:
    clocks, tracker = Clocks(S), OffsetTracker()
    near = clocks.probe(MS, MS)
    far = Probe(near.sent_ns, near.received_ns, near.replied_ns, near.returned_ns, near.monotonic_ns, 5 * S, 2 * MS)
    tracker.add([far])
    told = clocks.told_by(tracker)
    assert told.offset_ns == pytest.approx(6 * S, abs=2)
    assert told.uncertainty_ns == pytest.approx(3 * MS, rel=0.01)


@settings(max_examples=150, deadline=None)
@given(
    offset_ns=st.integers(-(10**18), 10**17),
    drift=st.floats(-MAX_DRIFT, MAX_DRIFT),
    ways=st.lists(
        st.tuples(st.integers(0, 200 * MS), st.integers(0, 200 * MS), st.integers(0, 60 * S)),
        min_size=1,
        max_size=2 * WINDOW,
    ),
)
def test_whatever_the_way_the_truth_is_where_it_is_said_to_be(
    offset_ns: int, drift: float, ways: list[tuple[int, int, int]]
) -> None:
    clocks, tracker = Clocks(offset_ns, drift), OffsetTracker()
    for there_ns, back_ns, rest_ns in ways:
        tracker.add([clocks.probe(there_ns, back_ns)])
        for elapsed_ns in (0, rest_ns):
            clocks.pass_by(elapsed_ns)
            told = clocks.told_by(tracker)
            assert abs(told.offset_ns - clocks.true_offset_ns) <= told.uncertainty_ns + 1
    assert tracker.steps == 0


def test_times_are_put_on_this_hosts_clock_with_their_error() -> None:
    told = ClockOffset(2 * S, 1000, drift_ppm=100.0, drift_uncertainty_ppm=20.0, at_ns=BEGIN_NS)
    local = np.array([BEGIN_NS - 10 * S, BEGIN_NS, BEGIN_NS + 10 * S])
    theirs = local + 2 * S + ((local - BEGIN_NS) * 1e-4).astype(np.int64)
    assert told.local_ns(theirs).dtype == np.int64
    assert np.abs(told.local_ns(theirs) - local).max() <= 1
    assert told.error_ns(theirs).tolist() == pytest.approx([1000 + 200_000, 1000, 1000 + 200_000], abs=25)
    assert told.ahead_ns(BEGIN_NS + 10 * S) == 2 * S + MS


def test_the_same_clock_changes_nothing() -> None:
    times = np.array([1, BEGIN_NS, BEGIN_NS + 5])
    told = same_clock(BEGIN_NS)
    assert told.local_ns(times).tolist() == times.tolist()
    assert told.error_ns(times).tolist() == [0, 0, 0]

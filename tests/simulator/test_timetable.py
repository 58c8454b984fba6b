"""When a simulated device's packets are ready."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.sources.simulator.timetable import Timetable


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.floats(0.01, 1e7),
    jitter_s=st.sampled_from([0.0, 1e-5, 0.05, 3.0]),
    base=st.integers(0, 10_000),
    start_ns=st.integers(0, 1 << 62),
    steps_ns=st.lists(st.integers(0, 10**9), max_size=10),
)
def test_what_is_ready_is_what_is_due(
    rate_hz: float, jitter_s: float, base: int, start_ns: int, steps_ns: list[int]
) -> None:
    table = Timetable(rate_hz, jitter_s, seed=1)
    table.restart(start_ns, base)
    at, now_ns = base, start_ns
    for step_ns in steps_ns:
        now_ns += min(step_ns, int(20_000 * 1e9 / rate_hz))
        at += table.ready(at, now_ns)
        assert table.due_ns(at) > now_ns
        assert at == base or table.due_ns(at - 1) <= now_ns
        assert table.ready(at, now_ns) == 0


def test_without_jitter_they_are_a_period_apart() -> None:
    table = Timetable(100, 0, seed=0)
    table.restart(5_000, 7)
    assert [table.due_ns(k) - 5_000 for k in (7, 8, 1007)] == [0, 10_000_000, 10_000_000_000]


def test_jitter_is_bounded_repeatable_and_never_changes_the_order() -> None:
    def times(seed: int) -> list[int]:
        table = Timetable(1000, 0.004, seed)
        table.restart(0, 0)
        return [table.due_ns(k) for k in range(5000)]

    one = times(3)
    assert one == sorted(one)
    assert one == times(3) != times(4)
    late_ms = [due / 1e6 - k for k, due in enumerate(one)]
    assert min(late_ms) >= 0
    assert 3.5 < max(late_ms) <= 4.001


def test_jitter_that_reaches_far_is_the_same_from_wherever_one_looks() -> None:
    walked, leaping = (Timetable(1000, 5, seed=1) for _ in range(2))
    for table in (walked, leaping):
        table.restart(0, 0)
    times = [walked.due_ns(k) for k in range(20_000)]
    for k in (19 * 1024, 0, 9 * 1024 + 1, 5_000, 12 * 1024):
        assert leaping.due_ns(k) == times[k]


def test_a_delay_moves_everything() -> None:
    table = Timetable(1000, 0.0005, 0)
    table.restart(0, 0)
    before = [table.due_ns(k) for k in range(10)]
    table.delay(1_000_000_000)
    assert [table.due_ns(k) - 1_000_000_000 for k in range(10)] == before

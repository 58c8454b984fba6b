"""What is asked for at once, and how long an answer is waited for, on links that carry more or less."""

from __future__ import annotations

import pytest

from usbcast.receiving.pace import FIRST_BYTES, LEAST_BYTES, MOST_BYTES, QUICK_NS, SLOW_NS, FetchPace, Patience


def fetch(pace: FetchPace, times: int, bytes_per_s: float, round_trip_s: float = 0.0) -> float:
    """So many full answers over a link; how many seconds the last one took."""
    took_s = 0.0
    for _ in range(times):
        took_s = round_trip_s + pace.budget_bytes / bytes_per_s
        pace.answered(int(took_s * 1e9), pace.budget_bytes)
    return took_s


@pytest.mark.parametrize(
    ("bytes_per_s", "round_trip_s"), [(8_000, 0.1), (62_500, 0.0), (125_000, 0.0), (125_000, 0.4), (1_000_000, 0.6)]
)
def test_an_answer_takes_a_second_or_two_on_a_slow_link(bytes_per_s: float, round_trip_s: float) -> None:
    pace = FetchPace()
    took_s = fetch(pace, 20, bytes_per_s, round_trip_s)
    assert pace.budget_bytes == LEAST_BYTES or QUICK_NS <= took_s * 1e9 <= SLOW_NS


@pytest.mark.parametrize("round_trip_s", [0.0, 0.4])
def test_a_fast_link_is_used(round_trip_s: float) -> None:
    pace = FetchPace()
    fetch(pace, 4, 100e6, round_trip_s)
    assert pace.budget_bytes == MOST_BYTES


@pytest.mark.parametrize(
    ("took_ns", "size_bytes", "next_bytes"),
    [
        (QUICK_NS - 1, FIRST_BYTES, 2 * FIRST_BYTES),
        (QUICK_NS, FIRST_BYTES, FIRST_BYTES),
        (SLOW_NS, FIRST_BYTES, FIRST_BYTES),
        (SLOW_NS + 1, FIRST_BYTES, FIRST_BYTES // 2),
        (SLOW_NS + 1, 1, FIRST_BYTES // 2),
        (1, FIRST_BYTES // 2, 2 * FIRST_BYTES),
        (1, FIRST_BYTES // 2 - 1, FIRST_BYTES),
    ],
)
def test_one_answer_doubles_or_halves_what_is_asked_for_next(took_ns: int, size_bytes: int, next_bytes: int) -> None:
    pace = FetchPace()
    pace.answered(took_ns, size_bytes)
    assert pace.budget_bytes == next_bytes


def test_small_answers_say_nothing_of_the_link() -> None:
    pace = FetchPace()
    before = pace.budget_bytes
    for _ in range(100):
        pace.answered(1_000_000, 500)
    assert pace.budget_bytes == before


def test_less_is_asked_for_after_no_answer_but_something_always() -> None:
    pace = FetchPace()
    before = pace.budget_bytes
    pace.unanswered()
    assert pace.budget_bytes == before // 4
    for _ in range(10):
        pace.unanswered()
    assert pace.budget_bytes == LEAST_BYTES


def test_patience_grows_to_its_bound_and_starts_anew() -> None:
    patience = Patience(3, 20)
    waits = []
    for _ in range(5):
        waits.append(patience.wait_ns)
        patience.unanswered()
    assert waits == [3, 6, 12, 20, 20]
    patience.answered()
    assert patience.wait_ns == 3

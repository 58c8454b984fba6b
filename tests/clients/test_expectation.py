"""When a subscriber asks though nothing is known to be missing: soon enough, and not often where nothing is wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast.receiving.expectation import FIRST_NS, JITTER_NS, LEARN_FROM, MOST_NS, REPLACE_NS, REST_NS, Expectation
from usbcast_schemas.contract import TAIL_NS

MS = 1_000_000
SECOND = 1000 * MS


def learnt(interval_ns: int) -> tuple[Expectation, int]:
    """An expectation of a stream with this interval, and the time of the last message."""
    expectation = Expectation()
    expectation.learn(0, 0)
    expectation.learn(LEARN_FROM * interval_ns, LEARN_FROM)
    return expectation, LEARN_FROM * interval_ns


@pytest.mark.parametrize(
    ("interval_ns", "rests", "quiet_ns"),
    [
        (MS, False, MS),
        (MS, True, MS),
        (40 * MS, False, 40 * MS),
        (200 * MS, False, TAIL_NS),
        (200 * MS, True, 200 * MS),
        (60 * SECOND, True, REST_NS),
    ],
)
def test_the_first_question_comes_when_something_should_have_come(interval_ns: int, rests: bool, quiet_ns: int) -> None:
    expectation, heard_ns = learnt(interval_ns)
    late_ns = expectation.due_ns(heard_ns, rests=rests) - heard_ns - quiet_ns
    assert FIRST_NS <= late_ns < FIRST_NS + JITTER_NS <= 20 * MS


def test_before_anything_is_learnt_a_batch_is_followed_within_the_rest() -> None:
    assert TAIL_NS <= Expectation().due_ns(0, rests=False) < TAIL_NS + 20 * MS
    assert REST_NS <= Expectation().due_ns(0, rests=True) < REST_NS + 20 * MS


def test_the_interval_is_measured_anew_all_the_time() -> None:
    expectation, heard_ns = learnt(MS)
    expectation.learn(heard_ns + 30 * MS * LEARN_FROM, 2 * LEARN_FROM)
    assert expectation.due_ns(0, rests=False) >= 30 * MS + FIRST_NS


def test_questions_follow_closely_while_they_bring_something_and_ever_more_rarely_else() -> None:
    expectation, heard_ns = learnt(MS)
    now_ns = expectation.due_ns(heard_ns, rests=False)
    expectation.asked(now_ns, heard_ns, rests=False)
    distances = []
    for brought in (True, True, False, False, False, False, False, False, True):
        expectation.answered(now_ns, brought=brought)
        again_ns = expectation.due_ns(heard_ns, rests=False)
        distances.append((again_ns - now_ns) // FIRST_NS)
        now_ns = again_ns
    assert distances == [1, 1, 2, 4, 8, 16, 16, 16, 1]


def test_an_empty_answer_at_the_end_of_a_burst_waits_for_the_notification_of_that_end() -> None:
    expectation, heard_ns = learnt(MS)
    now_ns = expectation.due_ns(heard_ns, rests=False)
    expectation.asked(now_ns, heard_ns, rests=False)
    expectation.answered(now_ns + MS, brought=False)
    assert expectation.due_ns(heard_ns, rests=False) > heard_ns + TAIL_NS + FIRST_NS


def margin_ns(expectation: Expectation, heard_ns: int) -> int:
    return expectation.due_ns(heard_ns, rests=False) - heard_ns - MS


def test_a_useless_alarm_doubles_the_margin_time_halves_it_and_use_resets_it() -> None:
    expectation, heard_ns = learnt(MS)
    margins = []
    for _ in range(6):  # alarms that end with the first answer
        now_ns = expectation.due_ns(heard_ns, rests=False)
        expectation.asked(now_ns, heard_ns, rests=False)
        expectation.answered(now_ns, brought=True)
        heard_ns = now_ns + MS
        expectation.due_ns(heard_ns, rests=False)
        expectation.learn(heard_ns, 0)
        expectation.learn(heard_ns + LEARN_FROM * MS, LEARN_FROM)
        margins.append(margin_ns(expectation, heard_ns) // FIRST_NS)
    assert margins == [2, 4, 8, 16, 16, 16]
    expectation.learn(heard_ns + 6 * SECOND, LEARN_FROM)
    assert margin_ns(expectation, heard_ns) // FIRST_NS == 8
    now_ns = heard_ns + SECOND
    expectation.asked(now_ns, heard_ns, rests=False)
    expectation.answered(now_ns, brought=True)
    expectation.answered(now_ns + 20 * MS, brought=True)
    heard_ns = now_ns + 30 * MS
    assert margin_ns(expectation, heard_ns) // FIRST_NS == 1


def test_a_connection_that_stays_mute_is_replaced_and_then_more_rarely() -> None:
    expectation, heard_ns = learnt(MS)
    assert not expectation.is_mute(heard_ns + 10 * SECOND, heard_ns)  # nobody has asked: this receiver was not looking
    expectation.asked(heard_ns + 20 * MS, heard_ns, rests=False)
    now_ns, moments = heard_ns, []
    while now_ns < heard_ns + 300 * SECOND:
        now_ns += 100 * MS
        if expectation.is_mute(now_ns, heard_ns):
            moments.append((now_ns - heard_ns) // SECOND)
            expectation.replaced(now_ns)
    assert moments[:4] == [3, 9, 21, 45]
    assert moments[-1] - moments[-2] <= REPLACE_NS[1] // SECOND
    assert not expectation.is_mute(now_ns, now_ns)


@given(
    gaps_ms=st.lists(st.floats(0.05, 400), min_size=10, max_size=400),
    jitter_ms=st.floats(0, 200),
    seed=st.integers(0, 2**32),
)
def test_a_network_with_jitter_and_a_device_without_rhythm_cause_few_fetches(
    gaps_ms: list[float], jitter_ms: float, seed: int
) -> None:
    """Each message is late by up to `jitter_ms`. Some questions teach how late; then there are few."""
    chance = random.Random(seed)
    expectation = Expectation()
    heard_ns = now_ns = asked = 0
    sent_ns = 0.0
    for news, gap_ms in enumerate(gaps_ms, 1):
        sent_ns += gap_ms * MS
        come_ns = max(heard_ns, int(sent_ns + chance.uniform(0, jitter_ms) * MS))
        while (due_ns := expectation.due_ns(heard_ns, rests=False)) < come_ns:
            now_ns = max(now_ns, due_ns)
            expectation.asked(now_ns, heard_ns, rests=False)
            expectation.answered(now_ns, brought=False)
            asked += 1
        heard_ns = now_ns = come_ns
        expectation.due_ns(heard_ns, rests=False)
        expectation.learn(now_ns, news)
    alarms_ns = max(now_ns, 1)
    # A pause of some 600 ms holds at most 7 questions of growing distance; and the margin grows with each that was of no use.
    assert asked <= 40 + 12 * alarms_ns / SECOND


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500)), max_size=200))
def test_whatever_comes_the_next_question_is_neither_at_once_again_nor_never(steps: list[tuple[int, int]]) -> None:
    expectation = Expectation()
    now_ns = heard_ns = news = 0
    for kind, wait_ms in steps:
        now_ns += wait_ms * MS
        if kind == 0:
            heard_ns, news = now_ns, news + 1
        elif kind == 1 and now_ns >= expectation.due_ns(heard_ns, rests=bool(wait_ms % 2)):
            expectation.asked(now_ns, heard_ns, rests=bool(wait_ms % 2))
            assert now_ns + FIRST_NS <= expectation.due_ns(heard_ns, rests=False)
        elif kind == 2:
            expectation.answered(now_ns, brought=bool(wait_ms % 2))
        else:
            expectation.learn(now_ns, news)
        assert expectation.due_ns(heard_ns, rests=True) <= max(now_ns, heard_ns) + REST_NS + MOST_NS + JITTER_NS

"""When notifications go."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from usbcast_broker.stream.notification_schedule import HEARTBEAT_NS, NotificationPacer, TailPacer
from usbcast_schemas.contract import NOTIFICATION_INTERVAL_NS, TAIL_NS


def test_the_first_goes_at_once_and_the_next_after_the_interval() -> None:
    pacer = NotificationPacer(interval_ns=10, heartbeat_ns=100)
    assert pacer.due_at_ns == 0
    assert [pacer.take(ns) for ns in (3, 4, 102, 103)] == [True, False, False, True], "without news, the heartbeat"
    pacer.mark_new()
    assert (pacer.due_at_ns, pacer.heartbeat_at_ns) == (113, 203)
    assert [pacer.take(ns) for ns in (112, 113, 114)] == [False, True, False]
    assert pacer.due_at_ns == pacer.heartbeat_at_ns == 213


def test_news_after_a_pause_goes_at_once() -> None:
    pacer = NotificationPacer(interval_ns=10, heartbeat_ns=100)
    pacer.take(0)
    pacer.mark_new()
    assert pacer.take(50)


def test_defaults_are_the_contract() -> None:
    pacer = NotificationPacer()
    pacer.take(5)
    assert pacer.due_at_ns == 5 + HEARTBEAT_NS
    pacer.mark_new()
    assert pacer.due_at_ns == 5 + NOTIFICATION_INTERVAL_NS


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80))
def test_never_closer_than_the_interval_never_later_than_due(steps: list[tuple[int, bool]]) -> None:
    """Asked whenever something happens and whenever it says that it is due, as the publisher does."""
    pacer = NotificationPacer(interval_ns=10, heartbeat_ns=100)
    now, sent, unsent_since = 0, [], None
    for step, news in steps:
        end = now + step
        while pacer.due_at_ns <= end:
            now = max(now, pacer.due_at_ns)
            if pacer.take(now):
                sent.append(now)
                unsent_since = None
        now = end
        if news:
            pacer.mark_new()
            unsent_since = now if unsent_since is None else unsent_since
        if pacer.take(now):
            sent.append(now)
            unsent_since = None
        assert unsent_since is None or now - unsent_since < 10, "news waits no longer than the interval"
        assert not sent or now - sent[-1] < 100, "the heartbeat"
    assert all(b - a >= 10 for a, b in pairwise(sent))


def test_those_who_get_the_data_are_told_when_it_rests() -> None:
    pacer = TailPacer(rest_ns=10, heartbeat_ns=100)
    assert pacer.take(0), "at first"
    assert not pacer.take(99)
    for now in range(1, 96, 5):
        pacer.mark_new(now)
        assert not pacer.take(now + 4), "it is moving"
    assert pacer.due_at_ns == 100, "a heartbeat all the same"
    assert pacer.take(100)
    pacer.mark_new(101)
    assert [pacer.take(ns) for ns in (110, 111, 112, 210, 211)] == [False, True, False, False, True]
    pacer.mark_new(212)
    pacer.at_once()
    assert [pacer.take(ns) for ns in (212, 222)] == [True, False], "once, though there were news"


def test_the_rest_is_that_of_the_contract() -> None:
    pacer = TailPacer()
    pacer.take(5)
    assert pacer.due_at_ns == 5 + HEARTBEAT_NS
    pacer.mark_new(7)
    assert pacer.due_at_ns == 7 + TAIL_NS

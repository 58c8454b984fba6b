"""Whose request is answered next. Times are handed in."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from usbcast_broker.access.rate_limit import HALF_LIFE_NS, RateLimiter
from usbcast_broker.serving.turns import MAX_OF_ONE, MAX_WAITING, MAX_WORK_NS, Turns

MS = 1_000_000
S = 1000 * MS


def drain(turns: Turns[str], now_ns: int = 0) -> list[str]:
    found = []
    while (request := turns.next(now_ns)) is not None:
        found.append(request)
    return found


def test_connections_take_turns_and_each_keeps_its_order() -> None:
    turns: Turns[str] = Turns(lambda _: -math.inf)
    assert turns.next(0) is None
    for n in range(3):
        turns.add(b"a", f"a{n}")
    turns.add(b"b", "b0")
    assert drain(turns) == ["a0", "b0", "a1", "a2"]
    assert turns.due_ns() is None


def test_the_connection_with_the_least_work_done_comes_first() -> None:
    rate_limiter = RateLimiter(1000)
    turns: Turns[str] = Turns(rate_limiter.forgotten_ns)
    for connection, work_ns in ((b"much", 30 * MS), (b"some", 20 * MS), (b"none", 0)):
        rate_limiter.spend(connection, "a", 0)
        if work_ns:
            rate_limiter.worked(connection, work_ns, 0)
        turns.add(connection, connection.decode())
    assert drain(turns, MS) == ["none", "some", "much"]
    rate_limiter.worked(b"some", 20 * MS, HALF_LIFE_NS)
    for connection in (b"some", b"much"):
        turns.add(connection, connection.decode())
    assert drain(turns, HALF_LIFE_NS) == ["much", "some"], "work of long ago counts less"


def test_one_that_asks_for_much_delays_others_by_one_answer() -> None:
    rate_limiter = RateLimiter(1000)
    turns: Turns[bytes] = Turns(rate_limiter.forgotten_ns)
    hostile = [b"h%d" % n for n in range(40)]
    for connection in (*hostile, b"honest"):
        rate_limiter.spend(connection, "a", 0)
    now_ns = 0
    answered: Counter[bytes] = Counter()
    waited = 0
    for turn in range(1000):
        for connection in hostile:
            while turns.add(connection, connection):
                pass
        asks = turn > 100 and turn % 10 == 0
        if asks:
            turns.add(b"honest", b"honest")
        connection = turns.next(now_ns) or b""
        if asks:
            waited += connection != b"honest"
        answered[connection] += 1
        work_ns = MS if connection == b"honest" else 5 * MS
        rate_limiter.worked(connection, work_ns, now_ns)
        now_ns += work_ns
    assert waited == 0
    assert max(answered[one] for one in hostile) - min(answered[one] for one in hostile) <= 1


def test_a_connection_beyond_its_share_waits_though_nobody_else_asks() -> None:
    rate_limiter = RateLimiter(1000)
    turns: Turns[str] = Turns(rate_limiter.forgotten_ns)
    rate_limiter.spend(b"a", "a", 0)
    rate_limiter.worked(b"a", 2 * MAX_WORK_NS, 0)
    turns.add(b"a", "a")
    assert turns.next(0) is None
    assert turns.due_ns() == pytest.approx(HALF_LIFE_NS)
    assert turns.next(HALF_LIFE_NS + 1) == "a"


def test_one_connection_gets_a_quarter_of_a_processor_in_the_long_run() -> None:
    rate_limiter = RateLimiter(1000)
    turns: Turns[str] = Turns(rate_limiter.forgotten_ns)
    rate_limiter.spend(b"a", "a", 0)
    now_ns = worked_ns = 0
    while now_ns < 60 * S:
        turns.add(b"a", "a")
        if turns.next(now_ns) is None:
            now_ns += MS
        else:
            rate_limiter.worked(b"a", 5 * MS, now_ns)
            now_ns += 5 * MS
            worked_ns += 5 * MS
    assert worked_ns / now_ns == pytest.approx(0.25, abs=0.02)


def test_a_cut_connection_is_forgotten() -> None:
    turns: Turns[str] = Turns(lambda _: -math.inf)
    turns.add(b"a", "a")
    turns.add(b"b", "b")
    turns.forget(b"a")
    turns.forget(b"c")
    assert drain(turns) == ["b"]


def test_what_waits_is_bounded_by_connection_and_in_all() -> None:
    turns: Turns[int] = Turns(lambda _: -math.inf)
    assert [turns.add(b"a", n) for n in range(MAX_OF_ONE + 2)] == [True] * MAX_OF_ONE + [False] * 2
    taken = sum(turns.add(b"%d" % (n // MAX_OF_ONE), n) for n in range(2 * MAX_WAITING))
    assert taken == MAX_WAITING - MAX_OF_ONE
    turns.forget(b"a")
    assert turns.add(b"late", 0), "there is room again"


def test_each_request_that_is_taken_or_forgotten_makes_room_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbcast_broker.serving.turns.MAX_WAITING", 4)
    turns: Turns[int] = Turns(lambda _: -math.inf)
    assert [turns.add(b"a", n) for n in range(6)] == [True] * 4 + [False] * 2
    assert turns.next(0) == 0
    assert [turns.add(b"b", n) for n in range(2)] == [True, False]
    turns.forget(b"a")
    turns.forget(b"nobody")
    assert [turns.add(b"c", n) for n in range(4)] == [True] * 3 + [False]
    assert drain(turns) == [0, 0, 1, 2]

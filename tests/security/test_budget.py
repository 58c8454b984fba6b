"""The budget of requests by itself."""

from __future__ import annotations

from collections import Counter

from usbcast_broker.access.rate_limit import (
    MAX_ACCOUNTS,
    PENALISED_DEBT,
    PENALISED_TOKENS,
    PENALTY_NS,
    RateLimiter,
    Verdict,
)

S = 1_000_000_000


def spend(rate_limiter: RateLimiter, connection: bytes, times: int, now_ns: int, party: str = "a") -> Counter[Verdict]:
    return Counter(rate_limiter.spend(connection, party, now_ns) for _ in range(times))


def test_so_many_at_once_then_wait_then_cut() -> None:
    rate_limiter = RateLimiter(100)
    assert spend(rate_limiter, b"x", 100, 0) == {Verdict.GRANTED: 100}
    assert spend(rate_limiter, b"x", 100, 0) == {Verdict.WAIT: 100}
    assert spend(rate_limiter, b"x", 3, 0) == {Verdict.CUT: 1, Verdict.IGNORED: 2}
    assert spend(rate_limiter, b"y", 100, 0, "b") == {Verdict.GRANTED: 100}, "others have their own"


def test_who_keeps_to_the_rate_is_never_told_to_wait() -> None:
    rate_limiter = RateLimiter(100)
    assert spend(rate_limiter, b"x", 100, 0) == {Verdict.GRANTED: 100}
    for tenth in range(1, 100):
        assert spend(rate_limiter, b"x", 10, tenth * S // 10) == {Verdict.GRANTED: 10}


def test_who_waits_is_granted_again() -> None:
    rate_limiter = RateLimiter(100)
    spend(rate_limiter, b"x", 150, 0)
    assert spend(rate_limiter, b"x", 10, S // 10)[Verdict.GRANTED] == 0, "it is still in debt"
    assert spend(rate_limiter, b"x", 10, 2 * S) == {Verdict.GRANTED: 10}


def test_connecting_again_is_no_way_around_it() -> None:
    rate_limiter = RateLimiter(1000)
    spend(rate_limiter, b"1", 2001, 0)
    again = spend(rate_limiter, b"2", 1000, S)
    assert again[Verdict.GRANTED] == PENALISED_TOKENS
    assert again[Verdict.WAIT] == PENALISED_DEBT
    assert again[Verdict.CUT] == 1
    assert spend(rate_limiter, b"3", 100, S, "b") == {Verdict.GRANTED: 100}, "only for the same party"
    assert spend(rate_limiter, b"4", 100, S + PENALTY_NS + 1) == {Verdict.GRANTED: 100}, "and only for a while"


def test_what_is_remembered_has_a_bound() -> None:
    rate_limiter = RateLimiter(10)
    for n in range(2 * MAX_ACCOUNTS):
        spend(rate_limiter, str(n).encode(), 30, 0, f"party {n}")
    assert len(rate_limiter._accounts) == MAX_ACCOUNTS
    assert len(rate_limiter._penalties) == 1000

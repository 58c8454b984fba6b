"""When a turn is due: pure, times are handed in."""

from __future__ import annotations

from usbcast_broker.stream.coalescing import BUSY_NS, CLOSE_NS, LEFT_NS, READING_SHARE, Coalescer


def test_single_packets_are_handled_at_once() -> None:
    coalescer = Coalescer()
    for now_ns in range(10**9, 10**9 + 10**7, 100_000):  # at 10,000/s, each taking 20 µs
        assert now_ns >= coalescer.next_ns
        coalescer.turned(now_ns, now_ns + 20_000)


def test_the_longer_a_turn_took_the_later_is_the_next_within_bounds() -> None:
    coalescer = Coalescer()
    for took_ns, gap_ns in ((0, CLOSE_NS), (20_000, CLOSE_NS), (50_000, READING_SHARE * 50_000), (10**7, LEFT_NS)):
        coalescer.turned(10**9 - took_ns, 10**9)
        assert coalescer.next_ns - 10**9 == gap_ns


def test_a_stream_is_busy_for_a_while_after_a_turn() -> None:
    coalescer = Coalescer()
    assert not coalescer.is_busy(0)
    coalescer.turned(0, 10)
    assert coalescer.is_busy(10 + BUSY_NS - 1)
    assert not coalescer.is_busy(10 + BUSY_NS)

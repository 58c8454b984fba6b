"""The device's counter: exact loss, wraps, where packets are split, and what is not claimed as loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_broker.flow import Lost, Packets
from usbcast_broker.framing import CounterTracker
from usbcast_broker.framing.counter import ANEW, REASON
from usbcast_schemas.profile import Counter
from usbcast_schemas.v1 import usbcast_pb2 as pb

MS = 1_000_000
SIZE = 11


def packets_of(values: Sequence[int], width: int, byte_order: Any = "little", *, varying: bool = False) -> Packets:
    bodies = [
        b"??" + value.to_bytes(width, byte_order) + bytes(SIZE - 2 - width + (i % 3 if varying else 0))
        for i, value in enumerate(values)
    ]
    ends = tuple(sum(map(len, bodies[: i + 1])) for i in range(len(bodies))) if varying else ()
    return Packets(b"".join(bodies), len(values), 0 if varying else SIZE, ends)


def told(parts: Sequence[Packets | Lost], width: int, byte_order: Any = "little") -> list[int | str]:
    """Counter values and, as texts, losses, in order."""
    found: list[int | str] = []
    for part in parts:
        if isinstance(part, Lost):
            assert (part.stage, part.size_bytes) == (pb.STAGE_DEVICE, 0)
            assert part.reason in (REASON, ANEW)
            found.append(f"{'>=' if part.at_least else ''}{part.packets}{' anew' if part.reason == ANEW else ''}")
            continue
        start = 0
        for i in range(part.count):
            found.append(int.from_bytes(part.payload[start + 2 : start + 2 + width], byte_order))
            start = part.ends[i] if part.ends else start + part.packet_size
        assert start == len(part.payload)
    return found


def tracker(
    width: int = 4, wrap: int | None = None, rate_hz: float = 0.0, byte_order: Any = "little"
) -> CounterTracker:
    return CounterTracker(Counter(offset=2, width=width, wrap=wrap, byte_order=byte_order), rate_hz)  # type: ignore[arg-type]


# Each item is (milliseconds, counter values); "restart" stands for a device that was away.
Story = list[Any]


@pytest.mark.parametrize(
    ("counter", "story", "expected", "counters"),
    [
        pytest.param({}, [(0, [7, 8, 9])], [7, 8, 9], {}, id="whatever the first one is"),
        pytest.param({}, [(0, [7, 9, 10, 14])], [7, "1", 9, 10, "3", 14], {}, id="inside an item"),
        pytest.param({}, [(0, [7]), (10, [8]), (20, [12])], [7, 8, "3", 12], {}, id="between items"),
        pytest.param({}, [(0, [0, 2, 4])], [0, "1", 2, "1", 4], {}, id="each one"),
        pytest.param({"width": 1}, [(0, [254, 255, 0, 1])], [254, 255, 0, 1], {}, id="wraps"),
        pytest.param({"width": 1}, [(0, [254, 2])], [254, "3", 2], {}, id="loss over the wrap"),
        pytest.param({"width": 4}, [(0, [2**32 - 1, 1])], [2**32 - 1, "1", 1], {}, id="loss over a wide wrap"),
        pytest.param({"width": 8}, [(0, [2**64 - 1, 1])], [2**64 - 1, "1", 1], {}, id="loss over the widest wrap"),
        pytest.param({"width": 2, "wrap": 1000}, [(0, [998, 999, 0, 4])], [998, 999, 0, "3", 4], {}, id="own wrap"),
        pytest.param({"width": 1, "wrap": 2}, [(0, [0, 1, 1, 0])], [0, 1, "1", 1, 0], {}, id="a bit that toggles"),
        pytest.param({}, [(0, [7, 7, 7, 8])], [7, 7, 7, 8], {"repeated": 2}, id="the same again"),
        pytest.param({"width": 1}, [(0, [7, 7]), (1, [8])], [7, 7, 8], {"repeated": 1}, id="the same, short counter"),
        pytest.param(
            {}, [(0, [50_000, 0, 1])], [50_000, ">=0 anew", 0, 1], {"renumbered": 1}, id="began anew by itself"
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [3_000_000_000]), (10, [0, 1])],
            [3_000_000_000, ">=0 anew", 0, 1],
            {"renumbered": 1},
            id="further than the device can have come",
        ),
        pytest.param(
            {"width": 1, "rate_hz": 100.0}, [(0, [200]), (10, [100])], [200, "155", 100], {}, id="short: forward"
        ),
        pytest.param(
            {"width": 1, "rate_hz": 100.0}, [(0, [10]), (3000, [20])], [10, ">=9", 20], {}, id="at least, after silence"
        ),
        pytest.param({"width": 1, "rate_hz": 100.0}, [(0, [10]), (1000, [20])], [10, "9", 20], {}, id="exact, in time"),
        pytest.param(
            {"width": 1, "rate_hz": 100.0},
            [(0, [10]), (3000, [11])],
            [10, 11],
            {"silences that could hide a wrap": 1},
            id="a wrap might hide in a silence",
        ),
        pytest.param(
            {"width": 1, "rate_hz": 1000.0},
            [(0, [0]), (300, [*range(1, 200), 210])],
            [0, *range(1, 200), "10", 210],
            {},
            id="what came uses up the time",
        ),
        pytest.param(
            {"width": 1},
            [*((i * 10, [i % 256]) for i in range(200)), (3000, [210])],
            [*range(200), "10", 210],
            {},
            id="measured rate: exact",
        ),
        pytest.param(
            {"width": 1},
            [*((i * 10, [i % 256]) for i in range(200)), (6000, [210])],
            [*range(200), ">=10", 210],
            {},
            id="measured rate: at least",
        ),
        pytest.param(
            {"width": 1, "rate_hz": 1000.0},
            [*((i * 10, [i % 256]) for i in range(200)), (2390, [210])],
            [*range(200), ">=10", 210],
            {},
            id="nominal rate above the measured one",
        ),
        pytest.param({"width": 1}, [(0, [0]), (1, [5])], [0, ">=4", 5], {}, id="no rate known yet, short counter"),
        pytest.param(
            {},
            [(0, [9]), (100, [0]), (1050, [9]), (1101, [0, 9])],
            [9, ">=0 anew", 0, "8", 9, ">=0 anew", 0, "8", 9],
            {"renumbered": 2},
            id="anew once more, a second later",
        ),
        pytest.param(
            {},
            [(0, [9]), (100, [0]), (101, [9]), (102, [0, 9])],
            [9, ">=0 anew", 0, "8", 9, 0, "8", 9],
            {"renumbered": 2},
            id="anew again and again is told once a second",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [1000]), "restart", (2000, [1100])],
            [1000, "99", 1100],
            {},
            id="away, went on counting",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [10]), "restart", (2000, [100])],
            [10, ">=89", 100],
            {},
            id="away, went on counting or began anew",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [500]), "restart", (2000, [0, 1, 3])],
            [500, ">=0 anew", 0, 1, "1", 3],
            {"renumbered": 1},
            id="away, began anew",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [500]), "restart", (2000, [40, 41])],
            [500, ">=40 anew", 40, 41],
            {"renumbered": 1},
            id="away, began anew and came to 40",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [10]), "restart", (2000, [3_000_000_000])],
            [10, ">=0 anew", 3_000_000_000],
            {"renumbered": 1},
            id="away, began anew anywhere",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [10]), "restart", (2000, [5000])],
            [10, ">=4989", 5000],
            {},
            id="away, further than the time explains",
        ),
        pytest.param(
            {"rate_hz": 2000.0},
            [(0, range(1000)), (600, range(1000, 1400)), "restart", (700, [2200])],
            [*range(1400), "800", 2200],
            {},
            id="away behind a backlog: what the device had stored",
        ),
        pytest.param(
            {"rate_hz": 2000.0},
            [(0, [4999]), (2, [5000]), "restart", (100, [5800])],
            [4999, 5000, ">=799", 5800],
            {},
            id="away without a backlog: further than the time explains",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [900]), "restart", "restart", (2000, [1000])],
            [900, "99", 1000],
            {},
            id="away twice",
        ),
        pytest.param(
            {"rate_hz": 100.0},
            [(0, [900]), "restart", (100, [900])],
            [900, 900],
            {"repeated": 1},
            id="away, the same again",
        ),
        pytest.param(
            {"rate_hz": 100.0, "width": 1},
            [(0, [200]), "restart", (1000, [100])],
            [200, ">=100", 100],
            {},
            id="away, a short counter on or anew",
        ),
        pytest.param(
            {"rate_hz": 100.0, "width": 1},
            [(0, [100]), "restart", (900, [200])],
            [100, "99", 200],
            {},
            id="away, a short counter went on",
        ),
        pytest.param(
            {"rate_hz": 100.0, "width": 1},
            [(0, [0]), "restart", (900, [0])],
            [0, ">=0", 0],
            {},
            id="away, the same again or anew",
        ),
        pytest.param(
            {"rate_hz": 100.0}, [(0, [10]), "restart", (2000, [11])], [10, 11], {}, id="away, nothing missing"
        ),
        pytest.param(
            {"width": 1, "rate_hz": 100.0},
            [(0, [10]), "restart", (9000, [30])],
            [10, ">=19", 30],
            {},
            id="away for longer than a wrap",
        ),
        pytest.param(
            {"width": 1, "rate_hz": 100.0},
            [(0, [10]), "restart", (9000, [11])],
            [10, ">=0", 11],
            {},
            id="away for longer than a wrap, nothing missing or a whole wrap",
        ),
        pytest.param({}, ["restart", (0, [9])], [9], {}, id="away before the first"),
    ],
)
def test_stories(counter: dict[str, Any], story: Story, expected: list[int | str], counters: dict[str, int]) -> None:
    following = tracker(**counter)
    width = counter.get("width", 4)
    found: list[int | str] = []
    for event in story:
        if event == "restart":
            following.restart()
        else:
            at_ms, values = event
            found += told(following.track(packets_of(values, width), at_ms * MS), width)
    assert found == expected
    assert following.counters == counters


def test_packets_in_order_are_handed_on_untouched() -> None:
    following = tracker()
    for first, count in ((0, 1), (1, 5), (6, 500)):
        item = packets_of(range(first, first + count), 4)
        (same,) = following.track(item, 0)
        assert same is item


@st.composite
def counted(draw: st.DrawFn) -> tuple[int, int, str, list[int]]:
    width = draw(st.sampled_from([1, 2, 4, 8]))
    wrap = draw(st.sampled_from([1 << (8 * width), 200]))
    value = draw(st.integers(0, wrap - 1))
    values = []
    for step in draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2, 3, 90, -1, -70, 1 << 20]), max_size=80)):
        values.append(value)
        value = (value + step) % wrap
    return width, wrap, draw(st.sampled_from(["little", "big"])), values


@given(counted(), st.data())
def test_many_at_once_or_one_by_one_or_varying_in_size_is_the_same(
    story: tuple[int, int, str, list[int]], data: st.DataObject
) -> None:
    width, wrap, byte_order, values = story
    outcomes = []
    places = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    at_once = [values[a:b] for a, b in zip([0, *places], [*places, len(values)], strict=True) if b > a]
    for groups, varying in ((at_once, False), ([[value] for value in values], False), (at_once, True)):
        following = tracker(width, wrap, 100.0, byte_order)
        found: list[int | str] = []
        for group in groups:
            item = packets_of(group, width, byte_order, varying=varying)
            found += told(following.track(item, 0), width, byte_order)
        outcomes.append((found, following.counters))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert [value for value in outcomes[0][0] if isinstance(value, int)] == values


@pytest.mark.parametrize("count", [3, 100])
def test_values_beyond_the_wrap_are_counted(count: int) -> None:
    following = tracker(1, 10)
    values = [i % 10 for i in range(count)]
    values[1] += 10
    assert told(following.track(packets_of(values, 1), 0), 1) == values
    assert following.counters == {"counters beyond the wrap": 1}


def test_packets_too_short_for_a_counter_are_counted_and_skipped() -> None:
    following = tracker(1)
    (same,) = following.track(Packets(b"??\x01" + b"??" + b"??\x02", 3, 0, (3, 5, 8)), 0)
    assert isinstance(same, Packets)
    assert following.counters == {"packets without a counter": 1}


def test_clock_that_does_not_advance_is_no_silence() -> None:
    following = tracker(1, rate_hz=100.0)
    following.track(packets_of([1], 1), 9_000 * MS)
    assert told(following.track(packets_of([4], 1), 0), 1) == ["2", 4]

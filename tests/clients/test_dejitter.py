"""Smoothed arrival times: the line through what arrived, found again from jittered arrivals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast.clock.dejitter import Dejitter, dejitter_of

PERIOD_NS = 2_000_000
BEGIN_NS = 1_700_000_000_000_000_000


def arrivals(count: int, period_ns: float = PERIOD_NS, jitter_ns: float = 4e6, seed: int = 1) -> np.ndarray:
    """When each packet arrived: at a steady rate, each later by up to the jitter."""
    random = np.random.default_rng(seed)
    return BEGIN_NS + (np.arange(count) * period_ns + random.random(count) * jitter_ns).astype(np.int64)


def learned(times: np.ndarray, nominal_hz: float = 500.0, first: int = 0) -> Dejitter:
    dejitter = Dejitter(nominal_hz)
    for sequence, realtime_ns in enumerate(times, first):
        dejitter.update(sequence, int(realtime_ns))
    return dejitter


def test_without_jitter_the_times_are_the_arrivals() -> None:
    times = arrivals(1000, jitter_ns=0)
    found = learned(times).times_ns(0, 1000)
    assert found.dtype == np.int64
    assert np.abs(found - times).max() < 1000


@pytest.mark.parametrize("first", [0, 10**12])
def test_jitter_is_smoothed_away(first: int) -> None:
    times = arrivals(5000)
    found = learned(times, first=first).times_ns(first + 4000, 1000)
    ideal = BEGIN_NS + 2e6 + np.arange(4000, 5000) * PERIOD_NS  # the middle of the jitter
    assert np.abs(found - ideal).max() < 0.4e6
    assert np.diff(found).std() < 0.01 * np.diff(times).std()


def test_a_rate_that_is_not_the_nominal_one_is_found() -> None:
    found = learned(arrivals(5000, period_ns=2.02e6)).times_ns(4900, 100)
    assert np.abs(np.diff(found) - 2.02e6).max() < 0.01e6


def test_a_device_that_came_back_begins_a_line_of_its_own() -> None:
    dejitter = learned(arrivals(2000))
    dejitter.restart()
    later = BEGIN_NS + 3_600 * 10**9
    for n in range(100):
        dejitter.update(2000 + n, later + n * PERIOD_NS)
    found = dejitter.times_ns(2000, 100)
    assert np.abs(found - (later + np.arange(100) * PERIOD_NS)).max() < 1000


def test_one_arrival_is_a_line_of_the_nominal_rate() -> None:
    dejitter = Dejitter(500.0)
    dejitter.update(10, BEGIN_NS)
    assert dejitter.times_ns(8, 4).tolist() == [BEGIN_NS + k * PERIOD_NS for k in (-2, -1, 0, 1)]


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, 1e-200, 5e-324, math.inf, math.nan, 1e300])
def test_a_rate_that_cannot_be_one_is_not_known(rate_hz: float) -> None:
    assert dejitter_of(rate_hz) is None


@pytest.mark.parametrize("jump", [10**9, 2**62, 2**64 - 100])
def test_after_a_jump_over_which_all_is_forgotten_the_line_begins_anew(jump: int) -> None:
    line = dejitter_of(500.0)
    assert line is not None
    for n in range(10):
        line.update(n, BEGIN_NS + n * PERIOD_NS)
    for n in range(10):
        line.update(jump + n, BEGIN_NS + n * PERIOD_NS)
    found = line.times_ns(jump, 10)
    assert np.abs(found - (BEGIN_NS + np.arange(10) * PERIOD_NS)).max() < 1000


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)), max_size=8), st.floats())
def test_no_figures_make_it_fall_over(arrivals: list[tuple[int, int]], rate_hz: float) -> None:
    line = dejitter_of(rate_hz)
    for sequence, realtime_ns in arrivals if line is not None else ():
        line.update(sequence, realtime_ns)

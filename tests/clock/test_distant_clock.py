"""Subscriptions to a node under another clock: a process with a really shifted one, over ways that delay and lean to one side."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import usbcast
from tests.support.distant import distant_node
from tests.support.fake_node import STREAM, FakeNode
from tests.support.nodes import eventually, serving
from tests.support.proxy import DelayingProxy
from usbcast_schemas.errors import ClockUnknown

pytestmark = pytest.mark.slow

S, MS = 1_000_000_000, 1_000_000


def test_on_the_reading_host_itself_the_offset_is_exactly_zero() -> None:
    with serving(rate_hz=1000) as served, served.subscribe("push", start=0) as stream:
        assert stream.clock is None, "nothing is known before it is connected"
        batch = next(iter(stream))
        known = stream.clock
        assert known is not None
        assert (known.offset_ns, known.uncertainty_ns, known.drift_ppm) == (0, 0, 0.0)
        assert batch.times_local_ns.tolist() == batch.times_ns.tolist()
        assert not batch.times_local_error_ns.any()
        assert not [thread for thread in threading.enumerate() if thread.name == "usbcast-clock"]


@pytest.mark.parametrize("shift_s", [3.5, -7200])
def test_a_shifted_clock_is_known_and_taken_off(shift_s: float) -> None:
    with distant_node(clock=f"{shift_s:+}") as (_, endpoint), usbcast.subscribe("first-case", endpoint) as stream:
        batch = next(iter(stream))
        received_ns = time.time_ns()
        known = eventually(lambda: stream.clock, "the clock is known")
        assert abs(known.offset_ns - shift_s * S) <= known.uncertainty_ns
        assert known.uncertainty_ns < 100 * MS
        assert known.age_ns < 5 * S
        assert abs(int(batch.times_ns[-1]) - received_ns - shift_s * S) < 5 * S, (
            "times_ns stay those of the reading host"
        )
        local, error = batch.times_local_ns, batch.times_local_error_ns
        assert local.dtype == error.dtype == np.int64
        assert len(local) == len(error) == len(batch)
        assert received_ns - int(local[-1]) + int(error[-1]) >= 0
        assert received_ns - int(local[-1]) < 3 * S
        for _ in range(20):
            batch = next(iter(stream))
        assert -known.uncertainty_ns <= stream.lag_ns < 3 * S, "by one clock"


def test_a_lopsided_way_is_wrong_by_less_than_it_says() -> None:
    with (
        distant_node(clock="+2") as (_, endpoint),
        DelayingProxy(endpoint, there_s=0.0, back_s=0.06) as proxy,
        usbcast.subscribe("first-case", proxy.endpoint, via="notify") as stream,
    ):
        stream.ready()
        known = eventually(lambda: stream.clock, "the clock is known")
        wrong_ns = abs(known.offset_ns - 2 * S)
        assert 25 * MS < wrong_ns <= known.uncertainty_ns, "half of what one direction takes longer"


@pytest.mark.slow
def test_a_clock_that_runs_faster_is_followed() -> None:
    with distant_node(clock="+1 x1.0003") as (_, endpoint), usbcast.subscribe("first-case", endpoint) as stream:
        stream.ready()
        begin_ns = time.monotonic_ns()
        first = eventually(lambda: stream.clock, "the clock is known")
        eventually(lambda: (stream.receive(0.1), time.monotonic_ns() - begin_ns > 17 * S)[1], "17 s have passed")
        known = stream.clock
        assert known is not None
        assert abs(known.drift_ppm - 300) <= known.drift_uncertainty_ppm
        assert known.drift_uncertainty_ppm < 150
        grown_ns = known.offset_ns - first.offset_ns
        truth_ns = (known.at_ns - first.at_ns) * 300e-6
        assert abs(grown_ns - truth_ns) <= known.uncertainty_ns + first.uncertainty_ns


def test_a_batch_of_a_host_that_tells_no_time_says_so() -> None:
    with FakeNode() as node, usbcast.subscribe(STREAM, node.endpoint, start="oldest", via="notify") as stream:
        node.batch()
        eventually(lambda: (node.notify(), stream.ready(0.05))[1], "it is subscribed")
        batch = next(iter(stream))
        eventually(lambda: "clock" in node.asked, "it was asked for its clock")
        assert stream.clock is None
        with pytest.raises(ClockUnknown, match="has not been compared"):
            _ = batch.times_local_ns

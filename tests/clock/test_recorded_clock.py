"""The clock of the reading host in recordings, and through a bridge whose own clock is yet another one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import usbcast
from tests.support.distant import distant_node, distant_program
from tests.support.nodes import eventually, serving
from tests.support.programs import run
from usbcast.clock.offset import MAX_DRIFT
from usbcast.recording.entries import Annotation, clock_annotation, clock_of

pytestmark = pytest.mark.slow

S = 1_000_000_000


def test_a_recording_knows_the_other_clock(tmp_path: Path) -> None:
    base = tmp_path / "run"
    with distant_node(clock="+3.5") as (_, endpoint):
        begin_ns = time.time_ns()
        done = run("record", "first-case", "--endpoint", endpoint, "--packets", "300", "--output", str(base))
        end_ns = time.time_ns()
    assert done.finish() == 0, done.stderr
    with usbcast.open_recording(base) as recording:
        batches = list(recording.batches("first-case"))
        assert sum(map(len, batches)) >= 300
        for batch in batches[-20:]:  # on a busy machine the clock is known later than the first packets
            local, error = batch.times_local_ns, batch.times_local_error_ns
            assert (local + error >= begin_ns).all()
            assert (local - error <= end_ns).all()
            assert (abs(batch.times_ns - local - 3.5 * S) <= error).all()
        late = list(recording.batches("first-case", start_ns=recording.end_ns - S // 10))
        assert late
        assert (abs(late[0].times_ns - late[0].times_local_ns - 3.5 * S) <= late[0].times_local_error_ns).all()
    told = json.loads(run("info", str(base), "--json").stdout)["clocks"]["first-case"]
    assert abs(told["offset_ns"] - 3.5 * S) <= told["uncertainty_ns"]
    assert "ahead of the recording host's by +3." in run("info", str(base)).stdout


@pytest.mark.parametrize(
    ("upstream", "bridge"), [("+3.5", ""), ("+3.5", "-100")], ids=["a bridge by our clock", "three clocks"]
)
def test_through_a_bridge_the_clock_is_that_of_the_reading_host(upstream: str, bridge: str) -> None:
    begin_ns = time.time_ns()
    with (
        distant_node(clock=upstream) as (_, endpoint),
        distant_program("bridge", endpoint, "--bind", "tcp://127.0.0.1:0", "--json", clock=bridge) as (_, bridged),
        usbcast.subscribe("first-case", bridged) as stream,
    ):
        assert stream.ready()
        known = eventually(lambda: stream.clock, "the clock is known")
        assert abs(known.offset_ns - 3.5 * S) <= known.uncertainty_ns
        assert known.uncertainty_ns < S // 4
        batch = next(iter(stream))
        local_ns, error_ns = int(batch.times_local_ns[-1]), int(batch.times_local_error_ns[-1])
        assert begin_ns - error_ns < local_ns < time.time_ns() + error_ns


def test_a_clock_annotation_says_what_was_known() -> None:
    assert clock_of(clock_annotation("s", None, 5)) is None
    known = usbcast.ClockOffset(-7, 3, 1.5, MAX_DRIFT * 1e6, 11)
    assert clock_of(Annotation.decode(clock_annotation("s", known, 12).encode())) == known


def test_a_recording_says_that_the_reading_hosts_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_by_ns = 0
    clock = SimpleNamespace(time_ns=lambda: time.time_ns() + set_by_ns, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr("usbcast_broker.sources.usb.clock.time", clock)
    base = str(tmp_path / "run")
    with serving(stream="fit", rate_hz=1000, packets=600, ends=True) as served:
        eventually(lambda: served.device.produced > 200)
        set_by_ns = 24 * 3600 * S
        done = run(
            "record", "fit", "--endpoint", served.endpoint, "--start", "oldest", "--packets", "600", "--output", base
        )
        assert done.finish() == 0, done.stderr
        told = run("info", "fit", "--endpoint", served.endpoint).stdout
        assert "set 1 times while it was read: times before and after do not compare" in told
    verified = run("verify", base, "--json")
    assert verified.finish() == 0
    (recording,) = json.loads(verified.stdout)["recordings"]
    (epoch,) = recording["streams"]
    assert (epoch["clock_steps"], epoch["recorded"], epoch["balanced"]) == (1, 600, True)
    (note,) = (note for note in recording["notes"] if "clock was set by +86,400.000 s" in note)
    assert "fit" in note
    assert "the reading host's clock was set by +86,400" in run("verify", base).stdout
    assert "was set 1 times: times before and after are not of one clock" in run("info", base).stdout
    with usbcast.open_recording(base) as opened:
        steps = [event for event in opened.events("fit") if isinstance(event, usbcast.DeviceEvent)]
        assert [event.kind for event in steps] == ["attached", "clock_stepped"]
    began_s = time.monotonic()
    played = run("play", base, "--linger-s", "0", "--bind", "tcp://127.0.0.1:0")
    assert played.finish() == 0
    assert time.monotonic() - began_s < 60, "not a day"

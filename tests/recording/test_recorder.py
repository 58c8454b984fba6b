"""The recorder against a real node: what it writes is what was published, and the books say so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from recordings import record_here, verified

import usbcast
import usbcast.recording.recorder as recorder_module
from tests.support.nodes import serving, small
from usbcast.receiving.open import Receiver
from usbcast.receiving.resuming import ResumingReceiver, wait_for_any
from usbcast.recording.files import walk
from usbcast.recording.policy import Keep, Limits, Rotation
from usbcast.recording.recorder import Recorder, RecordOptions, Start
from usbcast.recording.resume import fresh, resumed
from usbcast.recording.store import StoreOptions
from usbcast_schemas.errors import RecordingError, StreamUnknown

END = Limits(at_end=True)


@pytest.mark.parametrize(
    ("via", "compression"), [("ring", "zstd"), ("ring", "lz4"), ("ring", "none"), ("push", "zstd"), ("notify", "zstd")]
)
def test_all_that_was_published_is_in_the_file_byte_by_byte(tmp_path: Path, via: str, compression: str) -> None:
    with serving(rate_hz=0, packets=5000) as served:
        served.wait_published(5000)
        served.end()
        record_here(served, tmp_path / "r", start="oldest", via=via, compression=compression, limits=END)
        found = verified(tmp_path / "r")
        (books,) = found.ledger.epochs.values()
        assert found.balanced, found.ledger.problems
        assert (books.first, books.recorded, books.ended) == (0, 5000, True)
        recording = usbcast.open_recording(tmp_path / "r")
        assert b"".join(bytes(batch.payload) for batch in recording.batches("sim")) == served.expected(0, 5000)
        events = list(recording.events("sim"))
        assert isinstance(events[0], usbcast.DeviceEvent)
        assert events[0].kind == "attached"
        assert isinstance(events[-1], usbcast.End)


def test_other_readers_of_mcap_read_it_strictly(tmp_path: Path) -> None:
    with serving(rate_hz=0, packets=2000) as served:
        served.wait_published(2000)
        served.end()
        record_here(served, tmp_path / "r", start="oldest", limits=END)
    path = tmp_path / "r-00000.mcap"
    with path.open("rb") as file:
        records = list(StreamReader(file, validate_crcs=True).records)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "usbcast"
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        messages = list(reader.iter_messages())
    assert len(messages) == summary.statistics.message_count
    assert len(records) > len(messages)
    topics = {channel.topic for _, channel, _ in messages}
    assert topics == {"sim/batches", "sim/info", "sim/remarks", "recording"}
    times = [message.log_time for _, _, message in messages]
    assert times == sorted(times)


def test_every_segment_stands_alone_and_they_balance_together(tmp_path: Path) -> None:
    with serving(rate_hz=2000, packets=1500) as served:
        record_here(
            served, tmp_path / "r", start="oldest", rotation=Rotation(duration_s=0.2), limits=Limits(packets=1500)
        )
    found = verified(tmp_path / "r")
    assert found.balanced, found.ledger.problems
    assert len(found.files) >= 3
    for path in found.files:
        alone = usbcast.open_recording(path)
        assert alone.info("sim").profile_toml
        batches = list(alone.batches("sim"))
        assert all(int(batch.fields["counter"][0]) == batch.first_sequence for batch in batches)


def test_what_is_not_kept_is_declared(tmp_path: Path) -> None:
    with serving(rate_hz=2000, packets=1500) as served:
        record_here(
            served, tmp_path / "r", start="oldest",
            rotation=Rotation(duration_s=0.15), keep=Keep(segments=2), limits=Limits(packets=1500),
        )  # fmt: skip
    found = verified(tmp_path / "r")
    assert len(found.files) == 2
    assert found.balanced, found.ledger.problems
    assert any("removed by --keep" in note for note in found.ledger.notes)
    found.files[0].unlink()
    assert not verified(tmp_path / "r").balanced, "a segment that nobody declared removed"


def test_what_the_ring_no_longer_held_is_declared_with_its_stage(tmp_path: Path) -> None:
    with serving(rate_hz=0, packets=30_000, settings=small(ring_size=1 << 20)) as served:
        served.wait_published(30_000)
        served.end()
        from usbcast.receiving.continuity import Position

        begin = fresh(tmp_path / "r")
        begin.positions["sim"] = Position(served.pipeline.outlet.epoch, 0, 0)
        record_here(served, tmp_path / "r", begin=begin, limits=END)
        oldest = served.oldest
    found = verified(tmp_path / "r")
    (books,) = found.ledger.epochs.values()
    assert found.balanced, found.ledger.problems
    assert oldest > 0
    assert books.lost == {"ring: overwritten in the ring": oldest}
    assert books.recorded == 30_000 - oldest


def test_a_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    base = tmp_path / "r"
    with serving(rate_hz=2000, packets=1500) as served:
        record_here(served, base, begin=fresh(base), start="oldest", limits=Limits(packets=300))
        with pytest.raises(RecordingError, match="--resume"):
            fresh(base)
        served.wait_published(1200)
        record_here(served, base, begin=resumed(base), limits=Limits(packets=600))
    found = verified(base)
    assert found.balanced, found.ledger.problems
    (books,) = found.ledger.epochs.values()
    assert books.recorded == books.span >= 900
    assert not books.lost


def test_a_new_node_is_a_new_epoch_of_the_same_recording(tmp_path: Path) -> None:
    base = tmp_path / "r"
    for count in (300, 200):
        with serving(rate_hz=0, packets=count) as served:
            served.wait_published(count)
            served.end()
            record_here(served, base, begin=resumed(base), start="oldest", limits=END)
    found = verified(base)
    assert found.balanced, found.ledger.problems
    assert [books.recorded for books in found.ledger.epochs.values()] == [300, 200]
    events = list(usbcast.open_recording(base).events("sim"))
    assert [type(event).__name__ for event in events if not isinstance(event, usbcast.Batch)] == [
        "DeviceEvent", "End", "Restart", "DeviceEvent", "End",
    ]  # fmt: skip


def test_a_trigger_records_from_before_it_until_after_it(tmp_path: Path) -> None:
    pulled: list[int] = []

    def look(recorder: object) -> None:
        assert isinstance(recorder, usbcast_recorder)
        if not pulled and served.published > 1500:
            pulled.append(served.published)
            recorder.trigger()
        if served.published >= 3000:
            recorder.stop("seen enough")

    from usbcast.recording.recorder import Recorder as usbcast_recorder

    with serving(rate_hz=2000, packets=3000) as served:
        record_here(served, tmp_path / "r", look=look, pre_s=0.3, post_s=0.2)
    found = verified(tmp_path / "r")
    assert found.balanced, found.ledger.problems
    (books,) = found.ledger.epochs.values()
    assert 300 < books.recorded < 2400
    assert set(books.lost) == {"recording: outside of a trigger's time"}
    first = next(iter(usbcast.open_recording(tmp_path / "r").batches("sim"))).first_sequence
    assert first < pulled[0] - 200, "what came before the trigger is there"


def test_several_streams_by_pattern(tmp_path: Path) -> None:
    from usbcast_broker.node import Node
    from usbcast_broker.sources import add_simulated
    from usbcast_broker.sources.simulator import SimulatorConfig

    with Node(small()) as node:
        for name in ("imu1", "imu2", "other"):
            add_simulated(node, SimulatorConfig(rate_hz=1000, packets=300), name)
        node.start()

        class Here:
            endpoint = node.endpoint
            stream = "imu*"

        def look(recorder: object) -> None:
            if all(pipeline.outlet.next_sequence >= 300 for pipeline in node.pipelines):
                recorder.stop("all came")  # type: ignore[attr-defined]

        record_here(Here, tmp_path / "r", start="oldest", look=look)
    found = verified(tmp_path / "r")
    assert found.balanced, found.ledger.problems
    assert {books.stream: books.recorded for books in found.ledger.epochs.values()} == {"imu1": 300, "imu2": 300}


def test_a_stream_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with serving(rate_hz=100) as served, pytest.raises(StreamUnknown, match="no stream 'nope'"):
        record_here(served, tmp_path / "r", streams=("nope",))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"something else")
    with pytest.raises(RecordingError, match="does not begin with MCAP's magic bytes"):
        walk(tmp_path / "x.mcap")


def test_an_application_that_only_subscribes_loads_nothing_of_it() -> None:
    program = (
        "import sys, usbcast; sys.exit(any(name in sys.modules for name in ('mcap', 'zstandard', 'usbcast.recording')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_recorder_of_a_quiet_stream_waits_to_be_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[bool] = []

    def wait(resuming: Sequence[ResumingReceiver[Receiver]], most_s: float) -> bool:
        waits.append(wait_for_any(resuming, most_s))
        return waits[-1]

    def look(recorder: Recorder) -> None:
        if recorder.packets == 50 and waits.count(True) > 2:
            recorder.stop("enough")

    monkeypatch.setattr(recorder_module, "wait_for_any", wait)
    with serving(rate_hz=1000, packets=50) as served:
        record_here(served, tmp_path / "r", look=look, start="oldest")
    assert verified(tmp_path / "r").balanced


@pytest.mark.slow
def test_the_signal_that_stops_it_may_come_at_any_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it waits, and inside of what it waits with: the handler runs in the middle of it, in its thread."""
    monkeypatch.setattr(Recorder, "_described", lambda _: [])  # nobody is asked for streams: that takes seconds
    monkeypatch.setattr(recorder_module, "LOOK_S", 0.001)
    monkeypatch.setattr(recorder_module, "ACCUMULATE_S", 0.001)
    for line in range(150):
        options = RecordOptions(("nothing-*",), StoreOptions(tmp_path / f"r{line}"), wait=True)
        recorder = Recorder(options, Start(), lambda _kind, _fields: None)
        thread = threading.Thread(target=_run_and_stop_at, args=(recorder, line), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), f"it waits for itself, stopped at line {line}"
        assert recorder.reason == "told"


def _run_and_stop_at(recorder: Recorder, line: int) -> None:
    """Run it, and let "the handler" run in between when so many lines of it, and of what it waits with, have been run."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if Path(frame.f_code.co_filename).name not in ("recorder.py", "threading.py"):
            return None
        count += event == "line"
        if count == line + 1:
            count += 1
            recorder.stop("told")
        return trace

    sys.settrace(trace)
    try:
        recorder.run()
    finally:
        sys.settrace(None)

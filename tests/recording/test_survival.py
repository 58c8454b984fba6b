"""What a recording must survive: kill -9 of the recorder, kill -9 of the node, a full disk, a stop, an unplugged device."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from recordings import cli, recorded_packets, running, verified

import usbcast
from tests.support.nodes import eventually, serving, small
from usbcast_broker.sources.simulator.faults import Fault

RING = 64 * 1024 * 1024
YOUNG_S = 0.75
"""Killed before its first sync, a recorder has not yet caught up with the time in which nobody recorded."""


def kill_again_and_again(tmp_path: Path, rate_hz: float, times: int) -> None:
    """SIGKILL the recorder at random moments; nothing older than a second may miss, and a resumption misses nothing."""
    pick = random.Random(times)
    base = tmp_path / "r"
    before_this = 0
    with serving(rate_hz=rate_hz, settings=small(ring_size=RING, ring_slots=1 << 18)) as served:
        for n in range(times):
            arguments = [
                "record",
                served.stream,
                "--endpoint",
                served.endpoint,
                "-o",
                str(base),
                "--resume",
                "--start",
                "oldest",
            ]
            with running(tmp_path / "log", *arguments) as child:
                child.wait_said("segment" if n else "figures")
                ran_s = pick.uniform(0.1, 1.5)
                time.sleep(ran_s)
                before = served.published
                child.kill()
            recording = usbcast.open_recording(base)
            (books,) = recording.books().epochs.values()
            assert books.recorded == books.span, recording.books().problems
            assert books.next_sequence >= before_this
            if ran_s > YOUNG_S:
                assert books.next_sequence >= before - rate_hz, "more than the last second is missing"
            before_this = books.next_sequence
        cli("record", served.stream, "--endpoint", served.endpoint, "-o", base, "--resume", "--duration", "0.5")
    found = verified(base)
    (books,) = found.ledger.epochs.values()
    assert found.balanced, found.ledger.problems
    assert len(found.files) == times + 1
    assert (books.first, books.lost, books.recorded) == (0, {}, books.span)


@pytest.mark.slow
def test_a_killed_recorder_loses_at_most_a_second_and_a_resumed_one_nothing(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 20_000, 2)


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rate_hz", [100, 20_000])
def test_twenty_kills_lose_nothing(tmp_path: Path, rate_hz: float) -> None:
    kill_again_and_again(tmp_path, rate_hz, 20)


@contextlib.contextmanager
def tiny_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own of so many bytes; skips where this user may not mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no disk of its own can be mounted: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("min_free", ["0", "100KiB"])
def test_a_full_disk_is_survived_and_named(tmp_path: Path, min_free: str) -> None:
    with (
        tiny_disk(tmp_path / "disk", 6 * 1024 * 1024) as disk,
        serving(rate_hz=2000, settings=small(ring_size=1 << 20)) as served,
    ):
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(5600 * 1024))
        arguments = [
            "record",
            served.stream,
            "--endpoint",
            served.endpoint,
            "-o",
            str(disk / "r"),
            "--min-free",
            min_free,
        ]
        with running(tmp_path / "log", *arguments, "--sync", "0.1", "--compression", "none") as child:
            warning = child.wait_said("warning")
            assert str(disk) in warning["message"]
            at = served.published
            # And what the recorder has taken since: it holds some batches, of many packets on a busy machine.
            forgotten = at + 4000
            eventually(lambda: served.oldest > forgotten, "the ring has forgotten what came when the disk was full")
            ballast.unlink()
            eventually(lambda: len(child.said("segment")) > 1, "it goes on when there is room")
            assert child.stop() == 0, child.log.read_text()
        found = verified(disk)
        (books,) = found.ledger.epochs.values()
        assert found.balanced, found.ledger.problems
        assert books.recorded + sum(books.lost.values()) == books.span
        ((reason, _),) = books.lost.items()
        assert reason.startswith("recording: ")
        assert str(disk) in reason
        assert "overwritten in the ring" in reason
        assert any(str(disk) in said for said in found.ledger.disks)


def test_a_full_disk_at_the_start_is_one_sentence(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 4096) as disk, serving(rate_hz=100) as served:
        (disk / "ballast").write_bytes(bytes(4096))
        said = cli("record", served.stream, "--endpoint", served.endpoint, "-o", disk / "r", "--min-free", "0", check=1)
        assert f"cannot write to the disk of {disk}: No space left on device" in said["error"].replace("\n", "")


@pytest.mark.usefixtures("dead_may_leave_files")
@pytest.mark.slow
def test_a_killed_node_is_told_in_order(tmp_path: Path) -> None:
    base = tmp_path / "r"
    serve = ["serve", "--simulate", "--rate", "500", "--stream", "sim", "--bind"]
    with running(tmp_path / "node1", *serve, "tcp://127.0.0.1:0") as node:
        endpoint = node.wait_said("serving")["endpoint"]
        with running(tmp_path / "log", "record", "sim", "--endpoint", endpoint, "-o", base) as child:
            eventually(lambda: recorded_packets(base) > 200)
            node.kill()
            eventually(lambda: any("silence" in note for note in verified(base).ledger.notes), "silence is in the file")
            with running(tmp_path / "node2", *serve, endpoint) as again:
                again.wait_said("serving")
                eventually(lambda: len(verified(base).ledger.epochs) == 2 and recorded_packets(base) > 500)
                assert child.stop() == 0, child.log.read_text()
    found = verified(base)
    assert found.balanced, found.ledger.problems
    told = [event for event in usbcast.open_recording(base).events("sim") if not isinstance(event, usbcast.Batch)]
    kinds = [type(event).__name__ for event in told]
    assert kinds.index("Silence") < kinds.index("Restart") < kinds.index("DeviceEvent", kinds.index("Restart"))


def test_an_unplugged_device_is_told_in_order(tmp_path: Path) -> None:
    fault = Fault(kind="unplug", at_packet=300, duration_s=0.3)
    with (
        serving(rate_hz=1000, faults=(fault,)) as served,
        running(
            tmp_path / "log", "record", "sim", "--endpoint", served.endpoint, "-o", tmp_path / "r", "--start", "oldest"
        ) as child,
    ):
        served.wait_published(600)
        eventually(lambda: recorded_packets(tmp_path / "r") >= 600)
        assert child.stop() == 0
    found = verified(tmp_path / "r")
    assert found.balanced, found.ledger.problems
    told = [e for e in usbcast.open_recording(tmp_path / "r").events("sim") if isinstance(e, usbcast.DeviceEvent)]
    assert [event.kind for event in told][:3] == ["attached", "detached", "attached"]


def stop_and_continue(tmp_path: Path, seconds: float) -> None:
    with (
        serving(rate_hz=5000, settings=small(ring_size=1 << 20)) as served,
        running(tmp_path / "log", "record", "sim", "--endpoint", served.endpoint, "-o", tmp_path / "r") as child,
    ):
        eventually(lambda: recorded_packets(tmp_path / "r") > 500)
        child.signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            child.signal(signal.SIGCONT)
        eventually(lambda: any("did not run" in note for note in verified(tmp_path / "r").ledger.notes))
        assert child.stop() == 0
    found = verified(tmp_path / "r")
    (books,) = found.ledger.epochs.values()
    assert found.balanced, found.ledger.problems
    ((reason, lost),) = books.lost.items()
    assert "the recorder did not run" in reason
    assert lost > 0


@pytest.mark.slow
def test_a_stopped_recorder_says_so_and_what_it_cost(tmp_path: Path) -> None:
    stop_and_continue(tmp_path, 3.0)


@pytest.mark.slow
@pytest.mark.load_sensitive
def test_a_recorder_stopped_for_ten_seconds(tmp_path: Path) -> None:
    stop_and_continue(tmp_path, 10.0)


def test_a_service_is_ready_alive_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    address = f"\0usbcast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, serving(rate_hz=100) as served:
        manager.bind(address)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + address[1:])
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        with running(tmp_path / "log", "record", "sim", "--endpoint", served.endpoint, "-o", tmp_path / "r") as child:
            said = [manager.recv(500) for _ in range(8)]
            assert said[0] == b"READY=1"
            assert said.count(b"WATCHDOG=1") >= 5
            (status,) = {line.split(b":")[0] for line in said if line.startswith(b"STATUS=")}
            assert status == b"STATUS=sim"
            assert child.stop() == 0
            while (last := manager.recv(500)) != b"STOPPING=1":
                assert last.startswith((b"WATCHDOG=1", b"STATUS="))


@pytest.mark.usefixtures("dead_may_leave_files")
def test_a_trigger_finds_its_recorder(tmp_path: Path) -> None:
    with serving(rate_hz=1000) as served:
        arguments = [
            "record",
            "sim",
            "--endpoint",
            served.endpoint,
            "-o",
            str(tmp_path / "r"),
            "--pre",
            "0.2",
            "--post",
            "0.1",
        ]
        with running(tmp_path / "log", *arguments) as child:
            child.wait_said("figures")
            assert "no armed recorder" in cli("record", "--trigger", "-o", tmp_path / "other", check=1)["error"]
            assert cli("record", "--trigger", "-o", tmp_path / "r")["triggered"] == [child.process.pid]
            eventually(lambda: len(child.said("segment")) > 1, "the trigger's segment is closed")
            assert child.stop() == 0
    found = verified(tmp_path / "r")
    assert found.balanced, found.ledger.problems
    (books,) = found.ledger.epochs.values()
    assert 200 <= books.recorded < books.span

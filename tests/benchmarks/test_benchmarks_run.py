"""The benchmarks run, check what comes, and say what was lost. How fast anything is, is not asserted here."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import blocks
from benchmarks.goals import GOALS
from benchmarks.harness import RunFailed, run
from benchmarks.peers import MODULES, missing
from benchmarks.report import Record, table, to_json, to_markdown
from benchmarks.task import PACKET_BYTES, Task
from benchmarks.works import NAMES, Show, load_work

ROOT = Path(__file__).parents[2]


def checker(task: Task) -> blocks.Checker:
    return blocks.Checker(task, memoryview(bytearray(64)).cast("Q"))


@pytest.mark.parametrize("cut", [PACKET_BYTES, 3 * PACKET_BYTES, 4 * PACKET_BYTES, 7 * PACKET_BYTES])
def test_the_check_takes_blocks_whole_and_in_pieces(cut: int) -> None:
    task = Task("", block_packets=4)
    kinds = (blocks.HELLO, blocks.HELLO, blocks.START, blocks.END)
    *greetings, start, end = (blocks.control(task, kind) for kind in kinds)
    sent = b"".join([*greetings, start, *(blocks.prepared(task) * 3), end])
    sent = sent[PACKET_BYTES:]  # joined in the middle of the first greeting
    check = checker(task)
    for at in range(0, len(sent), cut):
        check.take(sent[at : at + cut])
    assert (check.received, check.wrong, check.ended) == (3 * blocks.CONTENTS, 0, True)


def test_the_check_finds_a_lost_block_and_a_changed_byte() -> None:
    task = Task("", block_packets=2)
    sent = blocks.prepared(task)
    hello = blocks.control(task, blocks.HELLO)
    check = checker(task)
    for block in (hello, *sent[:4], *sent[5:]):
        check.take(block)
    assert (check.received, check.wrong) == (blocks.CONTENTS - 1, 1)
    check = checker(task)
    damaged = bytearray(sent[0])
    damaged[-1] ^= 1
    check.take(hello)
    check.take(damaged)
    assert check.wrong == 1


@pytest.mark.parametrize("peer", ["usbcast-ring", "pyzmq-ipc", "device-sync"])
def test_a_run_delivers_every_block_as_it_was_sent(peer: str) -> None:
    result = run(Task(peer, block_packets=64, blocks=500, subscribers=2), 30)
    assert result.sent["blocks"] == 500
    assert [one["received"] for one in result.done] == [500, 500]
    assert result.wrong == 0
    assert result.packets_per_s > 0


def test_a_paced_run_has_a_lag_for_each_packet_and_processor_time_on_both_sides() -> None:
    result = run(Task("usbcast-ring", kind="paced", rate_hz=500, seconds=0.3), 30)
    assert result.done[0]["received"] == 150
    assert 0 < result.done[0]["lag_p50_us"] <= result.done[0]["lag_p99_us"] <= result.done[0]["lag_max_us"]
    assert result.publisher_cpu > 0
    assert result.subscriber_cpu > 0


def test_a_failed_process_is_told_by_its_last_words() -> None:
    with pytest.raises(RunFailed, match=r"publisher: .*batch_size is 11200000"):
        run(Task("usbcast-ring", block_packets=100_000), 15)


def test_every_work_makes_cases_of_what_is_installed() -> None:
    from benchmarks.mode import MODES

    here = [peer for peer in MODULES if not missing(peer)]
    for name in NAMES:
        work = load_work(name)
        cases = work.cases(MODES["full"], here)
        assert cases, name
        assert len({(case.row, case.column) for case in cases}) == len(cases)


def test_every_goal_speaks_of_a_case_that_there_is() -> None:
    from benchmarks.mode import MODES

    here = [peer for peer in MODULES if not missing(peer)]
    known = {(name, case.column, case.row) for name in NAMES for case in load_work(name).cases(MODES["full"], here)}
    for goal in GOALS:
        for figure in (goal.ours, goal.theirs):
            if figure is not None and not missing_row(figure.row):
                assert (figure.work, figure.column, figure.row) in known, goal.says


def missing_row(row: str) -> bool:
    return row in MODULES and bool(missing(row))


def test_a_table_has_medians_and_ratios() -> None:
    record = Record("test", 3)
    for ours, theirs in ((10.0, 5.0), (30.0, 6.0), (20.0, 4.0)):
        record.add("throughput", "batch 1", "usbcast-ring", {"mega_per_s": ours, "wrong": 0.0})
        record.add("throughput", "batch 1", "pyzmq-ipc", {"mega_per_s": theirs, "wrong": 2.0})
    show = Show("mega_per_s", "million packets/s", 2, more_is_better=True)
    lines = table(show, record.medians()["throughput"])
    assert "| usbcast, ring | 20.00 |" in lines
    assert "| raw pyzmq, ipc | 5.00 (0.25) |" in lines
    text = to_markdown(record)
    assert "2 blocks were not what was sent" in text
    assert json.loads(to_json(record))["samples"]["throughput"]["batch 1"]["pyzmq-ipc"]["mega_per_s"] == [5.0, 6.0, 4.0]


@pytest.mark.slow
def test_the_command_writes_table_json_and_plot(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--mode", "smoke"),
            *("--works", "throughput,lag,idle", "--no-steps", "--output", str(tmp_path)),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| usbcast, ring |" in done.stdout
    found = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert found["medians"]["throughput"]["batch 64"]["usbcast-ring"]["lost_percent"] == 0
    assert next(tmp_path.glob("*.md")).read_text().startswith("Measured ")


@pytest.mark.parametrize("batches", [1, 32])
@pytest.mark.parametrize("path", ["node", "through"])
def test_the_hot_path_of_the_regression_check_is_that_of_the_product(path: str, batches: int, tmp_path: Path) -> None:
    from benchmarks.hot_path import HotPath

    with HotPath(8, tmp_path) as hot:
        for _ in range(3):
            before = hot.delivered, hot.outlet.next_sequence
            getattr(hot, path)(batches)
            delivered, stored = hot.delivered - before[0], hot.outlet.next_sequence - before[1]
            assert (delivered, stored) == (8 * batches if path == "through" else 0, 8 * batches)


def test_header_fits_into_the_smallest_block() -> None:
    assert blocks.HEADER.size <= PACKET_BYTES
    assert struct.calcsize("<QIB3x") == 16

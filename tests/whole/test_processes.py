"""Nodes and subscribers in processes of their own, killed, stopped and slowed for real."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import WAYS, eventually
from tests.support.programs import Program, follow, serve
from usbcast import NodeClient
from usbcast_schemas.registry import local_nodes
from usbcast_schemas.v1 import usbcast_pb2 as pb


@contextlib.contextmanager
def all_killed() -> Iterator[list[Program]]:
    """A list of programs, none of which outlives it."""
    programs: list[Program] = []
    try:
        yield programs
    finally:
        for program in programs:
            program.kill()


def check_whole(done: dict[str, Any]) -> None:
    """Nothing came twice, damaged or was missing unsaid, and the subscription's own books agree."""
    assert (done["twice"], done["damaged"], done["unsaid"]) == (0, 0, 0)
    assert done["books"]["balanced"]
    assert done["books"]["out"] == done["delivered"]
    assert sum(done["books"]["lost"].values()) == done["lost"] + done["lost_earlier"]


@pytest.mark.slow
def test_a_killed_node_comes_back_and_eight_subscribers_go_on(private_directories: tuple[Path, Path]) -> None:
    rings, runtime = private_directories
    with all_killed() as programs:
        node, endpoint = serve("--rate", "200", "--bind", "tcp://127.0.0.1:0")
        programs.append(node)
        readers = [follow(endpoint, WAYS[n % 3]) for n in range(8)]
        programs.extend(readers)
        for reader in readers:
            reader.hear("ready")
            reader.hear("figures", where=lambda said: said["delivered"] > 20)
        (ring,) = rings.glob("*.ring")
        node.signal(signal.SIGKILL)
        killed_s = time.monotonic()
        node.finish()
        for reader in readers:
            silence = reader.hear("silence", 8)
            assert 2.9 < silence["seconds"] < 4.5
        assert time.monotonic() - killed_s < 8
        assert ring.exists(), "nobody could remove it"
        assert local_nodes() == [], "a dead node is not found"

        again, same = serve("--rate", "200", "--bind", endpoint)
        programs.append(again)
        assert same == endpoint
        assert not ring.exists(), "the ring of the dead node is swept"
        assert not ring.with_suffix(".wake").exists()
        assert len(list(rings.glob("*.ring"))) == 1
        assert len(list(runtime.glob("data-*"))) == 1, "so is its local socket"
        epochs = set()
        for reader in readers:
            restart = reader.hear("restart", 10)
            assert restart["known_until"] >= restart["delivered_until"] > 0
            epochs.add((restart["old"], restart["new"]))
        assert len(epochs) == 1
        for reader in readers:
            reader.hear("figures", where=lambda said: (said["next"] or 0) > 100)
        stop(again)
        for reader in readers:
            done = reader.hear("done")
            assert done["ended"]
            check_whole(done)
            assert reader.finish() == 0
        assert list(rings.iterdir()) == []


@pytest.mark.slow
def test_a_device_that_is_reset_behind_a_backlog_loses_nothing_unsaid(tmp_path: Path) -> None:
    """The node stands still as on a busy machine; what it reads then is old, and the reset empties the device."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "overflow"\nat_packet = 6000\ncount = 20\n')
    options = ("--rate", "2000", "--packet-size", "16", "--packets", "9000", "--faults", str(faults))
    with all_killed() as programs:
        node, endpoint = serve(*options, "--bind", "tcp://127.0.0.1:0")
        programs.append(node)
        reader = follow(endpoint, "ring", "--start", "0")
        programs.append(reader)
        with NodeClient(endpoint) as client:
            eventually(lambda: describe(client).next_sequence > 5400)
        node.signal(signal.SIGSTOP)
        time.sleep(0.6)  # the backlog itself
        node.signal(signal.SIGCONT)
        done = reader.hear("done")
        assert done["ended"]
        assert (done["first_counter"], done["unsaid"], done["twice"]) == (0, 0, 0)
        assert done["lost_earlier"] > 0
        assert done["delivered"] + done["lost_earlier"] == done["last_counter"] + 1
        assert node.finish() == 0


@pytest.mark.slow
def test_sixteen_subscribers_get_every_packet() -> None:
    with all_killed() as programs:
        node, endpoint = serve("--rate", "1000", "--bind", "tcp://127.0.0.1:0")
        programs.append(node)
        readers = [follow(endpoint, WAYS[n % 3], "--start", "0") for n in range(16)]
        programs.extend(readers)
        for reader in readers:
            reader.hear("ready")
        with NodeClient(endpoint) as client:
            goal = describe(client).next_sequence + 2000
        for reader in readers:
            reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
        node.signal(signal.SIGINT)
        ended = node.hear("ended")["streams"]["first-case"]
        assert ended["balanced"]
        total = ended["ledgers"]["outlet"]["out"]
        for reader in readers:
            done = reader.hear("done")
            check_whole(done)
            assert (done["begin"], done["delivered"], done["lost"]) == (0, total, 0)
            assert (done["first_counter"], done["last_counter"]) == (0, total - 1)
            assert reader.finish() == 0
        assert node.finish() == 0


@pytest.mark.slow
def test_who_is_killed_stopped_or_slow_disturbs_nobody() -> None:
    """Device reading, the node's memory, and the other subscribers do not change."""
    rate_hz = 2000
    with all_killed() as programs:
        node, endpoint = serve(
            "--rate", str(rate_hz), "--ring-size", "1MiB", "--batch-size", "4096", "--bind", "tcp://127.0.0.1:0"
        )
        programs.append(node)
        steady = [follow(endpoint, via, "--start", "0") for via in WAYS]
        killed = [follow(endpoint, via) for via in WAYS]
        stopped = [follow(endpoint, via) for via in WAYS]
        slow = [follow(endpoint, via, "--sleep-s", "0.5") for via in WAYS]
        programs.extend([*steady, *killed, *stopped, *slow])
        for reader in programs[1:]:
            reader.hear("figures", where=lambda said: said["delivered"] > 0)
        with NodeClient(endpoint) as client:
            before = client.health()
            for reader in killed:
                reader.signal(signal.SIGKILL)
            for reader in stopped:
                reader.signal(signal.SIGSTOP)
            # The ring holds some 8,000 packets; wait until it has forgotten all that came at the stop, and more.
            stopped_at = describe(client).next_sequence
            eventually(lambda: describe(client).oldest_sequence > stopped_at + 2000)
            after = client.health()
            growth = after.node_memory_bytes - before.node_memory_bytes
            assert growth < 24e6, f"the node's memory grew by {growth / 1e6:.0f} MB"
            (health,) = after.streams
            assert list(health.discrepancies) == []
            assert all(not ledger.lost for ledger in health.ledgers)
            for reader in stopped:
                reader.signal(signal.SIGCONT)
            goal = describe(client).next_sequence + rate_hz
        for reader in stopped:
            gap = reader.hear("gap", 10)
            assert (gap["stage"], gap["reason"]) == ("ring", "overwritten in the ring")
            reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
        for reader in (*steady, *stopped, *slow):
            reader.signal(signal.SIGTERM)
        for reader in (*steady, *stopped, *slow):
            done = reader.hear("done")
            check_whole(done)
            assert done["delivered"] + done["lost"] == done["next"] - done["begin"]
            if reader in steady:
                assert (done["lost"], done["begin"]) == (0, 0)
                assert done["last_counter"] == done["delivered"] - 1
            if reader in stopped:
                assert done["delivered"] > 4000, "it has what the ring still held"
            assert reader.finish() == 0
        stop(node)


@pytest.mark.slow
def test_a_long_pause_with_a_full_queue_is_survived() -> None:
    """ZeroMQ's own heartbeats took that for a dead peer, and then aborted the process."""
    with all_killed() as programs:
        node, endpoint = serve("--rate", "1000", "--ring-size", "64MiB", "--bind", "tcp://127.0.0.1:0")
        programs.append(node)
        readers = [follow(endpoint, via, "--start", "0", "--pause-s", "14") for via in WAYS]
        programs.extend(readers)
        for reader in readers:
            reader.hear("ready")
        with NodeClient(endpoint) as client:
            eventually(lambda: describe(client).next_sequence > 15_000, timeout_s=40)
            goal = describe(client).next_sequence
        for reader in readers:
            reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
            reader.signal(signal.SIGTERM)
            done = reader.hear("done")
            check_whole(done)
            assert (done["lost"], done["begin"]) == (0, 0)
            assert reader.finish() == 0
        stop(node)


def describe(client: NodeClient) -> pb.StreamInfo:
    return client.describe("first-case")[0]


def stop(node: Program) -> None:
    """Ctrl-C; its books balance."""
    node.signal(signal.SIGINT)
    assert node.hear("ended")["streams"]["first-case"]["balanced"]
    assert node.finish() == 0


@pytest.mark.slow
def test_a_stopped_node_is_silent_and_then_goes_on() -> None:
    """The device waits in the meantime, as a real one would not; what the stream says stays whole."""
    with all_killed() as programs:
        node, endpoint = serve("--rate", "200", "--bind", "tcp://127.0.0.1:0")
        programs.append(node)
        readers = [follow(endpoint, via, "--start", "0") for via in WAYS]
        programs.extend(readers)
        for reader in readers:
            reader.hear("figures", where=lambda said: said["delivered"] > 20)
        node.signal(signal.SIGSTOP)
        for reader in readers:
            reader.hear("silence", 8)
        node.signal(signal.SIGCONT)
        with NodeClient(endpoint) as client:
            goal = describe(client).next_sequence + 200
        for reader in readers:
            reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
            reader.signal(signal.SIGTERM)
            done = reader.hear("done")
            check_whole(done)
            assert (done["begin"], done["lost"]) == (0, 0)
            reader.finish()
        stop(node)


@pytest.mark.slow
def test_the_figures_of_subscriptions_are_in_the_health_of_the_node() -> None:
    with all_killed() as programs:
        node, endpoint = serve("--rate", "500", "--bind", "tcp://127.0.0.1:0")
        programs.append(node)
        readers = [follow(endpoint, via) for via in WAYS]
        programs.extend(readers)
        with NodeClient(endpoint) as client:

            def reported() -> list[Any]:
                (stream,) = client.health().streams
                return list(stream.subscriptions) if len(stream.subscriptions) == 3 else []

            reports = eventually(reported)
            assert sorted(report.via for report in reports) == sorted(WAYS)
            assert {int(report.name.split(":")[1]) for report in reports} == {reader.pid for reader in readers}
            eventually(lambda: all(report.ledger.left > 100 for report in reported()) and reported())
        for reader in readers:
            reader.signal(signal.SIGTERM)
            assert reader.finish() == 0
        stop(node)

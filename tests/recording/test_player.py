"""A recording that is played: a subscription sees what it would have seen of the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from made import PER_BATCH, batch, make, total
from recordings import record_here, running, verified

import usbcast
from tests.support.nodes import WAYS, Account, eventually, serving, small, take_all
from usbcast.recording.player import Player, PlayOptions
from usbcast.recording.policy import Limits
from usbcast.recording.restamp import Restamper, Shift
from usbcast_broker.node import Node
from usbcast_broker.sources.simulator.faults import Fault
from usbcast_schemas.batch import decode_batch
from usbcast_schemas.errors import CommandFailed, RecordingError


@contextmanager
def playing(path: Path, **options: object) -> Iterator[tuple[Node, Player]]:
    with Node(small()) as node:
        player = Player(node, usbcast.open_recording(path), PlayOptions(**options))  # type: ignore[arg-type]
        node.start()
        yield node, player


def taken(node: Node, stream: str, via: str) -> Account:
    with usbcast.subscribe(stream, node.endpoint, start="oldest", via=via) as subscription:
        account = take_all(subscription.events(10))
        assert subscription.ledger.discrepancy() is None
    return account


@pytest.mark.parametrize("via", WAYS)
def test_a_played_recording_is_as_the_device_was(tmp_path: Path, via: str) -> None:
    faults = (Fault(kind="drop", at_packet=300, count=7), Fault(kind="unplug", at_packet=600, duration_s=0.1))
    with serving(rate_hz=2000, packets=1000, faults=faults) as served:
        record_here(served, tmp_path / "r", start="oldest", limits=Limits(duration_s=1.2))
        config_info = usbcast.open_recording(tmp_path / "r").info("sim")
    original = list(usbcast.open_recording(tmp_path / "r").events("sim"))
    with playing(tmp_path / "r", speed=0) as (node, player):
        eventually(player.finished.is_set)
        node.end(node.pipelines[0], "over")
        account = taken(node, "sim", via)
        with usbcast.subscribe("sim", node.endpoint) as subscription:
            info = subscription.info
            with pytest.raises(CommandFailed, match="played from a recording"):
                subscription.command(0xC0, 1, length=2)
        assert not node.health()[0].discrepancies
    assert list(info.fields) == list(config_info.fields)
    assert (info.profile_toml, info.device) == (config_info.profile_toml, config_info.device)
    packets = b"".join(bytes(event.payload) for event in original if isinstance(event, usbcast.Batch))
    assert bytes(account.payload) == packets
    told = [event.kind for event in original if isinstance(event, usbcast.DeviceEvent)]
    assert [event.kind for event in account.of(usbcast.DeviceEvent)] == told
    assert "detached" in told
    lost = [(gap.first, gap.count, gap.reason) for gap in original if isinstance(gap, usbcast.Gap)]
    assert [(gap.first, gap.count, gap.reason) for gap in account.gaps] == lost
    assert account.end is not None


@pytest.mark.parametrize("via", WAYS)
def test_gaps_are_played(tmp_path: Path, via: str) -> None:
    make(tmp_path, gap_at=7)
    with playing(tmp_path, speed=0) as (node, player):
        eventually(player.finished.is_set)
        node.end(node.pipelines[0], "over")
        account = taken(node, "s", via)
        assert not node.health()[0].discrepancies
    assert [(gap.first, gap.last) for gap in account.gaps] == [(70, 79)]
    assert account.delivered == total() - PER_BATCH


def test_the_pace_is_that_of_the_recording(tmp_path: Path) -> None:
    make(tmp_path)  # 36 batches, a millisecond apart
    for speed, least_s in ((0.1, 0.35), (0.5, 0.07)):
        with playing(tmp_path, speed=speed) as (node, player):
            begin = time.monotonic()
            eventually(player.finished.is_set)
            assert time.monotonic() - begin >= least_s - 0.02
            node.end(node.pipelines[0], "over")
            with usbcast.subscribe("s", node.endpoint, start="oldest") as subscription:
                batches = list(subscription)
        times = [int(b.times_ns[0]) for b in batches]
        assert abs((times[-1] - times[0]) / 1e9 - least_s) < 0.01
        assert abs(times[-1] / 1e9 - time.time()) < 5, "the times are those of today"


def test_a_loop_goes_on_counting(tmp_path: Path) -> None:
    make(tmp_path, segments=1)
    with playing(tmp_path, speed=0, loop=True) as (node, player):
        eventually(lambda: player.passes >= 3)
        player.stop()
        node.end(node.pipelines[0], "enough")
        account = taken(node, "s", "ring")
    assert account.delivered >= 3 * total(1)
    assert not account.gaps


def test_from_to_and_step(tmp_path: Path) -> None:
    make(tmp_path)
    base_ns = 1_700_000_000_000_000_000
    options = {"start_ns": base_ns + 10_000_000, "until_ns": base_ns + 15_000_000, "step": True}
    with playing(tmp_path, **options) as (node, player):
        for n in range(1, 4):
            player.step()
            eventually(lambda n=n: node.pipelines[0].outlet.next_sequence == n * PER_BATCH)
        player.step()
        player.step()
        player.step()
        eventually(player.finished.is_set)
        node.end(node.pipelines[0], "over")
        with usbcast.subscribe("s", node.endpoint, start="oldest") as subscription:
            counts = [int(b.fields["count"][0]) for b in subscription]
    assert counts == [100, 110, 120, 130, 140]


@pytest.mark.slow
def test_what_is_played_can_be_recorded_again(tmp_path: Path) -> None:
    make(tmp_path, segments=2)
    log = tmp_path / "log"
    with running(
        log, "play", tmp_path / "r", "--bind", "tcp://127.0.0.1:0", "--speed", "0.5", "--linger-s", "3"
    ) as child:
        endpoint = child.wait_said("serving")["endpoint"]
        again = tmp_path / "again"
        again.mkdir()
        with running(
            tmp_path / "log2",
            "record",
            "s",
            "--endpoint",
            endpoint,
            "-o",
            again / "r",
            "--start",
            "oldest",
            "--until",
            "end",
        ) as recorder:
            assert recorder.process.wait(20) == 0, recorder.log.read_text()
        assert child.process.wait(20) == 0, log.read_text()
    found = verified(again)
    (books,) = found.ledger.epochs.values()
    assert found.balanced, found.ledger.problems
    assert books.recorded == total(2)


def test_restamping_keeps_holes_and_joins_epochs() -> None:
    stamper = Restamper(epoch=9)
    shift = Shift(1_700_000_000_000_000_000, 5_000_000_000, 7_000_000_000, speed=2.0)
    first = stamper.restamp(batch(3), shift)
    holed = stamper.restamp(batch(5), shift)
    other = stamper.restamp(batch(0, epoch=4), shift)
    assert first is not None
    assert holed is not None
    assert other is not None
    assert [(b.number, b.first_sequence, b.packet_count) for b in (first, holed, other)] == [
        (0, 0, 10), (2, 20, 10), (3, 30, 10),
    ]  # fmt: skip
    decoded = decode_batch(holed.raw)
    assert (decoded.epoch, bytes(decoded.payload)) == (9, bytes(batch(5).payload))
    assert decoded.arrivals.realtime_ns == (5_000_000_000 + 2_500_000,)
    assert decoded.arrivals.monotonic_ns == (7_000_000_000 + 2_500_000,)


def test_restamping_refuses_in_words_what_has_no_numbers_any_more() -> None:
    stamper = Restamper(9)
    for epoch in (3, 4):
        stamper.restamp(batch(0, epoch=epoch), None)
        with (
            pytest.raises(RecordingError, match="more than 64 bits can number")
            if epoch == 4
            else contextlib.nullcontext()
        ):
            stamper.restamp(replace(batch(0, epoch=epoch), first_sequence=2**63, number=2**63), None)


def test_restamping_keeps_times_within_their_bits() -> None:
    shift = Shift(-(2**63), 2**62, 2**62, speed=0.001)
    played = Restamper(9).restamp(batch(3), shift)
    assert played is not None
    assert decode_batch(played.raw).arrivals.realtime_ns[0] == 2**63 - 1

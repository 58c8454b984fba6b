"""Upstreams that are stopped, killed and cut off: what their ring held is there, and of the rest all are told the same."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from bridge_line import Start, Stream

from tests.support.nodes import WAYS, eventually
from tests.support.programs import Program, follow
from usbcast import NodeClient
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = pytest.mark.slow

ANY = "tcp://127.0.0.1:0"
STREAM = "first-case"
MakeLine = Callable[[dict[str, Any]], Stream]


def followers(programs: list[Program], endpoint: str, *arguments: str) -> list[Program]:
    """One by each way, all of them ready."""
    started = [follow(endpoint, via, *arguments) for via in WAYS]
    programs.extend(started)
    for program in started:
        program.hear("ready")
    return started


def check_whole(done: dict[str, Any]) -> None:
    assert (done["twice"], done["damaged"], done["unsaid"]) == (0, 0, 0)
    assert done["books"]["balanced"]


def health(endpoint: str) -> pb.StreamHealth:
    with NodeClient(endpoint) as node:
        (found,) = node.health().streams
    return found


def next_sequence(endpoint: str) -> int:
    with NodeClient(endpoint) as node:
        (info,) = node.describe()
    return info.next_sequence


def finish(node: Program, readers: list[Program]) -> list[dict[str, Any]]:
    """End the stream at its source; what the readers say at the end."""
    node.signal(signal.SIGINT)
    done = [reader.hear("done") for reader in readers]
    for said in done:
        assert said["ended"]
        check_whole(said)
    return done


def check_bridge(endpoint: str) -> pb.StreamHealth:
    found = health(endpoint)
    assert list(found.discrepancies) == []
    return found


def test_a_line_that_was_cut_while_the_ring_held_it_all(
    start: Start, start_far: Start, lines: MakeLine, programs: list[Program]
) -> None:
    node, serving = start_far("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", ANY)
    line = lines(serving)
    _, bridged = start("bridge", line.endpoint, "--via", "push", "--ring-size", "8MiB", "--bind", ANY)
    readers = followers(programs, bridged["endpoint"], "--start", "0")
    for reader in readers:
        reader.hear("figures", where=lambda said: said["delivered"] > 200)
    line.cut()
    for reader in readers:
        assert reader.hear("silence", 8)["upstream"], "the bridge lives; it is its upstream that is not heard"
    told = health(bridged["endpoint"])
    assert not told.attached
    assert told.source == line.endpoint
    assert told.source_silent_ns > 2.9e9
    assert f"{line.endpoint} has not answered" in told.problem
    with NodeClient(bridged["endpoint"]) as client:
        (info,) = client.describe()
        assert (info.source, info.attached) == (line.endpoint, False)
        assert info.source_silent_ns > 0
    line.mend()
    eventually(lambda: not health(bridged["endpoint"]).source_silent_ns)
    goal = next_sequence(serving["endpoint"]) + 500
    for reader in readers:
        reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
    for said in finish(node, readers):
        assert (said["begin"], said["lost"], said["first_counter"]) == (0, 0, 0)
        assert said["last_counter"] == said["delivered"] - 1
    assert check_bridge(bridged["endpoint"]).ended


def test_what_the_upstream_lost_meanwhile_is_the_same_gap_for_all_and_for_late_ones(
    start: Start, start_far: Start, lines: MakeLine, programs: list[Program]
) -> None:
    node, serving = start_far(
        "serve", "--simulate", "--rate", "2000", "--ring-size", "1MiB", "--batch-size", "4096", "--bind", ANY
    )
    line = lines(serving)
    _, first = start("bridge", line.endpoint, "--via", "push", "--ring-size", "16MiB", "--bind", ANY)
    _, second = start("bridge", first["endpoint"], "--ring-size", "16MiB", "--bind", ANY)
    readers = followers(programs, second["endpoint"], "--start", "oldest")
    for reader in readers:
        reader.hear("figures", where=lambda said: said["delivered"] > 400)
    line.cut()
    cut_at = next_sequence(serving["endpoint"])
    with NodeClient(serving["endpoint"]) as client:
        eventually(lambda: client.describe()[0].oldest_sequence > cut_at + 2000, timeout_s=40)
    line.mend()
    gaps = [reader.hear("gap", 40) for reader in readers]
    readers += followers(programs, second["endpoint"], "--start", "oldest")
    readers += followers(programs, first["endpoint"], "--start", "oldest")
    gaps += [reader.hear("gap") for reader in readers[3:]]
    assert [gap for gap in gaps if gap != gaps[0]] == [], gaps[0]
    assert (gaps[0]["stage"], gaps[0]["reason"]) == ("bridge", "upstream: overwritten in the ring")
    assert gaps[0]["count"] > 1000
    goal = next_sequence(serving["endpoint"]) + 500
    for reader in readers:
        reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
    inside = follow(second["endpoint"], "notify", "--start", str(gaps[0]["last"] - 10))
    programs.append(inside)
    late = inside.hear("gap")
    assert (late["first"], late["last"], late["count"]) == (gaps[0]["last"] - 10, gaps[0]["last"], 11)
    done = finish(node, readers)
    for said in done:
        assert (said["begin"], said["lost"]) == (done[0]["begin"], gaps[0]["count"])
        assert said["delivered"] == done[0]["delivered"]
    for endpoint in (first["endpoint"], second["endpoint"]):
        check_bridge(endpoint)
    upstream = next(ledger for ledger in health(first["endpoint"]).ledgers if ledger.stage == "upstream")
    assert dict(upstream.lost) == {"ring: overwritten in the ring": gaps[0]["count"]}


def test_an_upstream_that_hangs_goes_on_where_it_was(start: Start, programs: list[Program]) -> None:
    node, serving = start("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", ANY)
    _, bridged = start("bridge", serving["endpoint"], "--ring-size", "8MiB", "--bind", ANY)
    readers = followers(programs, bridged["endpoint"], "--start", "0")
    node.signal(signal.SIGSTOP)
    for reader in readers:
        assert reader.hear("silence", 8)["upstream"]
    node.signal(signal.SIGCONT)
    goal = next_sequence(serving["endpoint"]) + 500
    for reader in readers:
        reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
    for said in finish(node, readers):
        assert (said["begin"], said["lost"]) == (0, 0)


def test_an_upstream_that_was_killed_is_a_restart_for_all(start: Start, programs: list[Program]) -> None:
    node, serving = start("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", ANY)
    _, first = start("bridge", serving["endpoint"], "--ring-size", "8MiB", "--bind", ANY)
    _, second = start("bridge", first["endpoint"], "--via", "push", "--ring-size", "8MiB", "--bind", ANY)
    readers = followers(programs, second["endpoint"], "--start", "0")
    for reader in readers:
        reader.hear("figures", where=lambda said: said["delivered"] > 200)
    node.signal(signal.SIGKILL)
    node.finish()
    again, same = start("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", serving["endpoint"])
    assert same["endpoint"] == serving["endpoint"]
    restarts = [reader.hear("restart", 15) for reader in readers]
    assert len({(told["old"], told["new"]) for told in restarts}) == 1
    with NodeClient(second["endpoint"]) as client:
        assert client.describe()[0].epoch == restarts[0]["new"]
    readers += followers(programs, second["endpoint"], "--start", "0")
    for reader in readers:
        reader.hear("figures", where=lambda said: (said["next"] or 0) > 500)
    for said in finish(again, readers):
        assert said["lost"] == 0
    for endpoint in (first["endpoint"], second["endpoint"]):
        assert check_bridge(endpoint).ended


def test_a_bridge_that_was_killed_goes_on_in_the_same_epoch(start: Start, programs: list[Program]) -> None:
    node, serving = start("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", ANY)
    bridge, bridged = start("bridge", serving["endpoint"], "--ring-size", "8MiB", "--bind", ANY)
    readers = followers(programs, bridged["endpoint"], "--start", "0")
    for how in (signal.SIGKILL, signal.SIGINT):
        goal = next_sequence(serving["endpoint"]) + 200
        for reader in readers:
            reader.hear("figures", where=lambda said, goal=goal: (said["next"] or 0) > goal)
        bridge.signal(how)
        bridge.finish()
        for reader in readers:
            assert not reader.hear("silence", 8)["upstream"]
        bridge, again = start("bridge", serving["endpoint"], "--ring-size", "8MiB", "--bind", bridged["endpoint"])
        assert again["endpoint"] == bridged["endpoint"]
    goal = next_sequence(serving["endpoint"]) + 200
    for reader in readers:
        reader.hear("figures", where=lambda said: (said["next"] or 0) > goal)
    for said in finish(node, readers):
        assert (said["begin"], said["lost"]) == (0, 0), "the ring of the node held it all"
        assert not any("restart" in line for reader in readers for line in reader.out)


def test_an_end_upstream_ends_the_epoch_and_the_next_life_is_served(start: Start, programs: list[Program]) -> None:
    node, serving = start("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", ANY)
    bridge, bridged = start("bridge", serving["endpoint"], "--ring-size", "8MiB", "--bind", ANY)
    readers = followers(programs, bridged["endpoint"])
    totals = {said["next"] for said in finish(node, readers)}
    node.finish()
    assert len(totals) == 1
    (total,) = totals
    for said in (done for done in [follow_to_end(programs, bridged["endpoint"])]):
        assert (said["begin"], said["delivered"]) == (0, total), "a late one has all, and the end"
    again, _ = start("serve", "--simulate", "--rate", "500", "--ring-size", "8MiB", "--bind", serving["endpoint"])
    eventually(lambda: not health(bridged["endpoint"]).ended)
    readers = followers(programs, bridged["endpoint"], "--start", "0")
    for reader in readers:
        reader.hear("figures", where=lambda said: said["delivered"] > 100)
    for said in finish(again, readers):
        assert (said["begin"], said["lost"]) == (0, 0)
    check_bridge(bridged["endpoint"])
    bridge.signal(signal.SIGINT)
    ended = bridge.hear("ended")["streams"][STREAM]
    assert ended["balanced"]
    assert bridge.finish() == 0


def follow_to_end(programs: list[Program], endpoint: str) -> dict[str, Any]:
    reader = follow(endpoint, "notify", "--start", "0")
    programs.append(reader)
    return reader.hear("done")


def test_each_byte_crosses_the_line_once_however_many_listen(
    start: Start, start_far: Start, lines: MakeLine, programs: list[Program]
) -> None:
    _, serving = start_far("serve", "--simulate", "--rate", "2000", "--ring-size", "8MiB", "--bind", ANY)
    line = lines(serving)
    _, bridged = start("bridge", line.endpoint, "--via", "push", "--start", "now", "--ring-size", "8MiB", "--bind", ANY)
    per_packet = []
    for listeners in (1, 8):
        readers = [follow(bridged["endpoint"], WAYS[n % 3]) for n in range(len(programs) - 2, listeners)]
        programs.extend(readers)
        for reader in readers:
            reader.hear("ready")
        packets, carried = next_sequence(bridged["endpoint"]), line.from_node
        eventually(lambda packets=packets: next_sequence(bridged["endpoint"]) > packets + 4000)
        per_packet.append((line.from_node - carried) / (next_sequence(bridged["endpoint"]) - packets))
    one, eight = per_packet
    assert one > 112, "all of it went through this line"
    assert eight < one * 1.15, f"{one:.1f} bytes per packet for one listener, {eight:.1f} for eight"

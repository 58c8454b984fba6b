"""The rig itself: hosts are apart, links do what they are told, and nothing is left, however a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from netrig.site import Host, site
from netrig.wire import Direction, Shape

from tests.support.nodes import eventually

SEND = """
import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])):
    sender.sendto(n.to_bytes(4) + bytes(96), (sys.argv[1], 9000))
    time.sleep(0.0005)
"""
HEAR = """
import json, socket, sys, time
hearer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hearer.bind(("0.0.0.0", 9000))
print(json.dumps({"event": "ready"}), flush=True)
hearer.settimeout(30)
heard = []
try:
    while True:
        heard.append(int.from_bytes(hearer.recv(100)[:4]))
        hearer.settimeout(0.5)
except TimeoutError:
    print(json.dumps({"event": "heard", "heard": heard}), flush=True)
"""
PACKET_BYTES = 100 + 28
"""With the heads of UDP and IP."""


def test_hosts_are_apart() -> None:
    code = (
        "import json, socket; from usbcast_schemas.places import host_id;"
        "print(json.dumps([socket.gethostname(), host_id()]))"
    )
    with site(2) as made:
        (name_a, id_a), (name_b, id_b) = (json.loads(host.run(sys.executable, "-c", code)) for host in made.hosts)
        assert (name_a, name_b) == ("a", "b")
        assert id_a != id_b
        assert sorted(interfaces(made.hosts[0])) == ["ab", "lo"]


def interfaces(host: Host) -> list[str]:
    """Those that are up."""
    found = json.loads(host.run("ip", "-json", "link", "show", "up"))
    return [link["ifname"] for link in found]


def test_a_link_loses_what_it_is_told_to() -> None:
    with site(2, seed=7) as made:
        (link,) = made.links
        link.shape(loss=0.1, delay_s=0.05)
        with made.hosts[1].start([sys.executable, "-c", HEAR]) as hearer:
            hearer.hear("ready")
            made.hosts[0].run(sys.executable, "-c", SEND, link.addresses[1], "1000")
            heard = hearer.hear("heard")["heard"]
        there = link.counts()[0]
        assert len(heard) == there["passed"] == 1000 - there["lost"]
        assert 60 < there["lost"] < 140
        assert heard == sorted(heard), "without jitter nothing overtakes"


def test_a_device_that_is_down_carries_nothing_and_then_goes_on() -> None:
    with site(2) as made:
        (link,) = made.links
        link.set_up(False)
        assert subprocess.run(
            made.hosts[0].command([sys.executable, "-c", SEND, link.addresses[1], "1"]),
            check=False,
            capture_output=True,
        ).returncode, "the network is unreachable"
        link.set_up(True)
        with made.hosts[1].start([sys.executable, "-c", HEAR]) as hearer:
            hearer.hear("ready")
            made.hosts[0].run(sys.executable, "-c", SEND, link.addresses[1], "10")
            assert hearer.hear("heard")["heard"] == list(range(10))


def passing(shape: Shape, times_s: list[float]) -> list[float | None]:
    """When packets that enter at these times come out."""
    direction = Direction(-1, -1, "seed")
    direction.shape = shape
    return [direction.due(PACKET_BYTES, at_s) for at_s in times_s]


def test_a_throttled_link_sends_at_its_rate_and_drops_what_its_queue_does_not_hold() -> None:
    each_s = 0.001
    shape = Shape(rate_bits_per_s=PACKET_BYTES * 8 / each_s, queue_bytes=10 * PACKET_BYTES + 1)
    out = passing(shape, [0.0] * 12)
    assert out[:10] == pytest.approx([each_s * (n + 1) for n in range(10)])
    assert out[10:] == [None, None]
    assert passing(shape, [0.0, 5.0]) == pytest.approx([each_s, 5.0 + each_s]), "after a pause it is as new"


def test_a_delay_is_added_and_jitter_stays_within_its_bounds() -> None:
    assert passing(Shape(delay_s=0.2), [1.0, 2.0]) == pytest.approx([1.2, 2.2])
    out = [at_s for at_s in passing(Shape(delay_s=0.2, jitter_s=0.05), [0.0] * 1000) if at_s is not None]
    assert 0.15 <= min(out) < 0.16
    assert 0.24 < max(out) <= 0.25


def test_the_same_seed_loses_the_same() -> None:
    one, two = (passing(Shape(loss=0.5), [float(n) for n in range(100)]) for _ in range(2))
    assert one == two
    assert 20 < one.count(None) < 80


def test_a_killed_run_leaves_nothing() -> None:
    """The run's own process is killed, as by CI that has lost its patience; hosts, wire and programs go with it."""
    code = (
        f"import sys, time; sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parent)]!r}\n"
        "from netrig.site import site\n"
        "with site(2) as made:\n"
        "    program = made.hosts[0].start(['sleep', '1000'])\n"
        "    print(program.pid, *[host.pid for host in made.hosts], made.wire_pid, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 4
        assert all(map(runs, pids))
        os.kill(run.pid, signal.SIGKILL)
    eventually(lambda: not any(map(runs, pids)), f"some of {pids} still run")


def runs(pid: int) -> bool:
    """Whether it is a process that is not waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

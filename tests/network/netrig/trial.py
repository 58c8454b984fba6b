"""A trial: a stream sent over bad links to a recorder and two subscribers on the last host, and what each of them got.

With two hosts they subscribe to the node itself; with three, to a bridge on the host between.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from netrig.site import Host, Site, site
from tests.support.programs import FOLLOWER, Program, usbcast

PORT = 5570
STREAM = "first-case"
VIAS = ("push", "notify")
JOINING_S = 60.0
"""All trials begin at the same time, on however few processors there are."""

MOST_BYTES = 200_000_000
"""Of memory for each program, the ring of 64 MiB included: whatever the link does, it stays far below."""


@dataclass(frozen=True)
class Trial:
    """What is sent, and what is done to the link. `disturb` runs once all have joined and returns when it is over."""

    name: str
    rate_hz: int = 1000
    packets: int = 15_000
    packet_size: int = 112
    ring_size: str = "64MiB"
    shape: dict[str, float] = field(default_factory=dict)
    """Of all links; with `bridge_options`, of the first one alone."""
    disturb: Callable[[Site], None] | None = None
    hosts: int = 2
    bridge_options: tuple[str, ...] = ()
    """What the bridge is told to leave out."""
    loses: bool = False
    """The ring cannot hold what the link holds back, so there must be gaps."""
    deadline_s: float = 100.0
    seed: int = 1


@dataclass
class Outcome:
    """What a trial came to: the last words of all programs."""

    trial: Trial
    servers: dict[str, dict[str, Any]]
    recording: dict[str, Any]
    followers: dict[str, dict[str, Any]]
    silences: dict[str, int]
    peak_bytes: dict[str, int]
    seconds: float
    wire: list[dict[str, int]]

    def row(self) -> str:
        """One line for people."""
        said = [f"{self.trial.name}: {self.seconds:.0f} s"]
        (epoch,) = self.recording["streams"]
        said.append(f"recorder {epoch['recorded']:,} + {sum(epoch['lost'].values()):,} lost {epoch['lost']}")
        for via, done in self.followers.items():
            said.append(
                f"{via} {done['delivered']:,} + {done['lost']:,} lost, {done['books']['counters']}, "
                f"silences {self.silences[via]}"
            )
        said.append(", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in self.peak_bytes.items()))
        said.append("carried " + " and ".join(f"{link['passed_bytes']:,}" for link in self.wire) + " bytes")
        return " | ".join(said)


def run(trial: Trial, directory: Path) -> Outcome:
    """Run it to the end of the stream."""
    begin_s = time.monotonic()
    directory.mkdir(exist_ok=True)
    with site(trial.hosts, trial.seed) as made, contextlib.ExitStack() as stack:
        first, *_, last = made.hosts
        for link in made.links[:1] if trial.bridge_options else made.links:
            link.shape(**trial.shape)
        serving = stack.enter_context(serve(first, trial))
        servers = {"node": serving}
        serving.hear("serving")
        endpoint = f"tcp://{made.links[0].addresses[0]}:{PORT}"
        if trial.hosts == 3:
            servers["bridge"] = stack.enter_context(bridge(made.hosts[1], endpoint, trial))
            servers["bridge"].hear("serving", 30)
            endpoint = f"tcp://{made.links[1].addresses[0]}:{PORT}"
        with contextlib.ExitStack() as listening:
            recorder = listening.enter_context(record(last, endpoint, directory))
            followers = {via: listening.enter_context(follow(last, endpoint, via)) for via in VIAS}
            peaks = listening.enter_context(Peaks({**servers, "recorder": recorder, **followers}))
            if trial.disturb:
                recorder.hear("figures", JOINING_S, where=lambda said: said["streams"][STREAM]["packets"] > 0)
                for follower in followers.values():
                    follower.hear("figures", JOINING_S, where=lambda said: said["delivered"] > 0)
                trial.disturb(made)
            deadline_s = time.monotonic() + trial.deadline_s
            done = {via: follower.hear("done", deadline_s - time.monotonic()) for via, follower in followers.items()}
            recorder.hear("ended", max(0.1, deadline_s - time.monotonic()))
            assert recorder.finish() == 0
            silences = {
                via: sum(json.loads(line)["event"] == "silence" for line in follower.out)
                for via, follower in followers.items()
            }
        ended = {}
        for name, server in reversed(servers.items()):
            server.signal(signal.SIGINT)
            ended[name] = server.hear("ended")["streams"][STREAM]
            assert server.finish() == 0
        wire = [link.counts()[0] for link in made.links]
        took_s = time.monotonic() - begin_s
    return Outcome(trial, ended, verify(directory), done, silences, peaks.bytes, took_s, wire)


def serve(host: Host, trial: Trial) -> Program:
    return host.start(
        usbcast(
            "serve", "--simulate", "--json", "--insecure",
            "--bind", f"tcp://0.0.0.0:{PORT}",
            "--rate", str(trial.rate_hz),
            "--packets", str(trial.packets),
            "--packet-size", str(trial.packet_size),
            "--ring-size", trial.ring_size,
            "--linger-s", str(trial.deadline_s),
        )
    )  # fmt: skip


def bridge(host: Host, endpoint: str, trial: Trial) -> Program:
    """A bridge that can be reached by all links of its host."""
    return host.start(
        usbcast(
            "bridge", endpoint, "--json", "--insecure", "--wait", *trial.bridge_options,
            "--bind", f"tcp://0.0.0.0:{PORT}",
            "--ring-size", trial.ring_size,
            "--linger-s", str(trial.deadline_s),
        )
    )  # fmt: skip


def record(host: Host, endpoint: str, directory: Path) -> Program:
    """A recorder that ends with the stream."""
    return host.start(
        usbcast(
            "record", STREAM, "--json", "--endpoint", endpoint, "--output", str(directory / "run"), "--start", "oldest",
            "--until", "end", "--wait",
        )
    )  # fmt: skip


def follow(host: Host, endpoint: str, via: str, start: str = "0") -> Program:
    return host.start([sys.executable, str(FOLLOWER), endpoint, STREAM, via, "--start", start])


def verify(directory: Path) -> dict[str, Any]:
    """What `usbcast verify` says of the one recording."""
    with Program(usbcast("verify", "--json", str(directory))) as program:
        program.finish(60)
    found = json.loads(program.stdout)["recordings"]
    assert len(found) == 1, program.stderr
    return dict(found[0])


class Peaks:
    """Looks at the memory of running programs, several times a second."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self.bytes = dict.fromkeys(programs, 0)
        self._programs = programs
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peaks")

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            for name, program in self._programs.items():
                self.bytes[name] = max(self.bytes[name], peak_bytes(program.pid))


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had so far; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def check(outcome: Outcome) -> None:
    """Everybody got every packet that the device sent, or was told exactly which were lost."""
    trial = outcome.trial
    node = outcome.servers["node"]
    assert node["ledgers"]["outlet"]["out"] == trial.packets
    assert not any(ledger["lost"] for ledger in node["ledgers"].values()), "the node was not slowed"
    assert all(server["balanced"] for server in outcome.servers.values())
    (epoch,) = outcome.recording["streams"]
    assert outcome.recording["balanced"], outcome.recording["problems"]
    assert epoch["ended"]
    told = sum(epoch["lost"].values()) + sum(epoch["left_out"].values())
    assert epoch["recorded"] + told == trial.packets - epoch["first_sequence"]
    for done in outcome.followers.values():
        assert done["ended"]
        assert (done["twice"], done["damaged"], done["unsaid"]) == (0, 0, 0)
        assert done["begin"] == 0
        assert done["delivered"] + done["lost"] == trial.packets
        assert done["books"]["balanced"]
        assert done["books"]["out"] == done["delivered"]
        left_out = done["books"]["overhead"]
        assert sum(done["books"]["lost"].values()) + left_out == done["lost"]
        assert bool(left_out) == bool(trial.bridge_options), "what a bridge is told to leave out is not taken for loss"
    assert max(outcome.peak_bytes.values()) < MOST_BYTES
    lost = [done["lost"] for done in outcome.followers.values()] + [sum(epoch["lost"].values())]
    if trial.loses:
        assert any(lost)
    else:
        assert not any(lost)

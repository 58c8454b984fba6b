"""The system of a run: every process of it, started, disturbed and ended by its own id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.chaos.plan import STREAM, Plan, Reader
from tests.support.ports import free_ports

START_S = 30.0
END_S = 90.0
"""Generous: a machine with two busy cores must be enough. What takes so long hangs."""

HERE = Path(__file__).parent


class Failed(Exception):
    """A process of the run did not do what every run needs."""


def nats_server() -> str | None:
    """The NATS server of this machine, if there is one."""
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")


def faketime_library() -> str | None:
    """The library that steps the clock of one process, if there is one."""
    found = sorted(Path("/usr").glob("lib/*/faketime/libfaketimeMT.so.1"))
    return str(found[0]) if found else None


def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what} took more than {timeout_s:.0f} s")
        time.sleep(0.02)


class System:
    """Node, bridges, NATS server, recorders and readers of one run, in the directory `place`."""

    def __init__(self, plan: Plan, place: Path, rings: Path) -> None:
        self.plan = plan
        self.place = place
        ports = iter(free_ports(2 * (len(plan.bridges) + 1) + 1))
        self._endpoints = [f"tcp://127.0.0.1:{next(ports)}" for _ in range(len(plan.bridges) + 1)]
        self._data = [f"tcp://127.0.0.1:{next(ports)}" for _ in range(len(plan.bridges) + 1)]
        self._server_port = next(ports)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("USBCAST_")},
            "USBCAST_RING_DIR": str(rings),
            "USBCAST_RUNTIME_DIR": str(place / "run"),
            "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
        }
        if "USBCAST_PURE" in os.environ:
            self._environment["USBCAST_PURE"] = os.environ["USBCAST_PURE"]
        (place / "run").mkdir(mode=0o700)
        (place / "faults.toml").write_text("\n".join(_table(fault) for fault in plan.faults))
        (place / "clock").write_text("+0")
        self._clock_s = 0.0
        self._programs: list[subprocess.Popen[bytes]] = []
        self._suspended: dict[int, float] = {}
        self.lives: list[Path] = []
        """A log of the device for each time that the node was started."""
        self.node: subprocess.Popen[bytes]
        self.bridges: list[subprocess.Popen[bytes]] = []
        self.recorders: list[subprocess.Popen[bytes]] = []
        self.readers: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: set[str] = set()
        self._hurried: set[str] = set()
        self.server: subprocess.Popen[bytes] | None = None
        self.store: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> System:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for program in self._programs:
            if program.poll() is None:
                program.kill()
            program.wait()

    def _start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        with (self.place / f"{name}.out").open("ab") as out, (self.place / f"{name}.err").open("ab") as err:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**self._environment, **environment},
                start_new_session=True,
            )
        self._programs.append(program)
        return program

    def start_node(self, seconds: float) -> None:
        """Start the node with a device that has packets for so many seconds, and wait until it serves."""
        plan = self.plan
        log = self.place / f"device-{len(self.lives)}.json"
        self.lives.append(log)
        device = {
            "rate_hz": plan.rate_hz,
            "packet_size": plan.packet_size,
            "max_packet_size": plan.max_packet_size,
            "packets": max(1, int(plan.rate_hz * seconds)),
            "seed": plan.seed,
        }
        node = {
            "bind": self._endpoints[0],
            "publish": self._data[0],
            "ring_size": plan.ring_size,
            "ring_slots": plan.ring_slots,
        }
        faked = {}
        library = faketime_library()
        if library and any(step.what == "step-clock" for step in plan.steps):
            faked = {
                "LD_PRELOAD": library,
                "FAKETIME_TIMESTAMP_FILE": str(self.place / "clock"),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self.node = self._start(
            "node",
            [
                *(sys.executable, "-m", "tests.chaos.device_node", "--stream", STREAM),
                *("--device", json.dumps(device), "--node", json.dumps(node)),
                *("--faults", str(self.place / "faults.toml"), "--log", str(log)),
            ],
            **faked,
        )
        until(lambda: log.exists() or self.node.poll() is not None, "the start of the node", START_S)
        if self.node.poll() is not None:
            raise Failed(f"the node ended with {self.node.returncode}: {self.text('node.err')[-600:]}")

    def start_bridge(self, index: int) -> None:
        bridge = self.plan.bridges[index]
        program = self._start(
            f"bridge-{index}",
            self._usbcast(
                *("bridge", self._endpoints[index], "--bind", self._endpoints[index + 1]),
                *("--publish", self._data[index + 1], "--ring-size", str(bridge["ring_size"])),
                *("--via", str(bridge["via"]), "--wait", "--json"),
            ),
        )
        self.bridges[index : index + 1] = [program]

    def start_store(self) -> None:
        """Start the NATS server and the bridge that stores the stream there."""
        self.start_server()
        self.store = self._start(
            "store",
            self._usbcast("bridge", self._endpoints[0], "--to", self._server_endpoint, "--wait", "--json"),
        )

    def start_server(self) -> None:
        program = nats_server()
        assert program is not None
        self.server = self._start(
            "server",
            [program, "-js", "-a", "127.0.0.1", "-p", str(self._server_port), "-sd", str(self.place / "nats")],
        )

    def start_recorder(self, index: int, *, resume: bool = False) -> None:
        program = self._start(
            f"recorder-{index}",
            self._usbcast(
                *("record", STREAM, "--endpoint", self.endpoint(self.plan.recorders[index])),
                *("--output", str(self.place / f"recording-{index}"), "--start", "oldest", "--wait", "--json"),
                *(["--resume"] if resume else []),
            ),
        )
        self.recorders[index : index + 1] = [program]

    def start_reader(self, reader: Reader) -> None:
        name = reader.name
        while name in self.readers:  # another one in the place of one that was killed
            name += "+"
        self.readers[name] = self._start(
            name,
            [
                *(sys.executable, "-m", "tests.chaos.reader", "--stream", STREAM, "--log", str(self.log_of(name))),
                *("--endpoint", self.endpoint(reader.place), "--via", reader.via, "--form", reader.form),
                *("--start", reader.start, "--deliver", reader.deliver, "--pause-s", str(reader.pause_s)),
                *([] if reader.copies else ["--in-place"]),
            ],
        )

    def endpoint(self, place: int) -> str:
        return self._server_endpoint if place < 0 else self._endpoints[place]

    @property
    def _server_endpoint(self) -> str:
        return f"nats://127.0.0.1:{self._server_port}"

    def log_of(self, name: str) -> Path:
        return self.place / f"{name}.json"

    def text(self, name: str) -> str:
        path = self.place / name
        return path.read_text(errors="replace") if path.exists() else ""

    @staticmethod
    def _usbcast(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "usbcast", *arguments]

    def suspend(self, program: subprocess.Popen[bytes], for_s: float) -> None:
        """Stop a process as a debugger does; `wake` lets it go on when its time is over."""
        if program.poll() is None:
            program.send_signal(signal.SIGSTOP)
            self._suspended[self._programs.index(program)] = time.monotonic() + for_s

    def wake(self, *, everybody: bool = False) -> None:
        for index, until_s in list(self._suspended.items()):
            if everybody or time.monotonic() > until_s:
                self._programs[index].send_signal(signal.SIGCONT)
                del self._suspended[index]

    def kill_reader(self, name: str) -> None:
        self.readers[name].kill()
        self.readers[name].wait()
        self.killed.add(name)

    def replace_reader(self, reader: Reader) -> None:
        """Kill a reader, and let another one like it join."""
        name = max((one for one in self.readers if one.rstrip("+") == reader.name), key=len)
        self.kill_reader(name)
        self.start_reader(replace(reader, start="oldest"))

    def step_clock(self, by_s: float) -> None:
        self._clock_s += by_s
        beside = self.place / "clock.new"
        beside.write_text(f"{self._clock_s:+.0f}")
        beside.replace(self.place / "clock")

    def _hurry(self, reader: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait until `reader` has ended, and tell all readers to be slow no longer; False if it has not by `deadline`.

        Each is told once, when it has a log: before that it is still starting, and the signal would end it.
        """
        while time.monotonic() < deadline:
            for name, other in self.readers.items():
                if name not in self._hurried and other.poll() is None and self.log_of(name).exists():
                    self._hurried.add(name)
                    other.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                reader.wait(1.0)
                return True
        return reader.poll() is not None

    def finish(self) -> list[str]:
        """End the stream, let everybody come to its end, and end all processes; return who did not end when told to."""
        problems = []
        self.wake(everybody=True)
        self.node.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for name, reader in self.readers.items():
            if not self._hurry(reader, deadline):
                problems.append(f"{name} did not come to the end of the stream in {END_S:.0f} s")
                problems += _ended(name, reader)
        for index, recorder in enumerate(self.recorders):
            problems += _ended(f"recorder-{index}", recorder)
        for index, bridge in enumerate(self.bridges):
            problems += _ended(f"bridge-{index}", bridge)
        if self.store is not None:
            problems += _ended("store", self.store)
        problems += _ended("node", self.node)
        if self.server is not None:
            problems += _ended("server", self.server)
        return problems


def _ended(name: str, program: subprocess.Popen[bytes]) -> list[str]:
    if program.poll() is None:
        program.send_signal(signal.SIGTERM)
        try:
            program.wait(30)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            return [f"{name} was not ended by SIGTERM in 30 s"]
    return []


def _table(fault: dict[str, Any]) -> str:
    return "[[fault]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fault.items())

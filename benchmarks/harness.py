"""Runs: starts the processes of one, hears them, measures the broker between them, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.peers import load, program_path
from benchmarks.processes import cpu_ns
from benchmarks.task import PACKET_BYTES, Task

ROOT = Path(__file__).parent.parent
STARTING_S = 25.0
SHARED_MEMORY = Path("/dev/shm")


class RunFailed(Exception):
    """A run did not come to its end."""


@dataclass
class Run:
    """What the processes of one run said."""

    task: Task
    sent: dict[str, Any]
    done: list[dict[str, Any]]
    server_cpu_ns: int
    up_s: float
    """From the start of the publisher's process until it was up."""
    joined_s: float
    """From the start of the first subscriber's process until it had something."""

    @property
    def lost_blocks(self) -> int:
        """Sent and not received, by all subscribers together."""
        return sum(self.sent["blocks"] - int(one["received"]) for one in self.done)

    @property
    def wrong(self) -> int:
        return sum(one["wrong"] for one in self.done)

    @property
    def packets_per_s(self) -> float:
        """Delivered to all subscribers together, from the first block handed in to the last one delivered."""
        last_ns = max(one["last_ns"] for one in self.done)
        packets = sum(one["received"] for one in self.done) * self.task.block_packets
        return float(packets) / ((last_ns - self.sent["begin_ns"]) / 1e9)

    @property
    def publisher_cpu(self) -> float:
        """Per cent of a core."""
        return 100.0 * float(self.sent["cpu_ns"]) / float(self.sent["end_ns"] - self.sent["begin_ns"])

    @property
    def subscriber_cpu(self) -> float:
        """Per cent of a core, of the first subscriber."""
        return 100.0 * float(self.done[0]["cpu_ns"]) / float(self.done[0]["elapsed_ns"])

    @property
    def server_cpu(self) -> float:
        return 100.0 * self.server_cpu_ns / float(self.sent["end_ns"] - self.sent["begin_ns"])

    @property
    def mb_per_s(self) -> float:
        return self.packets_per_s * PACKET_BYTES / 1e6


def run(task: Task, limit_s: float = 60.0) -> Run:
    """One run of `task`. Raises RunFailed if it takes longer than `limit_s` or a process fails."""
    deadline = time.monotonic() + limit_s
    with _directory() as directory, _Children() as children:
        task = task.but(directory=str(directory), port=_free_port())
        (directory / "progress").write_bytes(bytes(8 * max(8, task.subscribers)))
        server = load(task.peer).server
        server_pid = 0
        if server is not None:
            program, *arguments = server(task)
            server_pid = children.serve([program_path(program) or program, *arguments], task.port)
        children.start("publisher", "benchmarks.worker", "publish", task.to_json())
        up = children.wait_for("up", 1, min(deadline, time.monotonic() + STARTING_S))[0]
        task = task.but(address=up["address"])
        for index in range(task.subscribers):
            children.start(f"subscriber {index}", "benchmarks.worker", "subscribe", task.but(index=index).to_json())
        ready = children.wait_for("ready", task.subscribers, min(deadline, time.monotonic() + STARTING_S))
        joined_s = min(float(one["after_s"]) for one in ready)
        before_ns = cpu_ns(server_pid) if server_pid else 0
        children.tell("publisher", "go\n")
        sent = children.wait_for("sent", 1, deadline)[0]
        server_cpu_ns = cpu_ns(server_pid) - before_ns if server_pid else 0
        done = children.wait_for("done", task.subscribers, deadline)
        children.tell("publisher", "stop\n")
        children.wait_for("closed", 1, min(deadline, time.monotonic() + 10.0))
        return Run(task, sent, sorted(done, key=lambda one: int(one["index"])), server_cpu_ns, up["after_s"], joined_s)


class _Children:
    """The processes of one run; none of them outlives it."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._kept: list[dict[str, Any]] = []
        self._files = contextlib.ExitStack()

    def __enter__(self) -> _Children:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._files.close()

    def start(self, name: str, module: str, *arguments: str) -> None:
        errors = self._open_errors()
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        self._processes[name] = process
        threading.Thread(target=self._listen, args=(name, process, errors, begin), daemon=True).start()

    def serve(self, command: list[str], port: int) -> int:
        """Start a broker and wait until it listens."""
        errors = self._open_errors()
        process = subprocess.Popen(command, stdout=errors, stderr=errors, text=True, start_new_session=True)
        self._processes["server"] = process
        end = time.monotonic() + STARTING_S
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return process.pid
            time.sleep(0.02)
        errors.seek(0)
        raise RunFailed(f"{command[0]} does not listen: {errors.read()[-300:]}")

    def _open_errors(self) -> IO[str]:
        return self._files.enter_context(tempfile.TemporaryFile("w+"))

    def tell(self, name: str, what: str) -> None:
        stdin = self._processes[name].stdin
        assert stdin is not None
        stdin.write(what)
        stdin.flush()

    def wait_for(self, event: str, times: int, deadline: float) -> list[dict[str, Any]]:
        """Hear until `event` was said so often."""
        found = [said for said in self._kept if said["event"] == event]
        self._kept = [said for said in self._kept if said["event"] != event]
        while len(found) < times:
            try:
                said = self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise RunFailed(f"{len(found)} of {times} said {event!r} in time") from None
            if said["event"] == "failed":
                raise RunFailed(f"{said['who']}: {said['why']}")
            (found if said["event"] == event else self._kept).append(said)
        return found

    def _listen(self, name: str, process: subprocess.Popen[str], errors: IO[str], begin: float) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in process.stdout:
                with contextlib.suppress(json.JSONDecodeError):  # some libraries write to standard output as well
                    self._heard.put({**json.loads(line), "who": name, "after_s": time.monotonic() - begin})
            if process.wait() > 0:
                errors.seek(0)
                lines = errors.read().strip().splitlines()
                self._heard.put({"event": "failed", "who": name, "why": lines[-1] if lines else "no reason given"})


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="usbcast-bench-", dir=where))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

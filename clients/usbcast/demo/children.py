"""The demo's children: started as processes of their own, heard line by line, and all ended when the demo ends."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any

from usbcast_broker.access import binding
from usbcast_schemas.errors import NodeError
from usbcast_schemas.places import ring_directory, runtime_directory
from usbcast_schemas.registry import local_nodes
from usbcast_schemas.ring import sweep

Heard = tuple[str, dict[str, Any]]


class Children:
    """Starts children and hears them. A context manager: none of them outlives it, and nothing that a node left."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        # One that had to be killed could not do so itself.
        sweep(ring_directory())
        binding.sweep(runtime_directory())
        local_nodes()

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start `python -m module` under `name`, in a session of its own: Ctrl-C reaches the parent alone."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._processes[name] = process
        threading.Thread(target=self._listen, args=(name, process), daemon=True).start()

    def interrupt(self, name: str) -> None:
        if name in self._processes and self._processes[name].poll() is None:
            self._processes[name].send_signal(signal.SIGINT)

    def hear(self, timeout_s: float) -> Heard | None:
        """The next thing that a child says; None if none says anything. Raises NodeError if one has failed."""
        try:
            name, said = self._heard.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if said["event"] == "failed":
            raise NodeError(f"the demo's {name} has failed: {said['why']}")
        return name, said

    def wait_for(self, name: str, event: str, timeout_s: float) -> dict[str, Any]:
        """Hear until `name` says `event`; raise NodeError if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            heard = self.hear(deadline - time.monotonic())
            if heard and heard[0] == name and heard[1]["event"] == event:
                return heard[1]
        raise NodeError(f"the demo's {name} did not report {event!r} within {timeout_s:g} s")

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        stdout, stderr = process.stdout, process.stderr
        assert stdout is not None
        assert stderr is not None
        errors: list[str] = []
        drain = threading.Thread(target=_collect, args=(stderr, errors), daemon=True)
        drain.start()
        for line in stdout:
            self._heard.put((name, json.loads(line)))
        drain.join()
        if process.wait() != 0:
            why = errors[-1].strip() if errors else f"it ended with {process.returncode}"
            self._heard.put((name, {"event": "failed", "why": why}))


def _collect(stream: IO[str], into: list[str]) -> None:
    for line in stream:
        into.append(line)
        del into[:-50]

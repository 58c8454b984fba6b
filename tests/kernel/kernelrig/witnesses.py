"""The subscribers on the host: a process each, started together, heard together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kernelrig.lines import Lines

Told = dict[str, Any]


class WitnessProcess:
    """One subscriber in a process of its own."""

    def __init__(self, stream: str, endpoint: str, via: str, shape: str) -> None:
        rig = Path(__file__).resolve().parents[1]
        path = os.pathsep.join(filter(None, (str(rig), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kernelrig.witness", stream, endpoint, via, shape],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._lines = Lines(f"the subscriber by {via}")
        self._thread = threading.Thread(target=self._listen, name=f"witness {via}", daemon=True)
        self._thread.start()

    def wait_for(self, wanted: Callable[[Told], bool], timeout_s: float) -> Told:
        """What it told first that is wanted."""
        found: Told = json.loads(self._lines.wait_for(lambda line: wanted(json.loads(line)), timeout_s))
        return found

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _listen(self) -> None:
        with self._process.stdout or sys.stdin as out:
            for line in out:
                self._lines.add(line)
        self._lines.end()


class Witnesses:
    """Several subscribers of one stream, of packets of the shape of that name. A context manager that ends them."""

    def __init__(self, stream: str, endpoint: str, ways: Sequence[str], shape: str = "") -> None:
        self._all = [WitnessProcess(stream, endpoint, via, shape or stream) for via in ways]

    def __enter__(self) -> Witnesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in self._all:
            one.close()

    def ready(self, timeout_s: float = 120.0) -> None:
        """Wait until none of them can miss anything."""
        self._await(lambda told: told["event"] == "ready", timeout_s)

    def rest(self, seconds: float) -> None:
        """Let time pass; none of them may end in it."""
        time.sleep(seconds)
        assert all(one.runs for one in self._all), "a subscriber has ended"

    def see(self, kind: str, *, times: int = 1, timeout_s: float = 120.0) -> None:
        """Wait until each was told `times` times that this happened to the device."""
        self._await(lambda told: (told.get("kind"), told.get("times")) == (kind, times), timeout_s)

    def reach(self, number: int, timeout_s: float) -> None:
        """Wait until each had the packet with this number, or a later one."""
        self._await(lambda told: told.get("last_number", -1) >= number, timeout_s)

    def results(self, timeout_s: float = 120.0) -> list[Told]:
        """What each says at the end of the stream."""
        return self._await(lambda told: told["event"] == "result", timeout_s)

    def _await(self, wanted: Callable[[Told], bool], timeout_s: float) -> list[Told]:
        return [one.wait_for(wanted, timeout_s) for one in self._all]

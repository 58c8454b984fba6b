"""What the tests of recordings stand on: a recorder in a process of its own, which can be killed, and its verified files."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import eventually
from usbcast.recording.files import resolve
from usbcast.recording.recorder import Recorder, RecordOptions, Start
from usbcast.recording.store import StoreOptions
from usbcast.recording.verify import Verified, verify
from usbcast_schemas.errors import RecordingError


def cli(*arguments: str | Path, check: int | None = 0) -> dict[str, Any]:
    """Run a verb of the command line with --json; its exit code is `check`; the last line that it printed."""
    command = [sys.executable, "-m", "usbcast", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check is None or done.returncode == check, f"{done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": done.stderr}
    return found


class Child:
    """A verb running in a process of its own; what it says is in a file."""

    def __init__(self, log: Path, *arguments: str | Path) -> None:
        self.log = log
        with log.open("w") as out:
            command = [sys.executable, "-X", "faulthandler", "-m", "usbcast", *map(str, arguments), "--json"]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def said(self, event: str) -> list[dict[str, Any]]:
        """All that it has said under this name."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [found for line in lines if (found := json.loads(line)).get("event") == event]

    def wait_said(self, event: str) -> dict[str, Any]:
        found = eventually(lambda: self.said(event) or self.process.poll() is not None, f"{event} in {self.log}")
        assert found is not True, self.log.read_text()
        return self.said(event)[-1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # so it says where each of its threads stands
            self.process.wait(20)
            pytest.fail(f"it does not end:\n{self.log.read_text()}")


@contextlib.contextmanager
def running(log: Path, *arguments: str | Path) -> Iterator[Child]:
    child = Child(log, *arguments)
    try:
        yield child
    finally:
        if child.process.poll() is None:
            child.kill()


def recorded_packets(base: Path) -> int:
    """What stands complete in the files by now."""
    try:
        (found,) = verify(resolve([base]))
    except RecordingError:  # not yet begun
        return 0
    return sum(epoch.recorded for epoch in found.ledger.epochs.values())


def verified(*paths: Path) -> Verified:
    (found,) = verify(resolve(paths))
    return found


def record_here(served: Any, base: Path, *, begin: Start | None = None, look: Any = None, **options: Any) -> Recorder:
    """Record a stream of a node of this process, in this thread, until a limit is reached or `look` stops it."""
    store = {name: options.pop(name) for name in ("rotation", "keep", "compression", "sync_s") if name in options}
    store.setdefault("sync_s", 0.05)
    made = RecordOptions(
        streams=options.pop("streams", (served.stream,)),
        store=StoreOptions(base, min_free_bytes=options.pop("min_free_bytes", 0), **store),
        endpoint=served.endpoint,
        **options,
    )
    recorder = Recorder(made, begin or Start(), lambda *_: None)
    recorder.run((lambda: look(recorder)) if look else (lambda: None))
    return recorder

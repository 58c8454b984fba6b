"""What the import of each client costs a program that only subscribes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.mode import Mode
from benchmarks.peers import missing
from benchmarks.works import Case, Figures, Show, Work

# peer whose package it is: what a subscriber's program imports
IMPORTS = {
    "usbcast-ring": "import usbcast",
    "pyzmq-ipc": "import zmq",
    "iceoryx2": "import iceoryx2",
    "zenoh-tcp": "import zenoh",
    "lsl": "import pylsl",
    "nats": "import nats",
    "redis": "import redis",
    "mqtt": "import paho.mqtt.client",
    "cyclonedds": "import cyclonedds.core, cyclonedds.idl, cyclonedds.sub",
}
TIMES = 3


def cases(mode: Mode, peers: Sequence[str]) -> list[Case]:  # noqa: ARG001
    found = [Case("Python alone", "import", lambda: _measure("pass"))]
    for peer, statement in IMPORTS.items():
        if not missing(peer):
            found.append(Case(peer, "import", lambda statement=statement: _measure(statement)))  # type: ignore[misc]
    return found


def _measure(statement: str) -> Figures:
    """The quickest of some: a slower one waited for something else."""
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - begin)
    return {"import_ms": 1000 * min(times)}


WORK = Work(
    "Import",
    "From the start of the interpreter to its end, with the one import.",
    cases,
    (Show("import_ms", "ms", 0, more_is_better=False),),
)

"""Runs `usbcast` with the arguments given, and says on each line of stdin how much CPU each of its threads has used.

With KEEPING as its first argument it takes the device of software for one of a controller that gives cancelled reads
back with what they hold, which it is, and which USB/IP in general is not.

The answer is a line of JSON on stdout: {"event": "threads", "cpu_ns": {name: ns}}. Threads that Python does not know,
ZeroMQ's and the main one, are told together as "others".
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from usbcast.cli import main
from usbcast_broker.sources.usb.system import System

KEEPING = "--cancelled-reads-keep-data"
TASKS = Path("/proc/self/task")


def cpu_ns() -> dict[str, int]:
    """By name of the thread; the first number of schedstat is the time on a CPU (Linux's sched-stats.rst)."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: dict[str, int] = {}
    for task in TASKS.iterdir():
        name = names.get(int(task.name), "others")
        used[name] = used.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return used


def answer() -> None:
    for _ in sys.stdin:
        print(json.dumps({"event": "threads", "cpu_ns": cpu_ns()}), flush=True)


if sys.argv[1:2] == [KEEPING]:
    del sys.argv[1]
    System.keeps_cancelled = lambda *_: True  # type: ignore[method-assign]
threading.Thread(target=answer, name="watch", daemon=True).start()
main()

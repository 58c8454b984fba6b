"""Whether the hot path does more work than it did: instructions, counted by valgrind, against those of a fixed loop.

    python -m benchmarks.regression             compare with regression.json; exit code 1 if a path got slower
    python -m benchmarks.regression --update    write what is measured now as the new standard

Instructions do not depend on the machine's load, and hardly on the machine. A path is run some thousand times in one process
and not at all in another, so that the difference is the path alone, and is told in rounds of a loop of plain Python, so
that another build of the interpreter counts alike. Standards are kept by version of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import ROOT
from usbcast_schemas import native

STANDARD = Path(__file__).with_name("regression.json")
ALLOWED = 1.15
"""So much more than the standard passes."""

TIMES = {"loop": 2000, "node": 3000, "subscriber": 4000}
"""Enough that what differs between two starts of the interpreter, some 1%, is little of what is counted."""
SIZES = (1, 512)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--run", nargs=2, metavar=("PATH", "TIMES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(given.run[0], int(given.run[1]))
        return 0
    if shutil.which("valgrind") is None:
        print("nothing was checked: valgrind is not installed (Debian and Ubuntu: apt install valgrind)")
        return 2
    measured = measure()
    known = json.loads(STANDARD.read_text()) if STANDARD.exists() else {}
    version = f"{sys.version_info.major}.{sys.version_info.minor}{'' if native.core else ', pure'}"
    if given.update:
        known[version] = measured
        STANDARD.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    standard = known.get(version)
    if standard is None:
        print(f"nothing was checked: there is no standard for Python {version}; --update makes one")
        return 2
    worse = False
    for name, value in measured.items():
        ratio = value / standard[name]
        worse |= ratio > ALLOWED
        verdict = f"MORE THAN {ALLOWED - 1:.0%} ABOVE" if ratio > ALLOWED else "within"
        print(f"{name:26} {value:8.2f} rounds of the loop, {ratio:.3f} of the standard {standard[name]:.2f}: {verdict}")
    return int(worse)


def measure() -> dict[str, float]:
    """Each path in rounds of the loop."""
    begin = ("node, 1", 0)
    jobs = [("loop", 0), ("loop", TIMES["loop"]), begin]
    jobs += [(f"{what}, {size}", TIMES[what]) for size in SIZES for what in ("node", "subscriber")]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        counts = dict(zip(jobs, pool.map(lambda job: instructions(*job), jobs), strict=True))
    loop = (counts["loop", TIMES["loop"]] - counts["loop", 0]) / TIMES["loop"]
    found = {}
    for size in SIZES:
        for what in ("node", "subscriber"):
            # All begin alike, so that one start without any round serves all.
            path = (counts[f"{what}, {size}", TIMES[what]] - counts[begin]) / TIMES[what]
            found[f"{what}, batch of {size}"] = round(path / loop, 2)
    return found


def instructions(name: str, times: int) -> int:
    """Of a whole process that takes the path so many times."""
    command = [
        "valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
        sys.executable, "-m", "benchmarks.regression", "--run", name, str(times),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counted = re.search(r"I\s+refs:\s+([\d,]+)", found.stderr)
    if found.returncode or counted is None:
        raise SystemExit(f"{name} could not be measured: {found.stderr[-500:]}")
    return int(counted[1].replace(",", ""))


def run(name: str, times: int) -> None:
    if name == "loop":
        _repeat(_loop, times)
        return
    from benchmarks.hot_path import HotPath

    what, size = name.split(", ")
    with (
        tempfile.TemporaryDirectory(prefix="usbcast-bench-") as directory,
        HotPath(int(size), Path(directory)) as path,
    ):
        _repeat(path.node if what == "node" else path.subscriber_again, times)


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def _loop() -> dict[int, int]:
    """A round of it: calls, attributes, integers, a few objects; what Python code is made of."""
    found: dict[int, int] = {}
    for n in range(10):
        found[n] = len(str(n)) + max(n, 3)
    return found


if __name__ == "__main__":
    sys.exit(main())

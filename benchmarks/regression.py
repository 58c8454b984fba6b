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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import ROOT
from usbcast_schemas import engine

STANDARD = Path(__file__).with_name("regression.json")
ALLOWED = 1.15
"""So much more than the standard passes."""

LOOP = "loop"
LOOPS = 2_000


class Measured(NamedTuple):
    """A path: what is called, for batches of how many packets, for how many of them at once, and how often.

    So often that what is there once and not again is little of what is counted.
    """

    call: str
    packets: int
    batches: int
    times: int


PATHS = {
    "node, batch of 1": Measured("node", 1, 1, 3_000),
    "node, a run of 32": Measured("node", 1, 32, 200),
    "node, batch of 512": Measured("node", 512, 1, 3_000),
    "both, batch of 1": Measured("through", 1, 1, 3_000),
    "both, a run of 32": Measured("through", 1, 32, 200),
    "both, batch of 512": Measured("through", 512, 1, 2_000),
}
"""Told per batch."""


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
    version = f"{sys.version_info.major}.{sys.version_info.minor}{'' if engine.ENGINE == 'native' else ', pure'}"
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
        print(f"{name:26} {value:8.3f} rounds of the loop, {ratio:.3f} of the standard {standard[name]:.3f}: {verdict}")
    return int(worse)


def measure() -> dict[str, float]:
    """Each path in rounds of the loop."""
    begin = ("node, batch of 1", 0)
    jobs = [(LOOP, 0), (LOOP, LOOPS), begin, *((name, path.times) for name, path in PATHS.items())]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        counts = dict(zip(jobs, pool.map(lambda job: instructions(*job), jobs), strict=True))
    loop = (counts[LOOP, LOOPS] - counts[LOOP, 0]) / LOOPS
    # All begin alike, so that one start without any round serves all.
    return {
        name: round((counts[name, path.times] - counts[begin]) / path.times / path.batches / loop, 3)
        for name, path in PATHS.items()
    }


def instructions(name: str, times: int) -> int:
    """Of a whole process that takes the path so many times."""
    command = [
        "valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
        sys.executable, "-m", "benchmarks.regression", "--run", name, str(times),
    ]  # fmt: skip
    # numpy's OpenBLAS starts threads that wait for work in a loop: 4% of all instructions, more or less of them each time.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counted = re.search(r"I\s+refs:\s+([\d,]+)", found.stderr)
    if found.returncode or counted is None:
        raise SystemExit(f"{name} could not be measured: {found.stderr[-500:]}")
    return int(counted[1].replace(",", ""))


def run(name: str, times: int) -> None:
    if name == LOOP:
        for _ in range(times):
            _loop()
        return
    from benchmarks.hot_path import HotPath

    measured = PATHS[name]
    with (
        tempfile.TemporaryDirectory(prefix="usbcast-bench-") as directory,
        HotPath(measured.packets, Path(directory)) as path,
    ):
        path.node(measured.batches)
        call = getattr(path, measured.call)
        for _ in range(times):
            call(measured.batches)


def _loop() -> dict[int, int]:
    """A round of it: calls, attributes, integers, a few objects; what Python code is made of."""
    found: dict[int, int] = {}
    for n in range(10):
        found[n] = len(str(n)) + max(n, 3)
    return found


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks`: measure, and write a table, JSON and a plot into benchmarks/results/."""

from __future__ import annotations

import argparse
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import RunFailed
from benchmarks.mode import MODES, Mode
from benchmarks.peers import MODULES, missing
from benchmarks.plot import plot
from benchmarks.report import Record, to_json, to_markdown
from benchmarks.steps import table as steps_table
from benchmarks.works import NAMES, Case, load_work

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--mode", choices=MODES, default="quick", help="quick: some minutes, few peers; full: all, with medians"
    )
    parser.add_argument("--works", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--peers", default="", help="of those below, or all; the mode's own if not given")
    parser.add_argument("--rounds", type=int, default=0, help="instead of the mode's")
    parser.add_argument("--seconds", type=float, default=0, help="of one run, instead of the mode's")
    parser.add_argument("--no-steps", action="store_true", help="leave out the hot path step by step")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.epilog = "peers: " + ", ".join(MODULES)
    given = parser.parse_args()
    mode = MODES[given.mode]
    mode = Mode(
        mode.name, given.rounds or mode.rounds, given.seconds or mode.seconds,
        tuple(MODULES) if given.peers == "all" else tuple(filter(None, given.peers.split(","))) or mode.peers or tuple(MODULES),
        mode.hour_blocks,
    )  # fmt: skip
    for what, known, named in (("work", NAMES, given.works.split(",")), ("peer", tuple(MODULES), mode.peers)):
        for name in named:
            if name not in known:
                parser.error(f"{name!r} is no {what}: there are {', '.join(known)}")
    record = measure(mode, given.works.split(","))
    text = to_markdown(record)
    if not given.no_steps:
        text += f"\n### The hot path\n\n{steps_table()}\n"
    write(record, text, given.output)
    print(text)
    return 1 if record.failures else 0


def measure(mode: Mode, works: list[str]) -> Record:
    record = Record(mode.name, mode.rounds)
    record.missing = {peer: why for peer in mode.peers if (why := missing(peer))}
    peers = [peer for peer in mode.peers if peer not in record.missing]
    cases = [(name, case) for name in works for case in load_work(name).cases(mode, peers)]
    begin = time.monotonic()
    for number in range(mode.rounds):
        # Interleaved, and in another order each time: what disturbs the machine for a while disturbs them all.
        random.Random(number).shuffle(cases)
        for n, (name, case) in enumerate(cases):
            note(f"round {number + 1} of {mode.rounds}, {n + 1} of {len(cases)}, {time.monotonic() - begin:.0f} s: "
                 f"{name}, {case.row}, {case.column}")  # fmt: skip
            one(record, name, case)
    note("")
    order = {name: n for n, name in enumerate(works)}
    record.samples = dict(sorted(record.samples.items(), key=lambda item: order[item[0]]))
    in_order(record, mode, works, peers)
    return record


def one(record: Record, work: str, case: Case) -> None:
    try:
        record.add(work, case.column, case.row, case.measure())
    except RunFailed as error:
        record.failures.append(f"{work}, {case.row}, {case.column}: {error}")


def in_order(record: Record, mode: Mode, works: list[str], peers: list[str]) -> None:
    """Rows and columns as the works list them, not as chance had it."""
    for name in works:
        if name not in record.samples:
            continue
        listed = load_work(name).cases(mode, peers)
        rows = list(dict.fromkeys(case.row for case in listed))
        columns = list(dict.fromkeys(case.column for case in listed))
        found = record.samples[name]
        record.samples[name] = {
            column: {row: found[column][row] for row in rows if row in found[column]}
            for column in columns
            if column in found
        }


def write(record: Record, text: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}-{record.mode}"
    (directory / f"{name}.json").write_text(to_json(record))
    (directory / f"{name}.md").write_text(text)
    plot(record.medians(), directory / f"{name}.png")
    note(f"written: {directory / name}.md, .json, .png\n")


def note(what: str) -> None:
    """Progress, on a terminal in one line."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{what}")
    elif what:
        sys.stderr.write(what.rstrip("\n") + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

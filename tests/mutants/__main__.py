"""Say which changes the tests do not notice: `python -m tests.mutants --module continuity --sample 20 --seed 7`."""

from __future__ import annotations

import argparse
import resource
import sys
from collections import Counter

from tests.mutants.changes import sample
from tests.mutants.table import SUBJECTS, Subject
from tests.mutants.trial import Verdict, run

GRACE_CPU_S = 10


def main() -> int:
    """Try the changes of the modules that were named; return 1 if a module's tests fail without any change."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--module", action="append", choices=SUBJECTS, help="may be repeated; all if not given")
    parser.add_argument("--sample", type=int, default=20, help="changes to each module")
    parser.add_argument("--seed", type=int, default=0, help="which changes")
    asked = parser.parse_args()
    total: Counter[Verdict] = Counter()
    failed = False
    for name in asked.module or SUBJECTS:
        verdicts = _try(name, SUBJECTS[name], asked.sample, asked.seed)
        failed |= verdicts is None
        total.update(verdicts or ())
    print(f"{'all':24}{_summary(total)}")
    return int(failed)


def _try(name: str, subject: Subject, count: int, seed: int) -> Counter[Verdict] | None:
    """Try changes of one module and print the verdicts; None if its tests fail without any change."""
    before_s = _children_cpu_s()
    verdict, said = run(subject, None, cpu_s=600)
    if verdict is not Verdict.SURVIVED:
        print(f"{name}: its tests fail without any change:\n{said}")
        return None
    cpu_s = GRACE_CPU_S + round(5 * (_children_cpu_s() - before_s))
    verdicts: Counter[Verdict] = Counter()
    for change in sample(subject.path.read_text(), count, seed):
        verdict, _ = run(subject, change.source, cpu_s)
        verdicts[verdict] += 1
        if verdict is Verdict.SURVIVED:
            print(f"{name}: line {change.line}, {change.operator}, was not noticed:\n{change.diff}\n", flush=True)
    print(f"{name:24}{_summary(verdicts)}", flush=True)
    return verdicts


def _summary(verdicts: Counter[Verdict]) -> str:
    noticed = verdicts[Verdict.KILLED] + verdicts[Verdict.TIMEOUT]
    each = ", ".join(f"{verdict.value} {verdicts[verdict]:3}" for verdict in Verdict)
    return f"{noticed:4} of {verdicts.total():4} noticed ({each})"


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())

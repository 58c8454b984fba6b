"""The tool that changes code: its table is current, its changes are changes, and its verdicts are right."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.mutants.changes import sample
from tests.mutants.table import ROOT, SUBJECTS, Subject
from tests.mutants.trial import Verdict

SOURCE = """
from __future__ import annotations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

LIMIT: int | None = 7

def count(values: list[int]) -> int:
    return len(values) + 2

def first(values: list[int] | None, limit: int | Decimal = LIMIT) -> int | None:
    assert limit > 0
    return values[0] if values and values[0] < limit else None
"""


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_module_in_the_table_has_tests_that_exist(name: str) -> None:
    subject = SUBJECTS[name]
    assert subject.path.is_file()
    assert subject.tests
    assert [test for test in subject.tests if not (ROOT / test).exists()] == []


def test_the_same_seed_makes_the_same_changes() -> None:
    assert sample(SOURCE, 5, seed=7) == sample(SOURCE, 5, seed=7)


def test_each_change_changes_one_line_that_is_carried_out() -> None:
    changes = sample(SOURCE, 1000, seed=1)
    assert len({change.source for change in changes}) == len(changes) > 10
    for change in changes:
        ast.parse(change.source)
        was, is_now = SOURCE.splitlines(), change.source.splitlines()
        (line,) = [number for number, pair in enumerate(zip(was, is_now, strict=True)) if pair[0] != pair[1]]
        assert was[line].startswith(("def", "    return")), "no import, assertion, annotation or bound"
        assert "int & None" not in is_now[line]


def test_places_come_before_a_second_change_at_the_same_place() -> None:
    changes = sample("def compare(a, b):\n    return a < b\n\ndef double(a):\n    return 2 * a\n", 3, seed=3)
    assert {change.line for change in changes} == {2, 5}


@pytest.fixture
def made_subject(tmp_path) -> Subject:
    test = tmp_path / "test_pace.py"
    test.write_text("from usbcast_schemas import made\n\ndef test_value():\n    assert made.VALUE == 3\n")
    return Subject("usbcast_schemas.made", (str(test),))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("VALUE = 3", Verdict.SURVIVED),
        ("VALUE = 4", Verdict.KILLED),
        ("raise RuntimeError", Verdict.KILLED),
        ("while True: pass", Verdict.TIMEOUT),
    ],
)
def test_a_trial_runs_the_changed_source(made_subject: Subject, source: str, verdict: Verdict) -> None:
    """From a process of its own, as the tool does: a fork has the memory of this one, in which any tests may have run."""
    trial = (
        "from tests.mutants.table import Subject\nfrom tests.mutants.trial import run\n"
        f"reached, said = run({made_subject!r}, {source!r}, cpu_s=10)\nprint(reached.value, said)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", trial], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] == verdict.value, ran.stdout

"""The model of the ring: spin goes through all interleavings, and finds each fault that was put into it on purpose."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs/model/ring.pml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed here: apt install spin"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here"),
]


def explore(directory: Path, *options: str) -> tuple[int, str]:
    """Go through all states of the model; return the number of errors and what spin says of the first."""
    subprocess.run(["spin", "-a", *options, str(MODEL)], cwd=directory, check=True, capture_output=True, timeout=60)
    subprocess.run(
        ["cc", "-O2", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=60,
    )
    ran = subprocess.run(["./pan", "-m500000"], cwd=directory, check=True, capture_output=True, text=True, timeout=600)
    found = re.search(r"errors: (\d+)", ran.stdout)
    assert found, ran.stdout
    assert "truncated" not in ran.stdout, "the search went deeper than it was told to look"
    return int(found[1]), ran.stdout.splitlines()[0] if ran.stdout else ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-DKILLED", "-DREADERS=1"),
        ("-DREORDERS", "-DCHECKSUMS", "-DREADERS=1"),
        ("-DREORDERS", "-DCHECKSUMS", "-DKILLED", "-DREADERS=1"),
    ],
    ids=" ".join,
)
def test_no_interleaving_loses_a_wake_up_or_shows_a_torn_batch(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert explore(tmp_path, *options)[0] == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("-DNO_FENCE", "invalid end state"),
        ("-DCLEAR_AFTER_WAKE", "invalid end state"),
        ("-DLOOK_THEN_FLAG", "invalid end state"),
        ("-DTAIL_AFTER_BYTES", "assertion violated"),
        ("-DREORDERS", "assertion violated"),
    ],
)
def test_a_fault_that_is_put_into_the_model_is_found(tmp_path: Path, fault: str, said: str) -> None:
    errors, what = explore(tmp_path, fault)
    assert errors == 1
    assert said in what

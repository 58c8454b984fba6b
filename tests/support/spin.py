"""Models of the protocols between threads and processes (docs/model/), explored by spin."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "docs/model"

needs_spin = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed here: apt install spin"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here"),
]


def explore(model: str, directory: Path, *options: str) -> tuple[int, str]:
    """Go through all states of `model`; return the number of errors and what spin says of the first."""
    subprocess.run(
        ["spin", "-a", *options, str(MODELS / model)], cwd=directory, check=True, capture_output=True, timeout=60
    )
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

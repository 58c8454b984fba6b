"""Makes the helpers of the whole and of this area importable."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for directory in (Path(__file__).parent, Path(__file__).parents[1]):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


@pytest.fixture
def dead_may_leave_files(_nothing_left_behind: None, private_directories: tuple[Path, Path]) -> Iterator[None]:
    """A node that is killed leaves files for the next one to sweep; here there is no next one."""
    yield
    for directory in private_directories:
        for path in directory.rglob("*"):
            path.unlink(missing_ok=True)

"""What the tests of recordings share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def dead_may_leave_files(_nothing_left_behind: None, private_directories: tuple[Path, Path]) -> Iterator[None]:
    """A node that is killed leaves files for the next one to sweep; here there is no next one."""
    yield
    for directory in private_directories:
        for path in directory.rglob("*"):
            path.unlink(missing_ok=True)

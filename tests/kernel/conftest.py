"""The guest that all kernel tests share: booted for the first that needs it, with no program left in it between two tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernelrig.guest import Guest
from kernelrig.image import Unavailable, find_image

pytest.register_assert_rewrite("kernelrig.checks")


@pytest.fixture(scope="session")
def guest() -> Iterator[Guest]:
    """A booted guest with QEMU's FTDI serial converter plugged in."""
    try:
        image = find_image()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with Guest(image) as booted:
        print(f"guest up after {booted.boot_s:.1f} s, {booted.uptime_s:.1f} s on its own clock")
        yield booted

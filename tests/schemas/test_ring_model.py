"""The model of the ring: spin goes through all interleavings, and finds each fault that was put into it on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.spin import explore, needs_spin

MODEL = "ring.pml"

pytestmark = needs_spin


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
    assert explore(MODEL, tmp_path, *options)[0] == 0


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
    errors, what = explore(MODEL, tmp_path, fault)
    assert errors == 1
    assert said in what

"""The model of the handover between the fast and the slow path: spin explores it, and finds each fault put into it on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.spin import explore, needs_spin

MODEL = "handover.pml"

pytestmark = needs_spin


@pytest.mark.timeout(300)
def test_no_interleaving_loses_doubles_or_reorders_a_transfer(tmp_path: Path) -> None:
    assert explore(MODEL, tmp_path)[0] == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "fault",
    [
        "-DSETTLE_BEFORE_CLOSE",
        "-DTAKE_BEFORE_SETTLE",
        "-DSEND_AFTER_TAKE",
        "-DOVERTAKES",
        "-DLOOK_THEN_SLEEP",
        "-DUNSAID",
    ],
)
def test_a_fault_that_is_put_into_the_model_is_found(tmp_path: Path, fault: str) -> None:
    errors, what = explore(MODEL, tmp_path, fault)
    assert errors == 1
    assert "assertion violated" in what

"""A node's memory has a bound whatever peers send or do not take, and it is given back when they have gone."""

from __future__ import annotations

import sys

import pytest
from memory import besiege

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much has come and gone"),
]

PEERS = 64
"""Without bounds for all together, these are enough for some gigabytes; `python -m tests.security.memory` takes 512."""


@pytest.mark.parametrize("kind", ["replies", "frames", "commands"])
def test_many_hostile_peers(kind: str) -> None:
    seen = besiege(kind, PEERS, seconds=5)
    assert seen.peak_mb < 500, seen
    assert seen.after_mb < 150, seen
    assert seen.unanswered == 0, "somebody who asks for the time is answered all the while"


def test_subscribers_that_stop_one_after_the_other() -> None:
    """Each would have a queue of other batches: 300 of them some 400 MB."""
    seen = besiege("laggards", 300)
    assert seen.peak_mb < 300, seen
    assert seen.after_mb < 150, seen
    assert seen.refused["subscriber behind while memory is short"] > 0
    assert seen.unanswered == 0, "somebody who asks for the time is answered all the while"

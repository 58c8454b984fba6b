"""The device is read and loses nothing, whatever a crowd at the data port does. `pauses.py` prints figures."""

from __future__ import annotations

import pytest

from tests.security.pauses import measure

pytestmark = pytest.mark.slow

MOST_PAUSE_MS = 3_000
"""Far above what a busy machine does, and far below what it took when libzmq worked in the device's thread: 13 s and more."""


@pytest.mark.parametrize("kind", ["subscriptions", "real-subscriptions", "handshakes"])
def test_reading_goes_on_beside_a_flood(kind: str) -> None:
    told = measure(kind, 60, 3.0)
    assert told["lost"] == {"device": 0, "ring": 0, "push": 0, "tcp": 0}
    assert told["pause_ms"] < MOST_PAUSE_MS

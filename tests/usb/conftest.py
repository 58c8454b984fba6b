"""Fixtures for the tests of the USB edge."""

from __future__ import annotations

import pytest

from usbcast_broker.sources.usb import feed, recovery


@pytest.fixture
def quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed looks for its device without losing time."""
    monkeypatch.setattr(recovery, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(feed, "POLL_S", 0.01)

"""What the tests of the network need: hosts that are namespaces, or a reason why there are none."""

from __future__ import annotations

import pytest
from netrig.site import unavailable


@pytest.fixture(scope="session", autouse=True)
def _hosts_are_to_be_had() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)

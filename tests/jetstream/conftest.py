"""Real servers for these tests: started on loopback, with stores of their own, killed and started again."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Cluster, Server, needed

pytest.importorskip("nats", reason="nats-py is not installed: pip install 'usbcast[nats]'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and needed():
            item.add_marker(pytest.mark.skip(reason=needed()))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "store") as running:
        yield running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody answers: the port is taken, but nobody listens."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"nats://127.0.0.1:{taken.getsockname()[1]}"

"""Records of nodes: found while their node lives, gone with it, and never in the way of those who look."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from usbcast_schemas.registry import NodeRecord, Registration, local_nodes


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("USBCAST_RUNTIME_DIR", str(tmp_path))


def record(port: int) -> NodeRecord:
    return NodeRecord(f"tcp://127.0.0.1:{port}", os.getpid(), ("imu", "gps"))


def test_nodes_are_found_the_latest_first_until_they_close() -> None:
    first, second = Registration(record(1)), Registration(record(2))
    assert sorted(node.endpoint for node in local_nodes()) == [record(1).endpoint, record(2).endpoint]
    first.close()
    assert local_nodes() == [record(2)]
    second.close()
    assert local_nodes() == []


def test_the_record_of_a_dead_node_is_swept(tmp_path: Path) -> None:
    dead = tmp_path / "node-1-00000000.json"
    dead.write_text('{"endpoint": "tcp://127.0.0.1:1", "pid": 1, "streams": ["imu"]}')
    assert local_nodes() == []
    assert not dead.exists()


def test_nodes_that_come_and_go_while_one_looks_do_no_harm() -> None:
    done = threading.Event()

    def come_and_go() -> None:
        for _ in range(2000):
            Registration(record(1)).close()
        done.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    while not done.is_set():
        assert set(local_nodes()) <= {record(1)}
    thread.join()

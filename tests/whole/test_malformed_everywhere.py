"""One table of malformed things at every way in: counted, said once, stepped over, told as a gap, and the stream goes on."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import usbcast
from tests.support.fake_node import EPOCH, STREAM, FakeNode
from tests.support.malformed_things import BATCHES, good, packet
from tests.support.nodes import eventually
from usbcast import Batch, Gap
from usbcast_schemas import registry
from usbcast_schemas.batch import Encoded
from usbcast_schemas.contract import data_topic
from usbcast_schemas.registry import MAX_RECORD_BYTES, NodeRecord, Registration, local_nodes
from usbcast_schemas.ring import RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb


class RingNode(FakeNode):
    """A node on this machine, with a ring into which anything may be written."""

    def __init__(self, directory: Path) -> None:
        self.ring = RingWriter(directory, STREAM, EPOCH, data_bytes=64 << 20, slots=64)
        super().__init__(remote=False)

    def info(self) -> pb.StreamInfo:
        told = super().info()
        told.ring.CopyFrom(pb.Ring(path=str(self.ring.path), wake_path=str(self.ring.wake_path), nonce=self.ring.nonce))
        return told

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[arg-type]
        self.ring.close()


@pytest.fixture(params=["push", "notify", "ring"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeNode]:
    with RingNode(tmp_path) if request.param == "ring" else FakeNode() as made:
        made.via = request.param
        yield made


def give(node: FakeNode, raw: bytes) -> None:
    """What stands in the place of the next batch, of one packet, by the way that is tested."""
    number = len(node.made)
    node.made.append(raw)
    node.next_sequence += 1
    if isinstance(node, RingNode):
        node.ring.stream_writer.append(Encoded(raw, number, number, 1))
    elif node.via == "push":
        node.publish(data_topic(STREAM), raw)


@pytest.mark.parametrize("name", BATCHES)
def test_a_malformed_batch_is_counted_said_once_and_a_gap(
    node: FakeNode, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    took: list[usbcast.Event] = []
    bad = BATCHES[name](EPOCH)

    def taken(until: int) -> bool:
        node.notify()
        took.extend(iter(lambda: subscription.receive(0.02), None))
        return any(isinstance(event, Batch) and event.last_sequence >= until for event in took)

    with (
        caplog.at_level(logging.WARNING),
        usbcast.subscribe(STREAM, node.endpoint, start=0, via=node.via) as subscription,
    ):
        give(node, good(EPOCH, 0))
        eventually(lambda: taken(0), "the first batch")
        for raw in (bad, good(EPOCH, 2), bad, good(EPOCH, 4), good(EPOCH, 5)):
            give(node, raw)
        eventually(lambda: taken(5), "the last batch")
        books = subscription.ledger
    assert [one for event in took if isinstance(event, Batch) for one in event] == [packet(n) for n in (0, 2, 4, 5)]
    assert [event for event in took if isinstance(event, Gap)] == [
        Gap(n, n, 1, "ring", "could not be read") for n in (1, 3)
    ]
    assert books.counters["malformed"] >= 2
    assert books.discrepancy() is None
    assert len([record for record in caplog.records if "sent an invalid message" in record.message]) == 1


# The runtime directory

GOOD_RECORD = {"endpoint": "tcp://127.0.0.1:1", "pid": 1, "streams": ["imu"], "key": ""}

RECORDS = {
    "nothing": b"",
    "random bytes": b"\xff\xfe",
    "half of it": json.dumps(GOOD_RECORD).encode()[:20],
    "a list": b"[]",
    "a number": b"7",
    "nested deeply": b"[" * 100_000,
    "no endpoint": json.dumps({**GOOD_RECORD, "endpoint": None}).encode(),
    "an endpoint that is none": json.dumps({**GOOD_RECORD, "endpoint": "tcp://x:99999"}).encode(),
    "an endpoint with an escape": json.dumps({**GOOD_RECORD, "endpoint": "ipc:///\x1b[2J"}).encode(),
    "a process of text": json.dumps({**GOOD_RECORD, "pid": "1"}).encode(),
    "no streams": json.dumps({**GOOD_RECORD, "streams": None}).encode(),
    "streams of numbers": json.dumps({**GOOD_RECORD, "streams": [1]}).encode(),
    "a stream that is a path": json.dumps({**GOOD_RECORD, "streams": ["../x"]}).encode(),
    "more than a record has": json.dumps({**GOOD_RECORD, "more": "x" * MAX_RECORD_BYTES}).encode(),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_malformed_record_in_the_runtime_directory_is_said_once_and_passed_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("USBCAST_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(registry, "_named", set())
    bad = tmp_path / "node-1-00000000.json"
    bad.write_bytes(RECORDS[name])
    there = NodeRecord("tcp://127.0.0.1:2", os.getpid(), ("imu",))
    honest = Registration(there)
    with bad.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a node does that lives
        for _ in range(3):
            assert local_nodes() == [there]
    honest.close()
    assert len([record for record in caplog.records if record.message.startswith("ignoring ")]) == 1

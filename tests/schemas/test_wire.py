"""The multipart messages: exact checks, and no error but the two that speak of the peer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_schemas import wire
from usbcast_schemas.batch import encode_batch
from usbcast_schemas.contract import CONTRACT, check_stream_name, data_topic, notify_topic
from usbcast_schemas.errors import PeerError, UsageError, VersionMismatch, WireError
from usbcast_schemas.sockets import as_reached, is_local, split_tcp
from usbcast_schemas.v1 import usbcast_pb2 as pb

DESCRIBE = pb.Request(contract=CONTRACT, request_id=1, describe=pb.DescribeRequest()).SerializeToString()
BATCH = encode_batch(epoch=9, number=0, first_sequence=0, packet_count=0, packet_size=0, payload=[])
ENDED_WITHOUT_A_BATCH = pb.Notification(contract=CONTRACT, ended=True).SerializeToString()


def fetched(count: int, epoch: int = 9) -> bytes:
    return pb.Reply(contract=CONTRACT, fetched=pb.FetchReply(batch_count=count, epoch=epoch)).SerializeToString()


@pytest.mark.parametrize(
    ("decode", "frames", "says"),
    [
        (wire.decode_published, [b"t"], "1 frames, not the 2"),
        (wire.decode_published, [b"t", b"b", b"x"], "3 frames, not the 2"),
        (wire.decode_request, [], "0 frames, not 1"),
        (wire.decode_request, [b"", DESCRIBE], "2 frames, not 1: use a DEALER socket, without an empty delimiter"),
        (wire.decode_request, [b"\xff\xff"], "2 bytes are not a request"),
        (wire.decode_request, [b""], "has no contract version"),
        (
            wire.decode_request,
            [pb.Request(contract=CONTRACT, request_id=5).SerializeToString()],
            "request 5 asks for nothing",
        ),
        (
            wire.decode_request,
            [pb.Request(contract=2 << 16).SerializeToString()],
            "version 2.0 and this side speaks 1.0",
        ),
        (wire.decode_reply, [], "no frame"),
        (wire.decode_reply, [fetched(1)], "announces 1 batches and carries 0"),
        (wire.decode_reply, [fetched(1), BATCH, BATCH], "announces 1 batches and carries 2"),
        (wire.decode_notification, ENDED_WITHOUT_A_BATCH, "reported as ended, and has no batch"),
        (wire.decode_notification, b"\x00", "not a notification"),
    ],
)
def test_what_is_wrong_is_said(decode, frames, says: str) -> None:
    with pytest.raises(PeerError, match=re.escape(says)):
        decode(frames)


def test_what_is_right_is_read() -> None:
    assert wire.decode_published([b"data/x/", b"body"]) == (b"data/x/", b"body")
    assert wire.decode_request([DESCRIBE]).WhichOneof("body") == "describe"
    reply, batches, unreadable = wire.decode_reply([fetched(2), BATCH, BATCH])
    assert reply.fetched.batch_count == len(batches) == 2
    assert unreadable == []


@pytest.mark.parametrize(
    ("epoch", "bad", "says"),
    [(9, b"junk", "not a PacketBatch"), (9, b"", "has no contract"), (8, BATCH, "carries batches of another epoch")],
)
def test_a_batch_that_cannot_be_read_takes_nothing_else_of_its_reply_with_it(epoch: int, bad: bytes, says: str) -> None:
    good = encode_batch(epoch=epoch, number=0, first_sequence=0, packet_count=0, packet_size=0, payload=[])
    received = wire.decode_reply([fetched(3, epoch), good, bad, good])
    assert [batch.epoch for batch in received.batches] == [epoch, epoch]
    (error,) = received.unreadable
    assert says in str(error)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_random_frames_raise_nothing_but_peer_errors(frames: list[bytes]) -> None:
    for decode in (wire.decode_published, wire.decode_request, wire.decode_reply):
        try:
            decode(frames)
        except (WireError, VersionMismatch):
            continue
        assert decode is wire.decode_published
        assert len(frames) == 2


@pytest.mark.parametrize("name", ["imu", "a", "0", "first-case", "x" * 64, "a_b"])
def test_stream_names(name: str) -> None:
    assert check_stream_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a/b", "a b", "x" * 65, "ä", "a\n"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="is not a stream name: use 1 to 64"):
        check_stream_name(name)


def test_no_topic_is_a_prefix_of_another() -> None:
    assert not data_topic("imu2").startswith(data_topic("imu"))
    assert not notify_topic("imu2").startswith(notify_topic("imu"))


@pytest.mark.parametrize(
    ("told", "reached", "result"),
    [
        ("tcp://0.0.0.0:5571", "tcp://lab:5570", "tcp://lab:5571"),
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:5570", "tcp://127.0.0.1:9"),
        ("tcp://[::]:5571", "tcp://[fe80::1%eth0]:5570", "tcp://[fe80::1%eth0]:5571"),
        ("ipc:///run/x", "tcp://lab:5570", "ipc:///run/x"),
    ],
)
def test_the_host_is_the_one_by_which_the_node_was_reached(told: str, reached: str, result: str) -> None:
    assert as_reached(told, reached) == result


@pytest.mark.parametrize("endpoint", ["", "tcp://", "tcp://host", "tcp://host:70000", "udp://h:1", "5570", "ipc://"])
def test_what_is_no_endpoint_is_named(endpoint: str) -> None:
    with pytest.raises(UsageError, match=r"is not an endpoint: write tcp://HOST:PORT"):
        split_tcp(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:1", True), ("tcp://localhost:1", True), ("tcp://[::1]:1", True), ("ipc:///x", True),
        ("tcp://0.0.0.0:1", False), ("tcp://lab:1", False), ("tcp://192.168.1.1:1", False),
    ],
)  # fmt: skip
def test_who_can_reach_it(endpoint: str, local: bool) -> None:
    assert is_local(endpoint) is local

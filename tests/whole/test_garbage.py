"""Garbage on every socket: counted, named once per peer, never fatal, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import logging
import random
import socket as posix
import sys
import threading
from collections.abc import Iterator

import pytest
import zmq

import usbcast
from tests.support.fake_node import EPOCH, STREAM, FakeNode
from tests.support.nodes import WAYS, Account, Served, check_packets, eventually, serving, take_to_end, take_until
from usbcast import NodeClient
from usbcast_broker.access.memory import resident_bytes
from usbcast_schemas.contract import CONTRACT, data_topic, notify_topic
from usbcast_schemas.errors import NodeUnreachable, RemoteError, StreamUnknown, VersionMismatch, WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_REQUEST_BYTES

OTHER_MAJOR = 2 << 16


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(rate_hz=500) as found:
        yield found


@contextlib.contextmanager
def undisturbed(served: Served) -> Iterator[None]:
    """Subscribers by every way that miss nothing meanwhile."""
    begun = threading.Semaphore(0)
    stop = threading.Event()
    accounts: dict[str, Account] = {}

    def take(via: str) -> None:
        with served.subscribe(via, start=0) as subscription:
            account = Account(0)
            take_until(subscription, account, lambda: account.delivered > 0)
            begun.release()
            take_until(subscription, account, stop.is_set)
            goal = served.published
            take_until(subscription, account, lambda: (account.next or 0) >= goal)
            accounts[via] = account

    threads = [threading.Thread(target=take, args=(via,)) for via in WAYS]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=10)
    yield
    stop.set()
    for thread in threads:
        thread.join()
    assert set(accounts) == set(WAYS)
    for account in accounts.values():
        assert (account.gaps, account.begin) == ([], 0)
        assert check_packets(account.payload, 112) == list(range(account.delivered))


@contextlib.contextmanager
def dealer(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(endpoint)
    yield socket
    socket.close(linger=0)


def refused(served: Served) -> dict[str, int]:
    with NodeClient(served.endpoint) as node:
        return dict(node.health().refused)


def port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


HEALTH = pb.Request(contract=CONTRACT, request_id=7, health=pb.HealthRequest()).SerializeToString()

BAD_REQUESTS = {
    "random bytes": ([b"\xff\x00garbage"], "malformed", "are not a request"),
    "nothing": ([b""], "malformed", "has no contract version"),
    "truncated": ([HEALTH[:-1]], "malformed", "are not a request"),
    "two frames": ([HEALTH, HEALTH], "malformed", "has 2 frames, not 1"),
    "as a REQ socket": ([b"", HEALTH], "malformed", "without an empty delimiter"),
    "many frames": ([b"x"] * 1000, "malformed", "has 1000 frames, not 1"),
    "too long": ([b"x" * (MAX_REQUEST_BYTES + 1)], "malformed", "at most 2097152 are allowed"),
    "long": ([b"\x0d\0\0\1\0" + b"x" * (MAX_REQUEST_BYTES - 5)], "malformed", "has more than 16384 fields"),
    "another version": (
        [pb.Request(contract=OTHER_MAJOR, health=pb.HealthRequest()).SerializeToString()],
        "another version",
        "is of contract version 2.0 and this side speaks 1.0",
    ),
    "no question": ([pb.Request(contract=CONTRACT).SerializeToString()], "malformed", "asks for nothing"),
    "no version": ([pb.Request(health=pb.HealthRequest()).SerializeToString()], "malformed", "has no contract"),
    "no such stream": (
        [pb.Request(contract=CONTRACT, describe=pb.DescribeRequest(stream="imu2")).SerializeToString()],
        "stream unknown",
        "this node has no stream 'imu2'; it has sim",
    ),
    "a report of no stream": (
        [pb.Request(contract=CONTRACT, report=pb.ReportRequest(stream="imu2")).SerializeToString()],
        "stream unknown",
        "this node has no stream 'imu2'",
    ),
    "another epoch": (
        [pb.Request(contract=CONTRACT, fetch=pb.FetchRequest(stream="sim", epoch=5)).SerializeToString()],
        "epoch over",
        "epoch 0000000000000005 of stream 'sim' is over",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_answered_counted_and_named_once(
    served: Served, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames, reason, sentence = BAD_REQUESTS[name]
    with dealer(served.endpoint) as peer, caplog.at_level(logging.WARNING):
        for _ in range(3):
            peer.send_multipart(frames)
            assert peer.poll(5000), "every bad request is answered"
            (raw,) = peer.recv_multipart()
            error = pb.Reply.FromString(raw).error
            assert sentence in error.message
        peer.send(HEALTH)
        assert peer.poll(5000)
        health = pb.Reply.FromString(peer.recv()).health
    assert dict(health.refused) == {reason: 3}
    named = [record for record in caplog.records if "it sent an invalid request" in record.message]
    assert len(named) == (reason in ("malformed", "another version"))


def test_random_requests_of_many_peers_disturb_nobody(served: Served) -> None:
    rnd = random.Random(3)
    with undisturbed(served):
        for _ in range(20):
            with dealer(served.endpoint) as peer:
                for _ in range(50):
                    frames = [
                        rnd.randbytes(rnd.choice((0, 1, 5, 40, 3000))) for _ in range(rnd.choice((1, 1, 1, 2, 9)))
                    ]
                    if rnd.random() < 0.3:
                        mangled = bytearray(HEALTH)
                        mangled[rnd.randrange(len(mangled))] ^= 1 << rnd.randrange(8)
                        frames = [bytes(mangled)]
                    peer.send_multipart(frames)
                peer.send(HEALTH)
                replies = 0
                while replies < 51:
                    assert peer.poll(5000), f"{replies} replies came"
                    peer.recv_multipart()
                    replies += 1
        assert sum(refused(served).values()) > 500
        assert list(served.node.health()[0].discrepancies) == []


@pytest.mark.parametrize("which", ["requests", "data"])
def test_raw_bytes_on_a_port_disturb_nobody(served: Served, which: str) -> None:
    at = port(served.endpoint if which == "requests" else served.node.data_endpoints[0])
    rnd = random.Random(4)
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(16) + b"\0" + bytes(31)
    with undisturbed(served):
        for head in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 10, greeting, greeting[:20]):
            for size in (0, 10, 10_000):
                with posix.create_connection(("127.0.0.1", at)) as peer, contextlib.suppress(OSError):
                    peer.settimeout(5)
                    peer.sendall(head + rnd.randbytes(size))
                    peer.shutdown(posix.SHUT_WR)
                    while peer.recv(65536):
                        pass
    refused(served)


def test_a_message_beyond_all_bounds_costs_its_sender_the_connection(served: Served) -> None:
    with undisturbed(served), dealer(served.endpoint) as peer:
        peer.send(bytes(2 * MAX_REQUEST_BYTES + 1))
        peer.send(HEALTH)
        eventually(lambda: refused(served) == {"not ZMTP, or too long": 1}, "others are answered, and it is counted")


def shaken(endpoint: str) -> posix.socket:
    """A connection as a DEALER, by hand, with the handshake behind it."""
    peer = posix.create_connection(("127.0.0.1", port(endpoint)))
    peer.settimeout(10)
    peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    peer.sendall(bytes((4, len(ready))) + ready)
    answered = b""
    while b"READY" not in answered:  # not before the node has let it in
        answered += peer.recv(65536)
    return peer


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much has come by a connection")
@pytest.mark.slow
def test_a_message_of_endlessly_many_frames_costs_its_sender_the_connection(served: Served) -> None:
    """libzmq bounds each frame and holds a message until its last one: some 50 bytes of memory for 3 on the wire."""
    frames = b"\x01\x01x" * 20_000
    before = resident_bytes()
    with undisturbed(served), shaken(served.endpoint) as peer:
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 1 << 30:
                peer.sendall(frames)
                sent += len(frames)
        assert sent < 1 << 30, "it was cut off"
        eventually(lambda: refused(served).get("a request without an end") == 1, f"{sent} sent, {refused(served)}")
    assert resident_bytes() - before < 400 << 20


def test_large_requests_that_do_end_are_answered(served: Served) -> None:
    with dealer(served.endpoint) as peer:
        for _ in range(10):
            peer.send(bytes(MAX_REQUEST_BYTES - 1000))
        for _ in range(10):
            assert peer.poll(10_000)
            assert pb.Reply.FromString(peer.recv()).error.code == pb.ErrorReply.CODE_MALFORMED


def test_more_commands_than_can_wait_are_refused_not_kept(served: Served) -> None:
    command = pb.CommandRequest(
        stream="sim", control=pb.ControlTransfer(request_type=0xC0, request=1, length=1), timeout_ms=1000
    )
    with dealer(served.endpoint) as peer:
        for n in range(1, 201):
            peer.send(pb.Request(contract=CONTRACT, request_id=n, command=command).SerializeToString())
        answered = {}
        for _ in range(200):
            assert peer.poll(10_000)
            reply = pb.Reply.FromString(peer.recv())
            answered[reply.request_id] = reply.WhichOneof("body")
        assert set(answered) == set(range(1, 201)), "each is answered"
        assert "commanded" in answered.values()


def test_a_client_that_never_takes_its_answers_is_bounded(served: Served) -> None:
    with NodeClient(served.endpoint) as node:
        before = node.health().node_memory_bytes
        with dealer(served.endpoint) as peer:
            peer.setsockopt(zmq.RCVHWM, 1)
            fetch = pb.Request(contract=CONTRACT, fetch=pb.FetchRequest(stream="sim", from_sequence=0))
            for n in range(3000):
                fetch.request_id = n
                with contextlib.suppress(zmq.Again):
                    peer.send(fetch.SerializeToString(), zmq.DONTWAIT)
            health = eventually(lambda: next(iter([node.health()]), None))
            assert health is not None
            assert health.node_memory_bytes - before < 100e6
            assert set(health.refused) <= {"busy", "client too slow for its answers"}


def push(node: FakeNode, via: str = "push", **options: object) -> usbcast.Subscription:
    return usbcast.subscribe(STREAM, node.endpoint, via=via, **options)  # type: ignore[arg-type]


def malformed(subscription: usbcast.Subscription) -> int:
    return subscription.ledger.counters.get("malformed", 0)


def pump_until(subscription: usbcast.Subscription, node: FakeNode, account: Account, count: int) -> None:
    """Take until so many packets came, with a heartbeat now and then."""

    def done() -> bool:
        node.notify()
        return account.delivered >= count

    take_until(subscription, account, done)


BAD_BATCH = pb.PacketBatch(contract=CONTRACT, packet_count=3, epoch=EPOCH, packet_size=4, payload=b"xxxx")

BAD_MESSAGES = {
    "random bytes as a batch": (data_topic(STREAM), b"\xff\xfe\xfd"),
    "random bytes as a notification": (notify_topic(STREAM), b"\xff\xfe\xfd"),
    "one frame": (data_topic(STREAM),),
    "three frames": (data_topic(STREAM), b"x", b"y"),
    "an empty batch": (data_topic(STREAM), b""),
    "a batch that contradicts itself": (data_topic(STREAM), BAD_BATCH.SerializeToString()),
    "a batch of another version": (
        data_topic(STREAM),
        pb.PacketBatch(contract=OTHER_MAJOR, epoch=EPOCH, payload=b"").SerializeToString(),
    ),
    "a notification of another version": (
        notify_topic(STREAM),
        pb.Notification(contract=OTHER_MAJOR, epoch=EPOCH).SerializeToString(),
    ),
    "another topic with the same beginning": (data_topic(STREAM) + b"x", b"y"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_bad_message_is_counted_named_once_and_passed_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with FakeNode() as node, push(node, start=0) as subscription, caplog.at_level(logging.WARNING):
        account = Account(0)
        node.batch()
        pump_until(subscription, node, account, 1)
        for _ in range(3):
            node.publish(*BAD_MESSAGES[name])
            node.batch(2)
        pump_until(subscription, node, account, 7)
        assert malformed(subscription) == 3
        assert account.gaps == []
        assert account.payload == b"".join(n.to_bytes(4, "little") for n in range(7))
        assert len([record for record in caplog.records if "sent an invalid message" in record.message]) == 1


@pytest.mark.parametrize("via", ["push", "notify"])
def test_bad_replies_are_counted_and_the_question_is_asked_again(via: str) -> None:
    rnd = random.Random(5)

    def lie(request: pb.Request) -> list[list[bytes]]:
        honest = node.honest(request)
        if request.WhichOneof("body") not in ("describe", "fetch"):
            return honest
        reply = pb.Reply(contract=CONTRACT, request_id=request.request_id)
        reply.fetched.batch_count = 2
        lies = [[b"\xff\xff"], [b""], [reply.SerializeToString(), b"x"], [rnd.randbytes(50), b"x", b"y"]]
        # Lies first, so that they are there before the truth; unknown ids are passed over.
        other = pb.Reply(contract=CONTRACT, request_id=99_999, clock=pb.ClockReply())
        return [*lies, [other.SerializeToString()], *honest]

    with FakeNode() as node, push(node, via, start=0) as subscription:
        node.answer = lie
        account = Account(0)
        for _ in range(5):
            node.batch(2, publish=False)
        pump_until(subscription, node, account, 10)
        assert malformed(subscription) >= 8
        assert account.gaps == []


def edge(number: int, first: int, count: int = 1, epoch: int = EPOCH, **told: object) -> bytes:
    """A batch that says of itself what it likes."""
    message = pb.PacketBatch(
        contract=CONTRACT, packet_count=count, epoch=epoch, number=number, first_sequence=first, packet_size=4,
        arrival_packets=[count], arrival_realtime_ns=[-(2**63)], arrival_monotonic_ns=[-(2**63)], payload=b"last" * count,
        **told,
    )  # fmt: skip
    return message.SerializeToString()


HOSTILE_FIGURES = {
    "the last number": ([edge(2**64 - 1, 5)], 1),
    "the last sequence": ([edge(1, 2**64 - 1)], 1),
    "a sum beyond 64 bits": ([edge(1, 2**64 - 2, 2)], 1),
    "the last that can be": ([edge(2**64 - 2, 2**64 - 2)], 0),
    "far beyond, again and again": ([edge(2**62, 2**62, epoch=n) for n in range(1, 9)], 0),
    "losses beyond 64 bits": ([edge(1, 1, lost_before=[pb.Loss(packets=2**64 - 1, bytes=2**64 - 1)] * 9)], 0),
    "an end that says what it likes": ([edge(2, 2**63, end=pb.StreamEnd(packets=2**64 - 1, realtime_ns=-(2**63)))], 0),
    "holes up to the end": (
        [edge(9, 2**64 - 2, holes=[pb.LostRange(first_sequence=1, count=2**64 - 3, batches=8)]), edge(1, 1)],
        0,
    ),
}


@pytest.mark.parametrize("via", ["push", "notify"])
@pytest.mark.parametrize("name", HOSTILE_FIGURES)
def test_no_figures_make_a_subscription_fall_over(name: str, via: str) -> None:
    """They are counted and stepped over where they cannot be, and else believed; the books balance and are reported."""
    bodies, refused = HOSTILE_FIGURES[name]

    def answer(request: pb.Request) -> list[list[bytes]]:
        reply = pb.Reply(contract=CONTRACT, request_id=request.request_id)
        if request.WhichOneof("body") != "fetch":
            return node.honest(request)
        reply.fetched.CopyFrom(pb.FetchReply(epoch=request.fetch.epoch, complete=True))
        fetched = [body for body in bodies if pb.PacketBatch.FromString(body).epoch == request.fetch.epoch]
        reply.fetched.batch_count = len(fetched)
        return [[reply.SerializeToString(), *fetched]]

    with FakeNode() as node, push(node, via) as subscription:
        node.answer = answer
        eventually(lambda: (node.notify(), subscription.ready(0.05))[1], "joined")
        node.asked.clear()
        took: list[object] = []

        def taken() -> bool:
            for body in bodies:
                if via == "push":
                    node.publish(data_topic(STREAM), body)
                said = pb.PacketBatch.FromString(body)
                told = pb.Notification(
                    contract=CONTRACT, epoch=said.epoch, next_sequence=2**64 - 1, next_number=2**64 - 1
                )
                node.publish(notify_topic(STREAM), told.SerializeToString())
            took.extend(iter(lambda: subscription.receive(0.02), None))
            return (malformed(subscription) >= refused and "report" in node.asked) if refused else len(took) >= 1

        eventually(taken)
        assert malformed(subscription) >= refused
        assert subscription.ledger.discrepancy() is None


BAD_DESCRIPTIONS = {
    "no stream": lambda _: [],
    "no address": lambda info: [_changed(info, [])],
    "an address that is none": lambda info: [_changed(info, ["where?"])],
    "an address of no port": lambda info: [_changed(info, ["tcp://127.0.0.1:99999"])],
    "an address that nobody can reach": lambda info: [_changed(info, ["ipc:///" + "x" * 500])],
}


def _changed(info: pb.StreamInfo, endpoints: list[str]) -> pb.StreamInfo:
    del info.data_endpoints[:]
    info.data_endpoints.extend(endpoints)
    return info


@pytest.mark.parametrize("name", BAD_DESCRIPTIONS)
def test_a_bad_description_is_asked_for_again(name: str) -> None:
    """Until the node comes to its senses; the application sees nothing of it."""
    with FakeNode() as node, push(node, start=0) as subscription:

        def describe(request: pb.Request) -> list[list[bytes]]:
            if request.WhichOneof("body") != "describe" or node.asked.count("describe") > 2:
                return node.honest(request)
            reply = pb.Reply(contract=CONTRACT, request_id=request.request_id)
            reply.described.streams.extend(BAD_DESCRIPTIONS[name](node.info()))
            return [[reply.SerializeToString()]]

        node.answer = describe
        account = Account(0)
        node.batch(3)
        pump_until(subscription, node, account, 3)
        assert malformed(subscription) >= 2


def test_a_node_of_another_version_is_one_clear_error() -> None:
    def answer(request: pb.Request) -> list[list[bytes]]:
        return [[pb.Reply(contract=OTHER_MAJOR, request_id=request.request_id).SerializeToString()]]

    sentence = r"a reply is of contract version 2\.0 and this side speaks 1\.0: install the same major version"
    with FakeNode(answer) as node:
        with push(node) as subscription, pytest.raises(VersionMismatch, match=sentence):
            subscription.ready()
        with NodeClient(node.endpoint) as client, pytest.raises(VersionMismatch, match=sentence):
            client.describe()


def test_a_node_that_says_no() -> None:
    def answer(request: pb.Request) -> list[list[bytes]]:
        error = pb.ErrorReply(
            code=pb.ErrorReply.CODE_STREAM_UNKNOWN, message="this node has no stream 'fake'; it has x"
        )
        return [[pb.Reply(contract=CONTRACT, request_id=request.request_id, error=error).SerializeToString()]]

    with FakeNode(answer) as node, push(node) as subscription, pytest.raises(StreamUnknown, match="it has x"):
        subscription.ready()


def test_a_peer_that_is_no_node_at_all() -> None:
    """Raw bytes from what listens there: no error, just no node."""
    with posix.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def babble() -> None:
            server.settimeout(0.05)
            rnd = random.Random(6)
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    peer, _ = server.accept()
                    with peer:
                        peer.sendall(rnd.randbytes(300))

        thread = threading.Thread(target=babble)
        thread.start()
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with usbcast.subscribe("x", endpoint) as subscription:
            assert not subscription.ready(0.7)
        with NodeClient(endpoint, timeout_s=0.3) as client, pytest.raises((NodeUnreachable, WireError, RemoteError)):
            client.health()
        stop.set()
        thread.join()


def test_what_a_served_stream_says_of_itself_holds_after_all_that(served: Served) -> None:
    with dealer(served.endpoint) as peer:
        for frames, _, _ in BAD_REQUESTS.values():
            peer.send_multipart(frames)
        eventually(lambda: sum(refused(served).values()) == len(BAD_REQUESTS))
    served.end()
    account = take_to_end("events", served, "notify", begin=0, start=0)
    assert account.delivered == served.published

"""docs/wire.md is enough: a client written from it alone gets every packet of a real node, by every way of receiving."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import select
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wire_client as wire
from google.protobuf import json_format

from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_device
from usbcast_broker.sources.simulator import Fault, SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.simulator.profile import profile_of
from usbcast_schemas.profile.model import TransferSettings
from usbcast_schemas.v1 import usbcast_pb2 as pb

VECTORS = Path(__file__).parent.parent / "vectors"
STREAM = "wired"


class ServedNode:
    """A node with one simulated device; its stream ends by itself when the device has sent `packets`."""

    def __init__(self, *, ring_size: int = 8 << 20, batch_size: int = 96 << 10, **simulated: Any) -> None:
        self._node = Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=ring_size, batch_size=batch_size))
        config = SimulatorConfig(**simulated)
        self._device = SimulatedDevice(config)
        # A stream ends when a read of the silent device has timed out: sooner than usual here.
        profile = profile_of(config, STREAM).model_copy(update={"transfer": TransferSettings(timeout_ms=20)})
        self._pipeline = add_device(self._node, profile, backend=SimulatorBackend([self._device]))
        self._node.start()
        self.endpoint = self._node.endpoint
        self._stopping = threading.Event()
        self._ender = threading.Thread(target=self._end)
        self._ender.start()

    def _end(self) -> None:
        while not self._stopping.wait(0.005):
            if self._device.exhausted.is_set():
                self._node.end(self._pipeline, "all sent")
                return

    def describe(self) -> pb.StreamInfo:
        with wire.Node(self.endpoint) as node:
            return node.describe(STREAM)

    def wait_for(self, condition: Callable[[pb.StreamInfo], bool]) -> pb.StreamInfo:
        deadline = time.monotonic() + 20
        while not condition(info := self.describe()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return info

    def stop(self) -> None:
        self._stopping.set()
        self._ender.join()
        self._node.stop("the test is over")


class ServedProcess:
    """`usbcast serve --simulate` in a process of its own, that can be killed."""

    def __init__(self, *arguments: str, bind: str = "tcp://127.0.0.1:0") -> None:
        program = Path(sys.executable).with_name("usbcast")
        self.process = subprocess.Popen(
            [program, "serve", "--simulate", "--stream", STREAM, "--json", "--bind", bind, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.endpoint: str = json.loads(self.process.stdout.readline())["endpoint"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def stop(self) -> None:
        """Nothing is left of it then, nor of one that was killed before it was started."""
        self.process.terminate()
        self.process.communicate(timeout=10)


Serve = Callable[..., ServedNode]
Start = Callable[..., ServedProcess]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> ServedNode:
            node = ServedNode(**options)
            stack.callback(node.stop)
            return node

        yield start


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **options: str) -> ServedProcess:
            node = ServedProcess(*arguments, **options)
            stack.callback(node.stop)
            return node

        yield start
    wire.find_node(STREAM)  # removes the records of those that were killed


def receive(
    node: ServedNode, via: str, start: str | int, until: Callable[[wire.Received], bool] = lambda _: False, **more: Any
) -> wire.Received:
    subscription: wire.Ring | wire.Published
    if via == "ring":
        subscription = wire.Ring(node.describe(), start)
    else:
        subscription = wire.Published(STREAM, via=via, start=start, endpoint=node.endpoint, **more)
    try:
        return subscription.run(until, deadline_s=30)
    finally:
        subscription.close()


def check_packets(received: wire.Received, sequences: range) -> None:
    """Exactly these, in order, each with the bytes that the device sent."""
    assert [sequence for _, sequence, _ in received.packets] == list(sequences)
    for _, _, packet in received.packets:
        assert zlib.crc32(packet[:-4]) == struct.unpack("<I", packet[-4:])[0]
    for before, after in zip(received.batches, received.batches[1:], strict=False):
        if (before.epoch, before.number + 1) == (after.epoch, after.number):
            assert after.first_sequence == before.end_sequence


# Section 4


@pytest.mark.parametrize("path", sorted(VECTORS.glob("batch-*.bin")), ids=lambda path: path.stem)
def test_golden_batches_are_read_and_written_as_the_document_says(path: Path) -> None:
    raw, told = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    fields = json_format.ParseDict(told["fields"], pb.PacketBatch())
    assert wire.in_place(raw) is not None
    batch = wire.read_batch(raw)
    assert [packet.hex() for packet in batch.packets] == told["packets"]
    assert (batch.epoch, batch.number, batch.first_sequence) == (fields.epoch, fields.number, fields.first_sequence)
    assert [n for n, _, _ in batch.arrivals] == list(fields.arrival_packets)
    assert batch.losses == list(fields.lost_before)
    assert batch.events == list(fields.events)
    assert batch.holes == list(fields.holes)
    assert (batch.end is not None) == fields.HasField("end")
    assert wire.write_batch(fields) == raw


# Section 11

DOCUMENT = VECTORS.parent.parent / "docs" / "wire.md"
SHOWN = dict(re.findall(r"^```hex ([\w-]+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))


def shown(name: str) -> bytes:
    return b"".join(bytes.fromhex(line.partition("  ")[2]) for line in SHOWN[name].splitlines())


def test_the_document_shows_every_frame_of_the_exchange() -> None:
    assert sorted(SHOWN) == sorted([*(path.stem for path in VECTORS.glob("exchange-*.bin")), "batch-exchange"])


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_frame_of_the_exchange_is_the_vector_and_says_what_stands_beside_it(name: str) -> None:
    raw, told = shown(name), json.loads((VECTORS / f"{name}.json").read_text())
    assert raw == (VECTORS / f"{name}.bin").read_bytes()
    kind = getattr(pb, told["message"])
    assert kind.FromString(raw) == json_format.ParseDict(told["fields"], kind())


def test_a_client_that_is_fed_the_exchange_has_both_packets() -> None:
    cursor = wire.Cursor("oldest")
    notification = pb.Notification.FromString(shown("exchange-4-notification"))
    cursor.know(notification.epoch, notification.next_sequence, notification.next_number)
    wanted, asked = cursor.wanted(), pb.Request.FromString(shown("exchange-5-fetch")).fetch
    assert wanted is not None
    assert (wanted.epoch, wanted.from_sequence, wanted.from_number) == (asked.epoch, 0, 0)
    assert not wanted.HasField("until_sequence")
    reply = pb.Reply.FromString(shown("exchange-6-fetched"))
    cursor.fetched(reply.fetched, [wire.read_batch(shown("batch-exchange"))])
    assert [packet for _, _, packet in cursor.to.packets] == [b"\1\2\3\4", b"\5\6\7\x08"]
    assert (cursor.next_sequence, cursor.next_number, cursor.wanted()) == (2, 1, None)


def test_a_node_understands_the_requests_of_the_exchange(serve: Serve) -> None:
    """Those of the document, byte by byte, but for the name of the stream and the epoch."""
    node = serve(packets=2)
    with wire.Node(node.endpoint) as asked:
        reply, _ = asked.exchange([shown("exchange-1-describe")], 1)
        assert reply.error.code == pb.ErrorReply.CODE_STREAM_UNKNOWN, "it has another stream"
        info = node.wait_for(lambda info: info.next_sequence == 2)
        fetch = pb.Request.FromString(shown("exchange-5-fetch"))
        fetch.fetch.stream, fetch.fetch.epoch = STREAM, info.epoch
        reply, batches = asked.exchange([fetch.SerializeToString()], 3)
    assert reply.fetched.complete
    assert sum(len(batch.packets) for batch in batches) == 2


# Sections 3, 5, 6 and 7


@pytest.mark.parametrize("via", ["push", "notify", "ring"])
def test_every_packet_comes_by_each_way(serve: Serve, via: str) -> None:
    node = serve(packets=3000, rate_hz=6000)
    received = receive(node, via, "oldest")
    check_packets(received, range(3000))
    assert received.end is not None
    assert (received.end.packets, received.gaps) == (3000, [])


@pytest.mark.parametrize("via", ["push", "notify", "ring"])
def test_joining_now_begins_at_the_present(serve: Serve, via: str) -> None:
    node = serve(rate_hz=5000)
    before = node.wait_for(lambda info: info.next_sequence > 500).next_sequence
    received = receive(node, via, "now", lambda so_far: len(so_far.packets) >= 500)
    first = received.packets[0][1]
    assert first >= before
    check_packets(received, range(first, first + len(received.packets)))


@pytest.mark.parametrize("via", ["push", "notify", "ring"])
def test_joining_at_a_sequence_begins_exactly_there(serve: Serve, via: str) -> None:
    node = serve(rate_hz=20000, packets=10000)
    node.wait_for(lambda info: info.next_sequence > 3000)
    received = receive(node, via, 1234)
    check_packets(received, range(1234, 10000))


@pytest.mark.parametrize("via", ["push", "notify"])
def test_the_end_is_told_to_one_who_asked_for_a_sequence_that_never_came(serve: Serve, via: str) -> None:
    node = serve(rate_hz=0, packets=100)
    node.wait_for(lambda info: info.ended)
    received = receive(node, via, 1000)
    assert received.end is not None
    assert (received.packets, received.gaps, received.end.packets) == ([], [], 100)


def test_pushed_batches_that_get_lost_are_fetched(serve: Serve) -> None:
    node = serve(packets=3000, rate_hz=6000)
    lost = []

    def lose(batch: wire.Batch) -> bool:
        if batch.number % 7 in (2, 3, 5):
            lost.append(batch.number)
            return True
        return False

    received = receive(node, "push", 0, lose=lose)
    check_packets(received, range(3000))
    assert len(lost) > 2  # how many batches there are depends on how busy the machine is
    assert received.fetched >= sum(len(batch.packets) for batch in received.batches if batch.number in lost)
    assert received.gaps == []


@pytest.mark.parametrize("via", ["push", "notify", "ring"])
def test_what_the_ring_no_longer_holds_is_an_exact_gap(serve: Serve, via: str) -> None:
    node = serve(packets=20000, rate_hz=0, ring_size=1 << 20)
    node.wait_for(lambda info: info.ended)
    received = receive(node, via, 0)
    assert len(received.gaps) == 1
    _, first, until = received.gaps[0]
    assert first == 0
    check_packets(received, range(until, 20000))
    if via != "ring":
        assert received.lost_ranges[0] == (0, until)


def test_a_ring_reader_that_is_overtaken_finds_out_exactly(serve: Serve) -> None:
    node = serve(rate_hz=50000, ring_size=1 << 20)
    ring = wire.Ring(node.describe(), 0)
    try:
        ring.run(lambda so_far: len(so_far.packets) >= 1000, 10)
        stopped_at = ring.at
        node.wait_for(lambda _: ring.words[wire.TAIL] > stopped_at + 100)
        received = ring.run(lambda so_far: len(so_far.gaps) > 0, 10)
    finally:
        ring.close()
    ((_, first, until),) = received.gaps
    check_packets(received, [*range(first), *range(until, received.batches[-1].end_sequence)])  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="the client sleeps on the fifo where there is epoll")
def test_a_sleeping_ring_reader_is_woken(serve: Serve) -> None:
    """Unwoken, it sleeps for a second; 50 packets at 200/s then take much longer than they should."""
    node = serve(rate_hz=200)
    ring = wire.Ring(node.describe(), "now")
    begin = time.monotonic()
    try:
        ring.run(lambda so_far: len(so_far.packets) >= 50, 10)
    finally:
        ring.close()
    assert ring.sleeps >= 25
    assert time.monotonic() - begin < ring.sleeps * 0.5


def test_losses_and_events_stand_before_the_packets_that_follow_them(serve: Serve) -> None:
    drop = Fault(kind="drop", at_packet=100, count=7)
    unplug = Fault(kind="unplug", at_packet=300, duration_s=0.2)
    node = serve(packets=600, rate_hz=2000, faults=(drop, unplug))
    received = receive(node, "push", 0)
    numbered = 600 - 7
    check_packets(received, range(numbered))
    losses = [(batch.first_sequence, loss) for batch in received.batches for loss in batch.losses]
    assert [(at, loss.stage, loss.packets) for at, loss in losses] == [(100, pb.STAGE_DEVICE, 7)]
    kinds = [pb.DeviceEvent.Kind.Name(event.kind) for batch in received.batches for event in batch.events]
    assert kinds == ["KIND_ATTACHED", "KIND_DETACHED", "KIND_ATTACHED"]
    away = [batch.first_sequence for batch in received.batches for event in batch.events if event.kind == 2]
    assert away == [300 - 7]


@pytest.mark.slow
@pytest.mark.parametrize("via", ["push", "notify"])
def test_a_node_that_is_killed_and_comes_back_is_silence_and_a_restart(start: Start, via: str) -> None:
    node = start("--rate", "500")
    subscription = wire.Published(STREAM, via=via, start=0, endpoint=node.endpoint)
    try:
        subscription.run(lambda so_far: len(so_far.packets) >= 200, 10)
        node.kill()
        start("--rate", "500", "--packets", "600", "--linger-s", "10", bind=node.endpoint)
        received = subscription.run(lambda _: False, 30)
    finally:
        subscription.close()
    ((old, new),) = received.restarts
    for epoch in (old, new):
        sequences = [sequence for of, sequence, _ in received.packets if of == epoch]
        lost = [count for of, first, until in received.gaps if of == epoch for count in range(first, until)]
        assert sorted(sequences + lost) == list(range(len(sequences) + len(lost)))
    assert sequences == list(range(600))
    assert received.end is not None


# Section 5


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b""], pb.ErrorReply.CODE_MALFORMED),
        ([b"\xff" * 40], pb.ErrorReply.CODE_MALFORMED),
        ([b"", pb.Request(contract=wire.CONTRACT, request_id=1).SerializeToString()], pb.ErrorReply.CODE_MALFORMED),
        ([pb.Request(contract=wire.CONTRACT, request_id=1).SerializeToString()], pb.ErrorReply.CODE_MALFORMED),
        (
            [pb.Request(contract=2 << 16, request_id=1, health=pb.HealthRequest()).SerializeToString()],
            pb.ErrorReply.CODE_VERSION,
        ),
    ],
    ids=["empty", "no protobuf", "two frames", "no body", "another version"],
)
def test_what_is_no_request_is_told_so_with_id_0(serve: Serve, frames: list[bytes], code: int) -> None:
    with wire.Node(serve().endpoint) as node:
        reply, _ = node.exchange(frames, 0)
        assert reply.error.code == code
        assert reply.error.message


def test_what_cannot_be_answered_is_told_with_its_code(serve: Serve) -> None:
    with wire.Node(serve().endpoint) as node:
        reply, _ = node.ask(describe=pb.DescribeRequest(stream="other"))
        assert reply.error.code == pb.ErrorReply.CODE_STREAM_UNKNOWN
        assert STREAM in reply.error.message
        reply, _ = node.ask(fetch=pb.FetchRequest(stream=STREAM, epoch=1))
        assert reply.error.code == pb.ErrorReply.CODE_EPOCH_OVER
        refused = pb.ControlTransfer(request_type=0xC0, request=99, length=1)
        reply, _ = node.ask(command=pb.CommandRequest(stream=STREAM, control=refused))
        assert reply.error.code == pb.ErrorReply.CODE_DEVICE


def test_fetch_keeps_to_range_budget_and_number(serve: Serve) -> None:
    node = serve(packets=2000, rate_hz=0, batch_size=1120)
    epoch = node.wait_for(lambda info: info.ended).epoch
    with wire.Node(node.endpoint) as client:

        def fetch(**more: int) -> tuple[pb.FetchReply, list[wire.Batch]]:
            reply, batches = client.ask(fetch=pb.FetchRequest(stream=STREAM, epoch=epoch, **more))
            return reply.fetched, batches

        reply, batches = fetch(from_sequence=501, until_sequence=700)
        assert reply.complete
        assert batches[0].first_sequence <= 501 < batches[0].end_sequence
        assert batches[-1].first_sequence < 700 <= batches[-1].end_sequence
        assert [b.number for b in batches] == list(range(batches[0].number, batches[-1].number + 1))

        budget = 3 * len(batches[0].raw)
        reply, some = fetch(from_sequence=501, until_sequence=700, byte_budget=budget)
        assert not reply.complete
        assert [b.raw for b in some] == [b.raw for b in batches[: len(some)]]
        assert sum(len(b.raw) for b in some) <= budget
        reply, rest = fetch(from_sequence=some[-1].end_sequence, until_sequence=700, from_number=some[-1].number + 1)
        assert reply.complete
        assert [b.raw for b in some + rest] == [b.raw for b in batches]
        reply, one = fetch(from_sequence=501, byte_budget=1)
        assert len(one) == 1

        reply, none = fetch(from_sequence=5000)
        assert (reply.complete, none, list(reply.lost)) == (True, [], [])
        reply, end = fetch(from_sequence=2000, until_sequence=2000)
        assert [(b.packets, b.end is not None) for b in end][-1] == ([], True)
        reply, newest = fetch(newest_only=1)
        assert [batch.end_sequence for batch in newest if batch.packets] == [2000]
        assert newest[-1].end is not None


def test_command_clock_health_and_report(serve: Serve) -> None:
    with wire.Node(serve().endpoint) as node:
        write = pb.ControlTransfer(request_type=0x40, request=1, index=8, data=b"over the wire")
        reply, _ = node.ask(command=pb.CommandRequest(stream=STREAM, control=write))
        assert reply.commanded.written == 13
        read = pb.ControlTransfer(request_type=0xC0, request=1, index=8, length=13)
        reply, _ = node.ask(command=pb.CommandRequest(stream=STREAM, control=read))
        assert reply.commanded.data == b"over the wire"

        sent_ns = time.monotonic_ns()
        reply, _ = node.ask(clock=pb.ClockRequest(sent_monotonic_ns=sent_ns))
        assert sent_ns == reply.clock.sent_monotonic_ns < reply.clock.received_monotonic_ns < time.monotonic_ns()

        report = pb.SubscriptionReport(name="a client", via="push", lag_ns=5)
        request = pb.Request(contract=wire.CONTRACT, report=pb.ReportRequest(stream=STREAM, report=report))
        node.socket.send(request.SerializeToString())
        reply, _ = node.ask(health=pb.HealthRequest())
        (stream,) = reply.health.streams
        assert [ledger.stage for ledger in stream.ledgers] == ["device", "host", "framing", "outlet"]
        for books in stream.ledgers:
            assert books.entered == books.left + books.overhead + books.held + sum(books.lost.values())
        assert list(stream.discrepancies) == []
        assert [one.name for one in stream.subscriptions] == ["a client"]


# Section 8


def test_a_node_is_found_by_its_record_as_long_as_it_lives(start: Start) -> None:
    node = start()
    assert wire.find_node(STREAM) == node.endpoint
    assert wire.find_node("other") == "tcp://127.0.0.1:5570"
    node.kill()
    records = Path(os.environ["USBCAST_RUNTIME_DIR"])
    assert len(list(records.glob("node-*.json"))) == 1
    assert wire.find_node(STREAM) == "tcp://127.0.0.1:5570"
    again = start()
    assert wire.find_node(STREAM) == again.endpoint


def test_the_client_knows_nothing_of_usbcast_but_the_generated_code() -> None:
    tree = ast.parse(Path(wire.__file__).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert [name for name in modules if name.startswith("usbcast")] == ["usbcast_schemas.v1"]

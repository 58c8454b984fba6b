"""A client written from docs/wire.md alone, to show that the document is enough.

It imports nothing of usbcast but the code that protoc made. It favours being short over being fast; section numbers are those of
the document.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import random
import select
import struct
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from google.protobuf.message import DecodeError

from usbcast_schemas.v1 import usbcast_pb2 as pb

CONTRACT = 0x00010000
REPLY_MS = 1500
SILENCE_S = 3.0


class Refused(Exception):
    """What came fails a check of the document."""


# 2 Version


def check_version(contract: int) -> None:
    if contract >> 16 != 1:
        raise Refused(f"contract {contract >> 16}.{contract & 0xFFFF}, and this is 1.0")


# 4 PacketBatch, byte by byte


@dataclass
class Batch:
    raw: bytes
    epoch: int
    number: int
    first_sequence: int
    packets: list[bytes]
    arrivals: list[tuple[int, int, int]]
    losses: list[pb.Loss]
    events: list[pb.DeviceEvent]
    end: pb.StreamEnd | None
    holes: list[pb.LostRange]

    @property
    def first_number(self) -> int:
        return self.number - sum(hole.batches for hole in self.holes)

    @property
    def end_sequence(self) -> int:
        return self.first_sequence + len(self.packets)


HEAD = struct.Struct("<BIBIBQBQBQBI")
HEAD_TAGS = (0x0D, 0x15, 0x19, 0x21, 0x29, 0x35)
COLUMNS = {0x3A: "I", 0x42: "I", 0x4A: "q", 0x52: "q"}


def read_batch(raw: bytes) -> Batch:
    """Read a batch in its one form, else with the protobuf parser; then check it."""
    return check_batch(raw, *(in_place(raw) or by_parser(raw)))


def in_place(raw: bytes) -> tuple[Any, ...] | None:
    if len(raw) < HEAD.size:
        return None
    values = HEAD.unpack_from(raw)
    if values[0::2] != HEAD_TAGS:
        return None
    columns: dict[int, tuple[int, ...]] = dict.fromkeys(COLUMNS, ())
    lists: dict[int, list[bytes]] = {0x5A: [], 0x62: [], 0x6A: [], 0x72: []}
    at, before = HEAD.size, 0
    while at < len(raw):
        tag = raw[at]
        size, begin = varint(raw, at + 1)
        body = raw[begin : begin + size]
        at = begin + size
        if tag < before or (tag == before and tag not in (0x5A, 0x62, 0x72)) or len(body) != size:
            return None
        before = tag
        if tag in COLUMNS:
            columns[tag] = tuple(value for (value,) in struct.iter_unpack("<" + COLUMNS[tag], body))
        elif tag in lists:
            lists[tag].append(body)
        elif tag == 0x7A and at == len(raw):
            losses = [pb.Loss.FromString(one) for one in lists[0x5A]]
            events = [pb.DeviceEvent.FromString(one) for one in lists[0x62]]
            ends = [pb.StreamEnd.FromString(one) for one in lists[0x6A]]
            holes = [pb.LostRange.FromString(one) for one in lists[0x72]]
            return (*values[1::2], *columns.values(), losses, events, ends[0] if ends else None, holes, body)
        else:
            return None
    return None


def by_parser(raw: bytes) -> tuple[Any, ...]:
    try:
        b = pb.PacketBatch.FromString(raw)
    except DecodeError as error:
        raise Refused(str(error)) from None
    head = (b.contract, b.packet_count, b.epoch, b.number, b.first_sequence, b.packet_size)
    columns = (b.packet_ends, b.arrival_packets, b.arrival_realtime_ns, b.arrival_monotonic_ns)
    end = b.end if b.HasField("end") else None
    return (*head, *columns, list(b.lost_before), list(b.events), end, list(b.holes), b.payload)


def check_batch(
    raw: bytes, contract: int, count: int, epoch: int, number: int, first: int, size: int, ends: Any,
    arrived: Any, realtime: Any, monotonic: Any, losses: Any, events: Any, end: Any, holes: Any, payload: bytes,
) -> Batch:  # fmt: skip
    check_version(contract)
    if size:
        if ends or count * size != len(payload):
            raise Refused("the payload is not count times size")
        packets = [payload[at : at + size] for at in range(0, len(payload), size)]
    else:
        starts = [0, *ends]
        if len(ends) != count or starts[-1] != len(payload) or sorted(starts) != starts:
            raise Refused("the end offsets do not fit")
        packets = [payload[a:b] for a, b in zip(starts, ends, strict=False)]
    if not len(arrived) == len(realtime) == len(monotonic) or sum(arrived) != count:
        raise Refused("the arrivals do not fit")
    arrivals = list(zip(arrived, realtime, monotonic, strict=True))
    edges = [edge for hole in holes for edge in (hole.first_sequence, hole.first_sequence + hole.count)]
    batch = Batch(raw, epoch, number, first, packets, arrivals, losses, events, end, holes)
    if sorted(edges) != edges or (edges and edges[-1] > first) or batch.first_number < 0:
        raise Refused("the holes do not fit")
    return batch


def write_batch(fields: pb.PacketBatch) -> bytes:
    """The one form."""
    f = fields
    head = (f.contract, f.packet_count, f.epoch, f.number, f.first_sequence, f.packet_size)
    raw = HEAD.pack(*(part for pair in zip(HEAD_TAGS, head, strict=True) for part in pair))
    columns = (f.packet_ends, f.arrival_packets, f.arrival_realtime_ns, f.arrival_monotonic_ns)
    for (tag, code), column in zip(COLUMNS.items(), columns, strict=True):
        if column:
            raw += delimited(tag, struct.pack(f"<{len(column)}{code}", *column))
    ends = [f.end] if f.HasField("end") else []
    for tag, messages in ((0x5A, f.lost_before), (0x62, f.events), (0x6A, ends), (0x72, f.holes)):
        for message in messages:
            raw += delimited(tag, message.SerializeToString(deterministic=True))
    return raw + delimited(0x7A, f.payload)


def delimited(tag: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((tag, *length, size)) + body


def varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw):
        value |= (raw[at] & 0x7F) << shift
        shift += 7
        at += 1
        if raw[at - 1] < 0x80:
            break
    return value, at


# 1 Sockets, and 5 Requests and replies


def socket(kind: int, endpoint: str) -> zmq.Socket[bytes]:
    made = zmq.Context.instance().socket(kind)
    for option, value in (
        (zmq.LINGER, 0), (zmq.RCVHWM, 512), (zmq.SNDHWM, 512), (zmq.MAXMSGSIZE, 64 << 20), (zmq.IPV6, 1),
        (zmq.TCP_KEEPALIVE, 1), (zmq.TCP_KEEPALIVE_IDLE, 5), (zmq.TCP_KEEPALIVE_INTVL, 2), (zmq.TCP_KEEPALIVE_CNT, 3),
        (zmq.RECONNECT_IVL, 50), (zmq.RECONNECT_IVL_MAX, 2000),
    ):  # fmt: skip
        made.setsockopt(option, value)
    made.connect(endpoint)
    return made


class Node:
    """One request at a time."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.socket = socket(zmq.DEALER, endpoint)
        self.last_id = random.getrandbits(32)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, **body: Any) -> tuple[pb.Reply, list[Batch]]:
        self.last_id += 1
        request = pb.Request(contract=CONTRACT, request_id=self.last_id, **body)
        return self.exchange([request.SerializeToString()], self.last_id)

    def exchange(self, frames: list[bytes], request_id: int) -> tuple[pb.Reply, list[Batch]]:
        self.socket.send_multipart(frames)
        while self.socket.poll(REPLY_MS):
            first, *rest = self.socket.recv_multipart()
            reply = pb.Reply.FromString(first)
            check_version(reply.contract)
            if reply.request_id != request_id:
                continue
            batches = [read_batch(raw) for raw in rest]
            if len(batches) != reply.fetched.batch_count or any(b.epoch != reply.fetched.epoch for b in batches):
                raise Refused("a fetch reply and its batches do not fit")
            return reply, batches
        raise TimeoutError(f"no answer from {self.endpoint}")

    def describe(self, stream: str) -> pb.StreamInfo:
        reply, _ = self.ask(describe=pb.DescribeRequest(stream=stream))
        (info,) = reply.described.streams
        return info


def data_endpoint(info: pb.StreamInfo, reached_by: str) -> str:
    """By tcp, at the host by which the node was reached."""
    told = next(one for one in info.data_endpoints if one.startswith("tcp://"))
    return f"{reached_by.rpartition(':')[0]}:{told.rpartition(':')[2]}"


# 8 Finding nodes on this machine


def find_node(stream: str) -> str:
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    beside = (
        Path(session) / "usbcast" if Path(session).is_dir() else Path(tempfile.gettempdir()) / f"usbcast-{os.getuid()}"
    )
    directory = Path(os.environ.get("USBCAST_RUNTIME_DIR") or beside)
    alive = []
    for path in directory.glob("node-*.json"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                alive.append((path.stat().st_mtime_ns, json.load(file)))
            else:
                path.unlink()
    having = [(at, record["endpoint"]) for at, record in alive if stream in record["streams"]]
    return max(having)[1] if having else "tcp://127.0.0.1:5570"


# 6 What a subscription does


@dataclass
class Received:
    """What a subscription has delivered."""

    batches: list[Batch] = field(default_factory=list)
    packets: list[tuple[int, int, bytes]] = field(default_factory=list)
    gaps: list[tuple[int, int, int]] = field(default_factory=list)
    restarts: list[tuple[int, int]] = field(default_factory=list)
    silences: int = 0
    fetched: int = 0
    lost_ranges: list[tuple[int, int]] = field(default_factory=list)
    end: pb.StreamEnd | None = None


class Cursor:
    """The state of a subscription; knows nothing of sockets."""

    def __init__(self, start: str | int) -> None:
        self.start = start
        self.to = Received()
        self.epoch: int | None = None
        self.next_number: int | None = None
        self.next_sequence: int | None = None
        self.known_number = self.known_sequence = 0
        self.held: deque[Batch] = deque()
        self.former: set[int] = set()

    def is_current(self, epoch: int, sequence: int, number: int) -> bool:
        """Join at the first message, restart at another epoch; False for what still comes of a former one."""
        if epoch in self.former:
            return False
        if self.epoch is None:
            self.epoch = epoch
            if self.start == "now":
                self.next_number, self.next_sequence = number, sequence
            elif isinstance(self.start, int):
                self.begin_at(self.start)
        elif epoch != self.epoch:
            self.restart(epoch)
        return True

    def begin_at(self, sequence: int) -> None:
        self.next_sequence = sequence
        self.next_number = None if sequence else 0

    def know(self, epoch: int, next_sequence: int, next_number: int, *, ended: bool = False) -> None:
        if not self.is_current(epoch, next_sequence, next_number):
            return
        self.known_sequence = max(self.known_sequence, next_sequence)
        self.known_number = max(self.known_number, next_number)
        if ended and self.next_number is None and self.next_sequence and next_sequence < self.next_sequence:
            self.next_number, self.next_sequence = next_number - 1, next_sequence

    def live(self, batch: Batch) -> None:
        if not self.is_current(batch.epoch, batch.first_sequence, batch.number):
            return
        self.know(batch.epoch, batch.end_sequence, batch.number + 1)
        if self.next_number is None or batch.first_number > self.next_number:
            self.held.append(batch)
        else:
            self.accept(batch)
            self.release()

    def wanted(self) -> pb.FetchRequest | None:
        """The fetch that is needed now."""
        begin = self.next_sequence or 0
        if self.next_number is not None:
            missing = self.known_number > self.next_number
        else:
            missing = self.known_sequence > begin if begin else self.known_number > 0
        if self.epoch is None or not (self.held or missing):
            return None
        until = {"until_sequence": self.held[0].first_sequence} if self.held else {}
        return pb.FetchRequest(epoch=self.epoch, from_sequence=begin, from_number=self.next_number or 0, **until)

    def fetched(self, reply: pb.FetchReply, batches: list[Batch]) -> None:
        self.know(reply.epoch, reply.next_sequence, reply.next_number)
        if reply.epoch != self.epoch:
            return
        self.to.fetched += sum(len(batch.packets) for batch in batches)
        self.to.lost_ranges += [(lost.first_sequence, lost.first_sequence + lost.count) for lost in reply.lost]
        for batch in batches:
            self.accept(batch)
        if reply.complete and self.held:
            self.accept(self.held.popleft())
        self.release()

    def release(self) -> None:
        while self.held and self.next_number is not None and self.held[0].first_number <= self.next_number:
            self.accept(self.held.popleft())

    def accept(self, batch: Batch) -> None:
        """Deliver, unless it is a duplicate; what is missing before it is a gap."""
        if self.next_number is not None and batch.number < self.next_number:
            return
        if self.next_sequence is None:
            self.next_sequence = batch.first_sequence
        if (
            self.next_number is None
            and batch.end_sequence <= self.next_sequence
            and batch.first_sequence < self.next_sequence
        ):
            return  # before the start that was asked for
        self.gap(batch.first_sequence)
        skip = self.next_sequence - batch.first_sequence
        for at in range(skip, len(batch.packets)):
            self.to.packets.append((batch.epoch, batch.first_sequence + at, batch.packets[at]))
        self.to.batches.append(batch)
        self.next_number, self.next_sequence = batch.number + 1, batch.end_sequence
        self.to.end = batch.end or self.to.end

    def gap(self, until: int) -> None:
        if self.next_sequence is not None and until > self.next_sequence:
            assert self.epoch is not None
            self.to.gaps.append((self.epoch, self.next_sequence, until))
            self.next_sequence = until

    def restart(self, epoch: int) -> None:
        assert self.epoch is not None
        while self.held:
            self.accept(self.held.popleft())
        self.gap(self.known_sequence)
        self.to.restarts.append((self.epoch, epoch))
        self.former.add(self.epoch)
        self.epoch = epoch
        self.next_number = self.next_sequence = self.known_number = self.known_sequence = 0


class Published:
    """A subscription by push or notify."""

    def __init__(
        self, stream: str, *, via: str, start: str | int, endpoint: str | None = None,
        lose: Callable[[Batch], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        self.stream, self.via, self.endpoint, self.lose = stream, via, endpoint, lose
        self.cursor = Cursor(start)
        self.heard = time.monotonic()
        self.node: Node | None = None
        self.sub: zmq.Socket[bytes] | None = None
        self.connect()

    def connect(self) -> None:
        """Describe until somebody answers, then connect to what it said."""
        self.close()
        pause_s = 0.05
        while True:
            self.node = Node(self.endpoint or find_node(self.stream))
            try:
                info = self.node.describe(self.stream)
                break
            except TimeoutError:
                self.node.socket.close()
                time.sleep(pause_s * random.uniform(1, 1.5))
                pause_s = min(2.0, 2 * pause_s)
        self.sub = socket(zmq.SUB, data_endpoint(info, self.node.endpoint))
        self.sub.subscribe(f"notify/{self.stream}/")
        if self.via == "push":
            self.sub.subscribe(f"data/{self.stream}/")
        self.heard = time.monotonic()
        if self.cursor.epoch is not None:
            self.cursor.know(info.epoch, info.next_sequence, info.next_number, ended=info.ended)

    def close(self) -> None:
        if self.sub is not None and self.node is not None:
            self.sub.close()
            self.node.socket.close()

    def run(self, until: Callable[[Received], bool], deadline_s: float) -> Received:
        """Receive until `until` says that it is enough, or the stream ends."""
        deadline = time.monotonic() + deadline_s
        received = self.cursor.to
        while not until(received) and received.end is None:
            assert time.monotonic() < deadline, f"after {deadline_s} s: {len(received.packets)} packets"
            assert self.sub is not None
            if self.sub.poll(50):
                self.take(self.sub.recv_multipart())
            elif time.monotonic() - self.heard > SILENCE_S:
                received.silences += 1
                self.connect()
            self.repair()
        return received

    def take(self, frames: list[bytes]) -> None:
        self.heard = time.monotonic()
        topic, body = frames
        if topic == f"data/{self.stream}/".encode():
            batch = read_batch(body)
            if not self.lose(batch):
                self.cursor.live(batch)
        elif topic == f"notify/{self.stream}/".encode():
            news = pb.Notification.FromString(body)
            check_version(news.contract)
            self.cursor.know(news.epoch, news.next_sequence, news.next_number, ended=news.ended)
        else:
            raise Refused(f"topic {topic!r}")

    def repair(self) -> None:
        wanted = self.cursor.wanted()
        if wanted is None:
            return
        if self.via == "push":
            time.sleep(random.uniform(0, 0.002))
        wanted.stream = self.stream
        assert self.node is not None
        try:
            reply, batches = self.node.ask(fetch=wanted)
        except TimeoutError:
            return
        if reply.error.code == pb.ErrorReply.CODE_EPOCH_OVER:
            info = self.node.describe(self.stream)
            self.cursor.know(info.epoch, info.next_sequence, info.next_number, ended=info.ended)
        else:
            self.cursor.fetched(reply.fetched, batches)


# 7 The ring, byte by byte

MAGIC, NONCE, EPOCH, SLOTS, DATA_BYTES, FLAGS = range(6)
HEAD_WORD, TAIL, WAITING, HEARTBEAT, STATE = 16, 17, 24, 32, 33

_lock = threading.Lock()


def fence() -> None:
    with _lock:
        pass


class Ring:
    """A subscription by ring."""

    def __init__(self, info: pb.StreamInfo, start: str | int) -> None:
        with Path(info.ring.path).open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        self.words = memoryview(self.map)[: len(self.map) // 8 * 8].cast("Q")
        words = self.words
        self.slots, self.data_bytes = words[SLOTS], words[DATA_BYTES]
        if (
            words[MAGIC] != 0x31474E5243425355
            or words[NONCE] != info.ring.nonce
            or len(self.map) != 4096 + 48 * self.slots + self.data_bytes
        ):
            raise Refused("not the ring that was described")
        self.fifo = os.open(info.ring.wake_path, os.O_RDONLY | os.O_NONBLOCK)
        self.wake = select.epoll() if hasattr(select, "epoll") else None
        if self.wake:
            self.wake.register(self.fifo, select.EPOLLIN | select.EPOLLET)
        self.cursor = Cursor("oldest")
        self.cursor.epoch = words[EPOCH]
        self.sleeps = 0
        if isinstance(start, int):
            self.cursor.begin_at(start)
            self.at = self.find(start)
        else:
            self.at = words[HEAD_WORD] if start == "now" else words[TAIL]

    def close(self) -> None:
        if self.wake:
            self.wake.close()
        os.close(self.fifo)
        self.words.release()
        self.map.close()

    def slot(self, n: int) -> tuple[int, int, int, int, int, int] | None:
        words = self.words
        if not words[TAIL] <= n < words[HEAD_WORD]:
            return None
        at = 512 + 6 * (n % self.slots)
        named, number, first, sizes, position, crc = words[at : at + 6]
        if named != n + 1 or words[TAIL] > n:
            return None
        return number, first, sizes >> 32, sizes & 0xFFFFFFFF, position, crc

    def read(self, n: int) -> bytes | None:
        """The bytes of the batch in slot `n`; None if it was overwritten."""
        found = self.slot(n)
        if found is None:
            return None
        _, _, _, length, position, crc = found
        begin = 4096 + 48 * self.slots + position % self.data_bytes
        raw = self.map[begin : begin + length]
        fence()
        if self.words[TAIL] > n or self.words[512 + 6 * (n % self.slots)] != n + 1:
            return None
        return None if self.words[FLAGS] & 1 and zlib.crc32(raw) != crc else raw

    def find(self, sequence: int) -> int:
        low, high = self.words[TAIL], self.words[HEAD_WORD]
        while low < high:
            middle = (low + high) // 2
            found = self.slot(middle)
            if found is None:
                low = middle + 1
            elif found[1] + found[2] > sequence or (not found[2] and found[1] >= sequence):
                high = middle
            else:
                low = middle + 1
        return low

    def run(self, until: Callable[[Received], bool], deadline_s: float) -> Received:
        deadline = time.monotonic() + deadline_s
        received, words = self.cursor.to, self.words
        while not until(received) and received.end is None:
            assert time.monotonic() < deadline, f"after {deadline_s} s: {len(received.packets)} packets"
            if self.at >= words[HEAD_WORD]:
                assert not words[STATE], "the node closed the ring without an end"
                self.sleep()
                continue
            raw = self.read(self.at)
            if raw is None:
                self.at = max(self.at + 1, words[TAIL])
                continue
            self.at += 1
            self.cursor.accept(read_batch(raw))
        return received

    def sleep(self) -> None:
        words = self.words
        if self.wake is None:
            time.sleep(0.001)
            return
        words[WAITING] = 1
        fence()
        if words[HEAD_WORD] == self.at and not words[STATE]:
            self.sleeps += 1
            self.wake.poll(1.0)

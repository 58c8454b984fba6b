"""Queued reads beside pyusb's backend, on a libusb whose transfers are made of memory: what reads, commands and endings bring."""

from __future__ import annotations

import ctypes
import errno
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import usb.core
from usb.backend import libusb1

from usbcast_broker.flow import Transfer
from usbcast_broker.sources.usb import libusb
from usbcast_broker.sources.usb.libusb_transfers import BULK, CONTROL, _TransferStruct
from usbcast_broker.sources.usb.queued_backend import QueuedBackend
from usbcast_broker.sources.usb.queued_reader import QueuedReader
from usbcast_broker.sources.usb.read_sizes import MAX_READS, ReadSizes
from usbcast_broker.sources.usb.readahead import Figures

COMPLETED, ERROR, TIMED_OUT, CANCELLED, STALL, NO_DEVICE, OVERFLOW = range(7)
IN, OUT, QUEUE, SIZE = 0x81, 0x02, 4, 512


class FakeLibrary:
    """libusb's functions on transfers in memory; a test says how they end."""

    def __init__(self) -> None:
        self.allocated: dict[int, Any] = {}
        self.flying: list[_TransferStruct] = []
        self.ends: deque[tuple[int, bytes]] = deque()
        """How the oldest reads end, at the next handling of events."""
        self.held_when_cancelled: deque[bytes] = deque()
        self.ends_when_cancelled: deque[bytes] = deque()
        """What reads come to that end by themselves at the moment at which they are cancelled."""
        self.stuck = False
        self.slow_commands = False
        self.others: list[tuple[int, bytes]] = []
        """Control and OUT transfers that were carried out: endpoint and content."""
        self.answer = b""
        self.other_status = COMPLETED
        self.waiting = threading.Event()
        self._interrupted = threading.Event()
        self._ended = False

    def alloc(self, _iso: int) -> int:
        memory = ctypes.create_string_buffer(ctypes.sizeof(_TransferStruct))
        self.allocated[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def free(self, address: int) -> None:
        del self.allocated[address]

    def submit(self, address: int) -> int:
        self.flying.append(_TransferStruct.from_address(address))
        return 0

    def cancel(self, address: int) -> None:
        for struct in self.flying:
            if ctypes.addressof(struct) == address and not self.stuck:
                if self.ends_when_cancelled:
                    self._end(struct, COMPLETED, self.ends_when_cancelled.popleft())
                    return
                self._end(struct, CANCELLED, self.held_when_cancelled.popleft() if self.held_when_cancelled else b"")
                return

    def interrupt(self, _context: Any) -> None:
        self._interrupted.set()

    def handle_events(self, _context: Any, timeout_s: float) -> int:
        for struct in [one for one in self.flying if one.endpoint != IN and not self.slow_commands]:
            content = ctypes.string_at(struct.buffer, struct.length)
            self.others.append((struct.endpoint, content))
            head = content[:8] if struct.type == CONTROL else b""
            size = len(self.answer) if head and head[0] & 0x80 else len(content) - len(head)
            self._end(struct, self.other_status, head + self.answer if self.answer else content, size)
        reads = [one for one in self.flying if one.endpoint == IN]
        if self.ends:
            while self.ends and reads:
                self._end(reads.pop(0), *self.ends.popleft())
        elif timeout_s and not self._ended:
            self.waiting.set()
            self._interrupted.wait(timeout_s)
            self._interrupted.clear()
        self._ended = False
        return 0

    def _end(self, struct: _TransferStruct, status: int, data: bytes, size: int | None = None) -> None:
        self.flying.remove(struct)
        self._ended = True
        ctypes.memmove(struct.buffer, data, len(data))
        struct.actual_length = len(data) if size is None else size
        struct.status = status


class Handle:
    handle = None


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures = Figures()
        self.library = FakeLibrary()
        monkeypatch.setattr("usbcast_broker.sources.usb.queued_backend.Library", lambda _lib: self.library)
        self.backend = QueuedBackend(libusb._shared().lib, QUEUE, self.figures, clock=lambda: (7, time.monotonic_ns()))
        self.handle = Handle()
        self.calls: list[str] = []
        calls = (
            "claim_interface",
            "release_interface",
            "clear_halt",
            "reset_device",
            "close_device",
            "set_configuration",
        )
        for name in calls:
            monkeypatch.setattr(libusb1._LibUSB, name, lambda _self, *_, name=name: self.calls.append(name))
        self.backend.claim_interface(self.handle, 0)
        self.calls.clear()
        self.sizes = ReadSizes(SIZE)
        self.delivered: list[bytes] | None = None
        self._reader: QueuedReader | None = None

    @property
    def reader(self) -> QueuedReader:
        """Opened when it is first used; with `delivered` a list, that takes what is read during commands."""
        if self._reader is None:
            deliver = None if self.delivered is None else self.deliver
            self._reader = self.backend.open_reader(0, IN, BULK, self.sizes, deliver)
        return self._reader

    def deliver(self, transfers: list[Transfer]) -> None:
        assert self.delivered is not None
        self.delivered += [transfer.data for transfer in transfers]
        self.library.slow_commands = False

    def read(self, timeout_ms: int = 20) -> list[bytes]:
        return [transfer.data for transfer in self.reader.read(timeout_ms)]

    def ends(self, *ends: tuple[int, bytes] | bytes) -> None:
        self.library.ends.extend((COMPLETED, one) if isinstance(one, bytes) else one for one in ends)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(monkeypatch)
    yield made
    made.backend.close_device(made.handle)
    assert not made.library.allocated, "every transfer is freed"
    made.backend.finalize()


def test_reads_come_from_what_is_queued(rig: Rig) -> None:
    rig.ends(b"a", b"", b"b" * SIZE)
    transfers = rig.reader.read(20)
    assert [transfer.data for transfer in transfers] == [b"a", b"", b"b" * SIZE]
    assert {transfer.realtime_ns for transfer in transfers} == {7}
    assert len(rig.library.flying) == rig.figures.in_flight == QUEUE


def test_a_read_in_vain_is_a_timeout_and_cancels_nothing(rig: Rig) -> None:
    begin = time.monotonic()
    assert rig.read(timeout_ms=30) == []
    assert time.monotonic() - begin >= 0.03
    assert rig.figures.in_flight == QUEUE
    rig.ends(b"a")
    assert rig.read() == [b"a"]


@pytest.mark.parametrize(
    ("status", "code", "number"),
    [
        (ERROR, -1, errno.EIO),
        (STALL, -9, errno.EPIPE),
        (NO_DEVICE, -4, errno.ENODEV),
        (OVERFLOW, -8, errno.EOVERFLOW),
        (CANCELLED, -1, errno.EIO),
    ],
)
def test_failures_are_pyusbs_and_at_their_place(rig: Rig, status: int, code: int, number: int) -> None:
    rig.ends(b"a", (status, b""), b"b")
    assert rig.read() == [b"a"]
    with pytest.raises(usb.core.USBError) as caught:
        rig.read()
    assert (caught.value.backend_error_code, caught.value.errno) == (code, number)
    assert rig.read() == [b"b"]


def test_clearing_a_halt_empties_the_queue_first_and_keeps_what_was_read(rig: Rig) -> None:
    rig.ends((STALL, b""))
    with pytest.raises(usb.core.USBError):
        rig.read()
    rig.library.held_when_cancelled.extend([b"a", b"b"])
    rig.backend.clear_halt(rig.handle, IN)
    assert rig.calls == ["clear_halt"]
    assert rig.library.flying == []
    assert rig.read() == [b"a", b"b"]
    assert rig.figures.in_flight == QUEUE


@pytest.mark.parametrize("call", ["release_interface", "set_configuration"])
def test_what_ends_the_reading_empties_the_queue_first(rig: Rig, call: str) -> None:
    rig.ends(b"a")
    assert rig.read() == [b"a"]
    rig.library.held_when_cancelled.append(b"bc")
    getattr(rig.backend, call)(rig.handle, 0)
    assert rig.library.flying == []
    assert rig.library.allocated == {}
    assert rig.figures.discarded_bytes == 2
    with pytest.raises(usb.core.USBError) as caught:
        rig.read()
    assert caught.value.backend_error_code == -4


def test_finishing_gives_what_is_queued_time_to_end_and_cancels_the_rest(rig: Rig) -> None:
    rig.ends(b"a")
    assert rig.read() == [b"a"]
    rig.ends(b"b")
    rig.backend.bulk_write(rig.handle, OUT, 0, array("B", b"x"), 1000)
    rig.ends(b"c")
    rig.library.held_when_cancelled.extend([b"d"])
    assert [one.data for one in rig.reader.finish(0.05)] == [b"b", b"c", b"d"]
    assert rig.library.flying == []
    assert rig.reader.finish(0.05) == []


PACKET = 64
LATENCY_MS = 5


def keep_latency(rig: Rig, *, can_end: bool = True) -> None:
    """Reads that begin at a half of `SIZE` and may hold bytes for 5 ms."""
    rig.sizes = ReadSizes(SIZE, PACKET, LATENCY_MS * 1_000_000, bytes_per_s=SIZE / (LATENCY_MS / 1000), can_end=can_end)


def test_the_oldest_read_alone_is_ended_and_what_it_holds_is_data(rig: Rig) -> None:
    keep_latency(rig)
    rig.library.held_when_cancelled.append(b"held")
    assert rig.read(timeout_ms=5000) == [b"held"]
    assert rig.figures.ended_early == 1
    assert rig.figures.failed_together == rig.figures.starved == 0
    rig.ends(b"next")
    assert rig.read() == [b"next"]


def test_a_read_that_ends_while_it_is_cancelled(rig: Rig) -> None:
    keep_latency(rig)
    rig.library.ends_when_cancelled.append(b"just ended")
    assert rig.read(timeout_ms=5000) == [b"just ended"]
    rig.ends(b"next")
    assert rig.read() == [b"next"]


def test_what_has_ended_while_nobody_looked_is_not_cancelled(rig: Rig) -> None:
    """The reads have been the oldest for longer than the latency, but they have ended."""
    keep_latency(rig)
    rig.ends(b"a")
    assert rig.read() == [b"a"]
    rig.ends(b"b")
    deadline = time.monotonic() + 5
    while rig.figures.held_ns(time.monotonic_ns()) < 3 * LATENCY_MS * 1_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert rig.read() == [b"b"]
    assert rig.figures.ended_early == 0


def test_reads_of_one_packet_are_left_alone(rig: Rig) -> None:
    """All reads are ended that may hold something: what is queued for them holds nothing, and stays."""
    keep_latency(rig)
    deadline = time.monotonic() + 30
    while rig.figures.held_since_ns is not None or not rig.figures.in_flight:
        assert time.monotonic() < deadline
        assert rig.read(timeout_ms=20) == []
    assert [struct.length for struct in rig.library.flying] == [PACKET] * len(rig.library.flying)
    assert len(rig.library.flying) == QUEUE * SIZE // PACKET <= MAX_READS
    ended = rig.figures.ended_early
    assert rig.read(timeout_ms=10 * LATENCY_MS) == []
    assert rig.figures.ended_early == ended
    assert rig.figures.held_ns(time.monotonic_ns()) == 0


@pytest.mark.timeout(30)
def test_a_command_does_not_keep_a_read_from_being_ended(rig: Rig) -> None:
    keep_latency(rig)
    rig.delivered = []
    rig.ends(b"a")
    assert rig.read() == [b"a"]
    rig.library.slow_commands = True
    rig.library.held_when_cancelled.append(b"held")
    rig.backend.bulk_write(rig.handle, OUT, 0, array("B", b"x"), 1000)
    assert rig.delivered == [b"held"]


def test_where_a_cancelled_read_keeps_nothing_it_is_not_cancelled(rig: Rig) -> None:
    keep_latency(rig, can_end=False)
    assert rig.read(timeout_ms=10 * LATENCY_MS) == []
    assert rig.figures.ended_early == 0
    assert rig.figures.held_ns(time.monotonic_ns()) >= 10 * LATENCY_MS * 1_000_000


def test_what_a_failing_read_holds_comes_first(rig: Rig) -> None:
    rig.ends((NO_DEVICE, b"held"))
    assert rig.read() == [b"held"]
    with pytest.raises(usb.core.USBError) as caught:
        rig.read()
    assert caught.value.backend_error_code == -4


def test_a_transfer_that_does_not_end_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[Any] = []
    monkeypatch.setattr("usbcast_broker.sources.usb.queued_reader._given_up", given_up)
    monkeypatch.setattr("usbcast_broker.sources.usb.queued_reader.CANCEL_S", 0.02)
    rig.ends(b"a")
    rig.read()
    rig.library.stuck = True
    assert rig.reader.finish(0.0) == []
    assert len(given_up) == len(rig.library.allocated) == QUEUE
    rig.library.allocated.clear()


def test_commands_while_it_reads(rig: Rig) -> None:
    rig.ends(b"a")
    assert rig.read() == [b"a"]
    rig.ends(b"b", b"c")
    big = bytes(range(256)) * 1000
    assert rig.backend.bulk_write(rig.handle, OUT, 0, array("B", big), 1000) == len(big)
    rig.library.answer = b"\x01\x60"
    buffer = array("B", bytes(8))
    assert rig.backend.ctrl_transfer(rig.handle, 0xC0, 5, 1, 2, buffer, 1000) == 2
    assert buffer.tobytes() == b"\x01\x60" + bytes(6)
    rig.library.answer = b""
    assert rig.backend.ctrl_transfer(rig.handle, 0x40, 9, 0x102, 3, array("B", b"xyz"), 1000) == 3
    assert rig.library.others == [
        (OUT, big),
        (0, bytes([0xC0, 5, 1, 0, 2, 0, 8, 0]) + bytes(8)),
        (0, bytes([0x40, 9, 2, 1, 3, 0, 3, 0]) + b"xyz"),
    ]
    assert rig.read() == [b"b", b"c"]


def test_what_is_read_during_a_command_does_not_wait_for_its_end(rig: Rig) -> None:
    rig.delivered = []
    rig.ends(b"a")
    assert rig.read() == [b"a"]
    rig.ends(b"b", b"c")
    rig.backend.bulk_write(rig.handle, OUT, 0, array("B", b"x"), 1000)
    assert rig.delivered == [b"b", b"c"]
    rig.ends(b"d")
    assert rig.read() == [b"d"]


@pytest.mark.parametrize(("status", "code"), [(STALL, -9), (TIMED_OUT, -7), (NO_DEVICE, -4)])
def test_a_refused_command_is_pyusbs_error_and_the_reading_goes_on(rig: Rig, status: int, code: int) -> None:
    rig.ends(b"a")
    rig.read()
    rig.library.other_status = status
    with pytest.raises(usb.core.USBError) as caught:
        rig.backend.ctrl_transfer(rig.handle, 0xC0, 5, 0, 0, array("B", bytes(8)), 1000)
    assert caught.value.backend_error_code == code
    rig.ends(b"b")
    assert rig.read() == [b"b"]


def test_a_read_that_waits_can_be_woken(rig: Rig) -> None:
    rig.library.waiting.clear()

    def wake() -> None:
        rig.library.waiting.wait(5)
        rig.reader.wake()

    rig.reader  # noqa: B018 - opened before another thread wakes it
    waker = threading.Thread(target=wake)
    waker.start()
    begin = time.monotonic()
    assert rig.read(timeout_ms=5000) == []
    assert time.monotonic() - begin < 4
    waker.join(5)


def test_without_what_it_stands_on_there_is_plain_pyusb_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lacking(_lib: object) -> None:
        raise AttributeError("libusb_alloc_transfer")

    monkeypatch.setattr(libusb, "_warned", [])
    monkeypatch.setattr("usbcast_broker.sources.usb.queued_backend.Library", lacking)
    for _ in range(2):
        backend = libusb.load_backend(8)
        assert not isinstance(backend, QueuedBackend)
        backend.finalize()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "reads are not queued" in record.getMessage()
    assert "libusb_alloc_transfer" in record.getMessage()

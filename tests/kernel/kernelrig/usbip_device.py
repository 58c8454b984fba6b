"""A USB device made of software at the host, behind the guest kernel's vhci_hcd: packets, a bounded FIFO, any bus error.

The kernel enumerates it like any other; only its cable is a TCP connection, on which URBs come and are answered as in
Linux's Documentation/usb/usbip_protocol.rst. It obeys JSON lines on stdin ({"do": "start"}, and so on, see `Bench.obey`)
and answers each with what it has counted. Like a device that its cable feeds, it forgets everything when it is unplugged.
All its times are of the host's monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

VENDOR_ID: Final = 0x1209
PRODUCT_ID: Final = 0x0001
BULK_IN, BULK_OUT = 0x81, 0x02

SUBMIT, UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
BASIC: Final = struct.Struct(">5I")  # command, seqnum, devid, direction, endpoint
SUBMIT_REST: Final = struct.Struct(">Iiiii8s")
UNLINK_REST: Final = struct.Struct(">I24x")
RET_SUBMIT_REST: Final = struct.Struct(">iiiii8x")  # status, actual length, start frame, packets, errors
RET_UNLINK_REST: Final = struct.Struct(">i24x")
HEADER_BYTES: Final = 48

EPIPE, ECONNRESET, ESHUTDOWN = -32, -104, -108

GET_STATUS, CLEAR_FEATURE, GET_DESCRIPTOR, GET_CONFIGURATION, SET_CONFIGURATION, SET_INTERFACE = 0, 1, 6, 8, 9, 11
VENDOR_OUT, VENDOR_IN = 0x40, 0xC0
REFUSED, SLOW = 0xFF, 0xF0
"""Vendor requests that are answered with a stall, and only after as many ms as their value says."""

FIRST_CASE_BYTES: Final = 112
CHANNELS: Final = struct.pack("<24f", *(n / 8 for n in range(24)))


def first_case_packet(number: int, made_us: int, size: int = FIRST_CASE_BYTES) -> bytes:
    """As the shipped profile first-case describes it; of another size, with fewer channels or zeros behind them."""
    body = (struct.pack("<IQ", number & 0xFFFFFFFF, made_us) + CHANNELS)[: size - 4].ljust(size - 4, b"\0")
    return body + struct.pack("<I", zlib.crc32(body))


def string_descriptor(text: str) -> bytes:
    encoded = text.encode("utf-16-le")
    return bytes([2 + len(encoded), 3]) + encoded


class Device:
    """What is at the end of the cable, with its host controller. Takes URBs, leaves the answers in `answers`; the time is
    handed in.

    As with a real controller (USB 2.0, 5.8.3), an URB that reads ends when it is full or a short packet comes, and one that
    is unlinked is given back with what it has taken.
    """

    def __init__(
        self,
        serial: str,
        rate_hz: float,
        fifo: int,
        *,
        started: bool,
        packet_bytes: int = FIRST_CASE_BYTES,
        max_packet_size: int = 512,
    ) -> None:
        self.answers = bytearray()
        self.started = started
        self.mute = False
        """It answers nothing any more, not even that a transfer is cancelled."""
        self.faults: deque[tuple[int, int]] = deque()
        """URB statuses to come, as negative errno, and how many packets there are before each."""
        self.made = self.overflowed = self.served = self.faulted = 0
        self.commands: list[list[int]] = []
        """Of each vendor request its type, request, value, index and length; of each write its endpoint, length and CRC-32."""
        self.configured_ns = self.first_read_ns = 0
        self._rate_hz = rate_hz
        self._fifo: deque[bytes] = deque()
        self._fifo_limit = fifo
        self._packet_bytes = packet_bytes
        self._max_packet_size = max_packet_size
        self._held = bytearray()
        """What the oldest URB has taken."""
        self._sent_bytes = 0
        """How much of the oldest packet in the FIFO has been taken."""
        self._since_fault = 0
        self._halted = False
        self._configuration = 0
        self._stored = b""
        self._begin_s: float | None = None
        self._begin_number = 0
        self._late: list[tuple[float, int, bytes]] = []
        """When an answer is due, to which URB, and the answer."""
        self._waiting: dict[int, int] = {}
        """Bulk IN URBs by sequence number, oldest first, and how many bytes each has room for."""
        strings = ("usbcast", "112 bytes every 10 ms", serial) if serial else ("usbcast", "112 bytes every 10 ms")
        self._strings = [b"\x04\x03\x09\x04", *map(string_descriptor, strings)]

    @property
    def waiting_in_fifo(self) -> int:
        return len(self._fifo)

    def next_due_s(self, now_s: float) -> float | None:
        """When there is something to do next; None while nothing is."""
        due_s = [due_s for due_s, _, _ in self._late]
        packet_s = self._packet_due_s(now_s)
        return min(due_s if packet_s is None else [*due_s, packet_s], default=None)

    def _packet_due_s(self, now_s: float) -> float | None:
        """When the next packet is made; None while none is."""
        if not self.started or not self._configuration:
            self._begin_s = None
            return None
        if self._begin_s is None:
            self._begin_s, self._begin_number = now_s, self.made
        return self._begin_s + (self.made - self._begin_number) / self._rate_hz

    def tick(self, now_s: float) -> None:
        """Make the packets and answers that are due; the oldest packet makes way for one that has no room."""
        for late in [late for late in self._late if late[0] <= now_s]:
            self._late.remove(late)
            self._answer(late[1], 0, late[2])
        while (due_s := self._packet_due_s(now_s)) is not None and due_s <= now_s:
            if len(self._fifo) == self._fifo_limit:
                del self._fifo[1 if self._sent_bytes else 0]
                self.overflowed += 1
            self._fifo.append(first_case_packet(self.made, int(due_s * 1e6), self._packet_bytes))
            self.made += 1
        self._serve()

    def submit(self, seqnum: int, endpoint: int, length: int, setup: bytes, data: bytes | None, now_ns: int) -> None:
        """An URB: `data` for what is written, None for what is read."""
        if self.mute:
            return
        if endpoint and data is None:
            self.first_read_ns = self.first_read_ns or now_ns
            self._waiting[seqnum] = length
            self._serve()
        elif endpoint and data is not None:
            self.commands.append([endpoint, len(data), zlib.crc32(data)])
            self._answer(seqnum, 0, b"", len(data))
        else:
            request_type, request, value, index, size = struct.unpack("<BBHHH", setup)
            answer = self._control(request_type, request, value, index, size, data, now_ns)
            if (request_type, request) == (VENDOR_IN, SLOW):
                self._late.append((now_ns / 1e9 + value / 1000, seqnum, answer or b""))
                return
            if answer is None:
                self._answer(seqnum, EPIPE, b"")
            else:
                self._answer(seqnum, 0, answer if data is None else b"", length if data is not None else None)

    def unlink(self, seqnum: int, victim: int) -> None:
        if self.mute:
            return
        oldest = next(iter(self._waiting), None)
        gone = self._waiting.pop(victim, None) is not None
        if victim == oldest and self._held:
            # USB/IP's answer to an unlink has no room for data: the URB is answered first, as if it had just ended.
            self._answer(victim, ECONNRESET, self._take_held())
            gone = False
        self.answers += BASIC.pack(RET_UNLINK, seqnum, 0, 0, 0) + RET_UNLINK_REST.pack(ECONNRESET if gone else 0)

    def _serve(self) -> None:
        """Complete the bulk IN URBs that wait, as far as there is something for them."""
        while self._waiting and not self.mute:
            seqnum, room = next(iter(self._waiting.items()))
            status = 0
            if self._halted:
                status = EPIPE
            elif self.faults and self._since_fault >= self.faults[0][1]:
                status = self.faults.popleft()[0]
                self._halted = status == EPIPE
                self._since_fault = 0
                self.faulted += 1
            elif not self._fifo:
                return
            elif not self._fill(room):
                continue
            del self._waiting[seqnum]
            self._answer(seqnum, status, self._take_held())

    def _fill(self, room: int) -> bool:
        """Put what is left of the oldest packet into the oldest URB; return whether that ends it."""
        part = self._fifo[0][self._sent_bytes :][: room - len(self._held)]
        self._held += part
        self._sent_bytes += len(part)
        if self._sent_bytes == len(self._fifo[0]):
            self._fifo.popleft()
            self._sent_bytes = 0
            self._since_fault += 1
            self.served += 1
        return len(self._held) >= room or len(part) % self._max_packet_size != 0

    def _take_held(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return held

    def leave(self) -> None:
        """Go off the bus: every URB ends with what it has taken."""
        for seqnum in self._waiting:
            self._answer(seqnum, ESHUTDOWN, self._take_held())
        self._waiting.clear()

    def _answer(self, seqnum: int, status: int, data: bytes, length: int | None = None) -> None:
        """`length` is how much was written; of what is read, the data tells it."""
        size = len(data) if length is None else length
        self.answers += BASIC.pack(RET_SUBMIT, seqnum, 0, 0, 0) + RET_SUBMIT_REST.pack(status, size, 0, -1, 0) + data

    def _control(
        self, request_type: int, request: int, value: int, index: int, length: int, data: bytes | None, now_ns: int
    ) -> bytes | None:
        """The answer to a control request; None refuses it. (USB 2.0 specification, chapter 9.4.)

        Vendor requests: what was written last is what is read, cut to its length or filled up with zeros.
        """
        if request_type in (VENDOR_OUT, VENDOR_IN):
            self.commands.append([request_type, request, value, index, length])
            if request == REFUSED:
                return None
            if data is None:
                return self._stored[:length].ljust(length, b"\0")
            self._stored = data
            return b""
        if request_type & 0x60:
            return None
        if request == GET_DESCRIPTOR:
            descriptor = self._descriptor(value >> 8, value & 0xFF)
            return None if descriptor is None else descriptor[:length]
        if request == SET_CONFIGURATION:
            self._configuration = value
            self.configured_ns = now_ns
        elif request == CLEAR_FEATURE:
            self._halted = False
        elif request == GET_CONFIGURATION:
            return bytes([self._configuration])
        elif request == GET_STATUS:
            return b"\0\0"
        elif request != SET_INTERFACE:
            return None
        return b""

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == 1:
            identity = (VENDOR_ID, PRODUCT_ID, 0x0100, 1, 2, 3 if len(self._strings) > 3 else 0, 1)
            return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0, 0, 0, 64, *identity)
        if kind == 2:
            interface = struct.pack("<9B", 9, 4, 0, 0, 2, 0xFF, 0, 0, 0)
            endpoints = b"".join(
                struct.pack("<BBBBHB", 7, 5, one, 2, self._max_packet_size, 0) for one in (BULK_IN, BULK_OUT)
            )
            total = 9 + len(interface) + len(endpoints)
            return struct.pack("<BBHBBBBB", 9, 2, total, 1, 1, 0, 0x80, 50) + interface + endpoints
        if kind == 3 and index < len(self._strings):
            return self._strings[index]
        return None


class Cable:
    """The connection of a device to a hub, from plugging in to pulling out."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._received = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.tcp_port: int = self._listener.getsockname()[1]
        self._socket: socket.socket | None = None
        self.seen_ns = 0
        """When the kernel first asked the device something."""

    @property
    def source(self) -> socket.socket:
        """What is to be watched: the next thing comes from there."""
        return self._socket or self._listener

    def close(self) -> None:
        self._listener.close()
        if self._socket is not None:
            self._socket.close()

    def receive(self) -> bool:
        """Take the connection, or hand on what the kernel has sent; False if the cable was pulled out."""
        if self._socket is None:
            self._socket = self._listener.accept()[0]
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return True
        try:
            data = self._socket.recv(262144)
        except ConnectionError:
            data = b""
        self.seen_ns = self.seen_ns or time.monotonic_ns()
        self._received += data
        while len(self._received) >= HEADER_BYTES and self._one():
            pass
        return bool(data)

    def send(self) -> bool:
        """Give the answers that there are; False if the cable was pulled out."""
        answers, self._device.answers = self._device.answers, bytearray()
        try:
            if answers and self._socket is not None:
                self._socket.sendall(answers)
        except ConnectionError:
            return False
        return True

    def _one(self) -> bool:
        command, seqnum, _device, to_host, endpoint = BASIC.unpack_from(self._received)
        size = HEADER_BYTES
        if command == UNLINK:
            (victim,) = UNLINK_REST.unpack_from(self._received, BASIC.size)
            self._device.unlink(seqnum, victim)
        else:
            _flags, length, _frame, _packets, _interval, setup = SUBMIT_REST.unpack_from(self._received, BASIC.size)
            size += 0 if to_host else length
            if len(self._received) < size:
                return False
            data = None if to_host else bytes(self._received[HEADER_BYTES:size])
            self._device.submit(seqnum, endpoint, length, setup, data, time.monotonic_ns())
        del self._received[:size]
        return True


class Bench:
    """A device, its cable, and the hand that does what stdin says."""

    def __init__(self, make: Callable[[str], Device], serial: str) -> None:
        self._make = make
        self._serial = serial
        self._cable: Cable | None = None
        self._plug()

    def obey(self, what: str, more: dict[str, Any]) -> dict[str, Any]:
        """Do it, and return what the device has counted: after it was unplugged, all that it had when it lost its power."""
        device = self._device
        if what == "start":
            device.started = True
        elif what == "stop":
            device.started = False
        elif what == "mute":
            device.mute = True
        elif what == "faults":
            device.faults.extend(more["faults"])
        elif what == "leave" and self._cable is not None:
            device.leave()
            self._cable.send()
            self._cable.close()
            self._cable = None
        elif what == "plug":
            self._serial = more.get("serial", self._serial)
            self._plug()
            device = self._device
        names = ("made", "overflowed", "served", "faulted", "configured_ns", "first_read_ns")
        counted = {name: getattr(device, name) for name in names}
        if what == "commands":
            counted["commands"] = device.commands
        cable = self._cable
        counted |= {"seen_ns": self._seen_ns, "tcp_port": cable.tcp_port if cable else 0, "plugged": cable is not None}
        return counted | {"waiting": device.waiting_in_fifo}

    def run(self) -> None:
        """Until stdin ends."""
        buffered = b""
        while True:
            sources: list[Any] = [sys.stdin]
            wait_s = None
            if (cable := self._cable) is not None:
                sources.append(cable.source)
                due_s = self._device.next_due_s(time.monotonic())
                wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            readable = select.select(sources, [], [], wait_s)[0]
            if cable is not None:
                there = cable.receive() if cable.source in readable else True
                self._device.tick(time.monotonic())
                self._seen_ns = cable.seen_ns
                if not (cable.send() and there):
                    cable.close()
                    self._cable = None
            if sys.stdin in readable:
                given = os.read(sys.stdin.fileno(), 65536)
                if not given:
                    return
                *lines, buffered = (buffered + given).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    print(json.dumps(self.obey(message.pop("do"), message)), flush=True)

    def _plug(self) -> None:
        """Lay the cable out, for a hub to take its other end."""
        self._device = self._make(self._serial)
        self._cable = Cable(self._device)
        self._seen_ns = 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serial", default="SOFT0001")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--fifo", type=int, default=64)
    parser.add_argument("--packet-bytes", type=int, default=FIRST_CASE_BYTES)
    parser.add_argument("--max-packet-size", type=int, default=512)
    parser.add_argument("--started", action="store_true", help="make packets as soon as it is configured")
    given = parser.parse_args()

    def make(serial: str) -> Device:
        sizes = {"packet_bytes": given.packet_bytes, "max_packet_size": given.max_packet_size}
        return Device(serial, given.rate, given.fifo, started=given.started, **sizes)

    Bench(make, given.serial).run()

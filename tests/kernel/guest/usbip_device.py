"""A USB device made of software behind the guest kernel's own vhci_hcd: 112-byte packets, a bounded FIFO, any bus error.

The kernel enumerates it like any other; only its cable is a socket, on which URBs come and are answered as in Linux's
Documentation/usb/usbip_protocol.rst. It obeys JSON lines on stdin ({"do": "start"}, and so on, see `Bench.obey`) and answers
each with what it has counted. Like a device that its cable feeds, it forgets everything when it is unplugged.
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
from functools import partial
from pathlib import Path
from typing import Any, Final

VENDOR_ID: Final = 0x1209
PRODUCT_ID: Final = 0x0001
ENDPOINT: Final = 0x81
PACKET_LIMIT: Final = 512  # wMaxPacketSize of a bulk endpoint at high speed
HIGH_SPEED: Final = 3  # of the kernel's enum usb_device_speed
DEVICE_ID: Final = 0x00010002

VHCI: Final = Path("/sys/devices/platform/vhci_hcd.0")
PORT_FREE: Final = "004"

SUBMIT, UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
BASIC: Final = struct.Struct(">5I")  # command, seqnum, devid, direction, endpoint
SUBMIT_REST: Final = struct.Struct(">Iiiii8s")
UNLINK_REST: Final = struct.Struct(">I24x")
RET_SUBMIT_REST: Final = struct.Struct(">iiiii8x")  # status, actual length, start frame, packets, errors
RET_UNLINK_REST: Final = struct.Struct(">i24x")
HEADER_BYTES: Final = 48

EPIPE, ECONNRESET = -32, -104

GET_STATUS, CLEAR_FEATURE, GET_DESCRIPTOR, GET_CONFIGURATION, SET_CONFIGURATION, SET_INTERFACE = 0, 1, 6, 8, 9, 11

CHANNELS: Final = struct.pack("<24f", *(n / 8 for n in range(24)))


def first_case_packet(number: int, made_us: int) -> bytes:
    """As the shipped profile first-case describes it."""
    body = struct.pack("<IQ", number & 0xFFFFFFFF, made_us) + CHANNELS
    return body + struct.pack("<I", zlib.crc32(body))


def string_descriptor(text: str) -> bytes:
    encoded = text.encode("utf-16-le")
    return bytes([2 + len(encoded), 3]) + encoded


class Device:
    """What is at the end of the cable. Takes URBs, leaves the answers in `answers`; the time is handed in."""

    def __init__(self, serial: str, rate_hz: float, fifo: int) -> None:
        self.answers = bytearray()
        self.started = False
        self.faults: deque[int] = deque()
        """URB statuses to come, as negative errno; one after every `fault_every` packets."""
        self.fault_every = 1
        self.made = self.overflowed = self.served = self.faulted = 0
        self._rate_hz = rate_hz
        self._fifo: deque[bytes] = deque()
        self._fifo_limit = fifo
        self._since_fault = 0
        self._halted = False
        self._configuration = 0
        self._begin_s: float | None = None
        self._begin_number = 0
        self._waiting: dict[int, int] = {}
        """Bulk IN URBs by sequence number, oldest first, and how many bytes each has room for."""
        self._strings = [b"\x04\x03\x09\x04", *map(string_descriptor, ("usbcast", "112 bytes every 10 ms", serial))]

    @property
    def waiting_in_fifo(self) -> int:
        return len(self._fifo)

    def next_due_s(self, now_s: float) -> float | None:
        """When the next packet is made; None while none is."""
        if not self.started or not self._configuration:
            self._begin_s = None
            return None
        if self._begin_s is None:
            self._begin_s, self._begin_number = now_s, self.made
        return self._begin_s + (self.made - self._begin_number) / self._rate_hz

    def tick(self, now_s: float) -> None:
        """Make the packets that are due; the oldest makes way for one that has no room."""
        while (due_s := self.next_due_s(now_s)) is not None and due_s <= now_s:
            if len(self._fifo) == self._fifo_limit:
                self._fifo.popleft()
                self.overflowed += 1
            self._fifo.append(first_case_packet(self.made, int(due_s * 1e6)))
            self.made += 1
        self._serve()

    def submit(self, seqnum: int, endpoint: int, length: int, setup: bytes) -> None:
        if endpoint:
            self._waiting[seqnum] = length
            self._serve()
            return
        answer = self._control(*struct.unpack("<BBHHH", setup))
        if answer is None:
            self._answer(seqnum, EPIPE, b"")
        else:
            self._answer(seqnum, 0, answer)

    def unlink(self, seqnum: int, victim: int) -> None:
        gone = self._waiting.pop(victim, None) is not None
        self.answers += BASIC.pack(RET_UNLINK, seqnum, 0, 0, 0) + RET_UNLINK_REST.pack(ECONNRESET if gone else 0)

    def _serve(self) -> None:
        """Complete the bulk IN URBs that wait, as far as there is something for them."""
        while self._waiting:
            seqnum, room = next(iter(self._waiting.items()))
            if self._halted:
                status, data = EPIPE, b""
            elif self.faults and self._since_fault >= self.fault_every:
                status, data = self.faults.popleft(), b""
                self._halted = status == EPIPE
                self._since_fault = 0
                self.faulted += 1
            elif self._fifo:
                status, data = 0, self._fifo.popleft()[:room]
                self._since_fault += 1
                self.served += 1
            else:
                return
            del self._waiting[seqnum]
            self._answer(seqnum, status, data)

    def _answer(self, seqnum: int, status: int, data: bytes) -> None:
        self.answers += (
            BASIC.pack(RET_SUBMIT, seqnum, 0, 0, 0) + RET_SUBMIT_REST.pack(status, len(data), 0, -1, 0) + data
        )

    def _control(self, request_type: int, request: int, value: int, _index: int, length: int) -> bytes | None:
        """The answer to a control request; None refuses it. (USB 2.0 specification, chapter 9.4.)"""
        if request_type & 0x60:
            return None
        if request == GET_DESCRIPTOR:
            descriptor = self._descriptor(value >> 8, value & 0xFF)
            return None if descriptor is None else descriptor[:length]
        if request == SET_CONFIGURATION:
            self._configuration = value
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
            identity = (VENDOR_ID, PRODUCT_ID, 0x0100)
            return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0, 0, 0, 64, *identity, 1, 2, 3, 1)
        if kind == 2:
            interface = struct.pack("<9B", 9, 4, 0, 0, 1, 0xFF, 0, 0, 0)
            endpoint = struct.pack("<BBBBHB", 7, 5, ENDPOINT, 2, PACKET_LIMIT, 0)
            total = 9 + len(interface) + len(endpoint)
            return struct.pack("<BBHBBBBB", 9, 2, total, 1, 1, 0, 0x80, 50) + interface + endpoint
        if kind == 3 and index < len(self._strings):
            return self._strings[index]
        return None


class Cable:
    """The connection of a device to a port of vhci_hcd, from plugging in to pulling out."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._received = bytearray()
        self.socket, theirs = socket.socketpair()
        self._port = free_port()
        (VHCI / "attach").write_text(f"{self._port} {theirs.fileno()} {DEVICE_ID} {HIGH_SPEED}")
        theirs.close()  # the kernel has its own hold on it

    def pull(self) -> None:
        (VHCI / "detach").write_text(str(self._port))
        self.socket.close()

    def receive(self) -> None:
        """Hand on what the kernel has sent."""
        self._received += self.socket.recv(65536)
        while len(self._received) >= HEADER_BYTES and self._one():
            pass

    def send(self) -> None:
        answers, self._device.answers = self._device.answers, bytearray()
        if answers:
            self.socket.sendall(answers)

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
            self._device.submit(seqnum, endpoint, length, setup)
        del self._received[:size]
        return True


class Bench:
    """A device, its cable, and the hand that does what stdin says."""

    def __init__(self, serial: str, rate_hz: float, fifo: int) -> None:
        self._make = partial(Device, serial, rate_hz, fifo)
        self._plug()

    def obey(self, what: str, more: dict[str, Any]) -> dict[str, int]:
        """Do it, and return what the device has counted: at `unplug`, all that it had when it lost its power."""
        device = self._device
        if what == "start":
            device.started = True
        elif what == "stop":
            device.started = False
        elif what == "faults":
            device.faults.extend(more["statuses"])
            device.fault_every = more["every"]
        elif what == "unplug":
            self._pull()
        elif what == "plug":
            self._plug()
        counted = {name: getattr(device, name) for name in ("made", "overflowed", "served", "faulted")}
        return counted | {"waiting": device.waiting_in_fifo}

    def run(self) -> None:
        """Until stdin ends."""
        buffered = b""
        while True:
            sources: list[Any] = [sys.stdin]
            due_s = None
            if self._cable is not None:
                sources.append(self._cable.socket)
                due_s = self._device.next_due_s(time.monotonic())
            wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            readable = select.select(sources, [], [], wait_s)[0]
            if sources[0] in readable:
                given = os.read(sys.stdin.fileno(), 65536)
                if not given:
                    self._pull()
                    return
                *lines, buffered = (buffered + given).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    print(json.dumps(self.obey(message.pop("do"), message)), flush=True)
            if self._cable is not None:
                if self._cable.socket in readable:
                    self._cable.receive()
                self._device.tick(time.monotonic())
                self._cable.send()

    def _plug(self) -> None:
        self._device = self._make()
        self._cable: Cable | None = Cable(self._device)

    def _pull(self) -> None:
        cable, self._cable = self._cable, None
        if cable is not None:
            cable.pull()


def free_port() -> int:
    """A port of the virtual high-speed hub with nothing in it."""
    for line in (VHCI / "status").read_text().splitlines()[1:]:
        hub, port, state, *_ = line.split()
        if hub == "hs" and state == PORT_FREE:
            return int(port)
    raise SystemExit("every port of vhci_hcd is taken")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serial", default="SOFT0001")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--fifo", type=int, default=64)
    given = parser.parse_args()
    Bench(given.serial, given.rate, given.fifo).run()

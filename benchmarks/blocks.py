"""The bytes that are sent in every run, and the check of what comes.

A block is `block_packets` packets of 112 bytes. Its first 16 bytes say when it was handed to the publisher, which of a
few prepared contents it bears, and whether it is data; the rest is noise that follows from the content's number.
"""

from __future__ import annotations

import random
import struct
import time
from array import array

from benchmarks.task import PACKET_BYTES, Task

HEADER = struct.Struct("<QIB3x")
"""Monotonic ns (0: not stamped), number of the content, kind."""

DATA, HELLO, START, END = range(1, 5)
"""None is 0, as what follows the header of a greeting is."""
CONTENTS = 13
"""So many different blocks; few enough to stay in a cache, as the buffer of a USB read would."""
COMPARED = 17
"""Every 17th block is compared byte by byte, the others by header and length: a full comparison is no part of the work."""

Buffer = bytes | bytearray | memoryview


def noise(content: int, size_bytes: int) -> bytes:
    return random.Random(content).randbytes(size_bytes)


def prepared(task: Task) -> list[bytes]:
    """Data blocks, one of each content, not stamped."""
    return [
        HEADER.pack(0, content, DATA) + noise(content, task.block_bytes - HEADER.size) for content in range(CONTENTS)
    ]


def control(task: Task, kind: int) -> bytes:
    return HEADER.pack(0, 0, kind) + bytes(task.block_bytes - HEADER.size)


class Checker:
    """Takes what a subscriber delivers, in pieces of whole packets, and counts what is as it was sent.

    Peers may join or cut blocks: usbcast does so where `natural` batches are wanted, Lab Streaming Layer always.
    """

    def __init__(self, task: Task, progress: memoryview) -> None:
        self.received = 0
        self.wrong = 0
        self.ended = False
        self.first_ns = self.last_ns = 0
        self.start_cpu_ns = self.start_ns = 0
        self.end_cpu_ns = self.end_ns = 0
        self.pieces = 0
        self.said_hello = False
        self.lags_ns = array("q")
        self._timed = task.kind == "paced"
        self._block = task.block_bytes
        self._progress = progress
        self._index = task.index
        self._expected = [noise(content, self._block - HEADER.size) for content in range(CONTENTS)]
        self._next = 0
        self._at = 0
        self._kind = DATA
        self._comparing: int | None = None

    def take(self, piece: Buffer) -> bool:
        """Count what came; True when the run is over."""
        at, end = 0, len(piece)
        self.pieces += 1
        if not self.said_hello:
            at = self._first_greeting(piece)
        while at < end:
            if self._at == 0:
                stamp_ns, content, self._kind = HEADER.unpack_from(piece, at)
                if self._kind == DATA:
                    self._data(stamp_ns, content)
                else:
                    self._control(self._kind)
            part = min(self._block - self._at, end - at)
            if self._comparing is not None:
                self._compare(piece, at, part)
            at += part
            self._at += part
            if self._at >= self._block:
                self._at = 0
                if self._kind == DATA:
                    self.received += 1
                    self._progress[self._index] = self.received
        if self._kind == DATA:
            self.last_ns = time.monotonic_ns()
        return self.ended

    def _first_greeting(self, piece: Buffer) -> int:
        """Where the first block begins: a subscriber may join in the middle of one, if that is cut into several pieces."""
        for at in range(0, len(piece), PACKET_BYTES):
            if HEADER.unpack_from(piece, at) == (0, 0, HELLO):
                return at
        return len(piece)

    def _data(self, stamp_ns: int, content: int) -> None:
        if self._timed:
            self.lags_ns.append(time.monotonic_ns() - stamp_ns)
        if not self.received:
            self.first_ns = time.monotonic_ns()
        if content != self._next:
            self.wrong += 1  # lost, doubled or out of order: the numbers of blocks tell which
        self._next = (content + 1) % CONTENTS
        self._comparing = content if self.received % COMPARED == 0 else None

    def _compare(self, piece: Buffer, at: int, part: int) -> None:
        assert self._comparing is not None
        skip = HEADER.size if self._at == 0 else 0
        if self._comparing >= CONTENTS:
            self.wrong += 1
            return
        # As bytes: two memoryviews are compared element by element, which takes 40 times as long.
        expected = self._expected[self._comparing]
        from_ = self._at + skip - HEADER.size
        if bytes(memoryview(piece)[at + skip : at + part]) != expected[from_ : self._at + part - HEADER.size]:
            self.wrong += 1

    def _control(self, kind: int) -> None:
        self._comparing = None
        if kind == HELLO:
            self.said_hello = True
        elif kind == START and not self.start_ns:
            self.start_ns, self.start_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        elif kind == END and not self.ended:
            self.end_ns, self.end_cpu_ns = time.monotonic_ns(), time.process_time_ns()
            self.ended = True

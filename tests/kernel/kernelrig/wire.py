"""The sender at the far end of the FTDI chip's serial line: numbered packets, each at its time."""

from __future__ import annotations

import select
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from kernelrig.packets import numbered_packet

BUFFER_BYTES = 4096
"""Small, so that what was sent while nobody listened is soon no longer held anywhere, as on a wire."""

LAST_PACKET_S = 10.0
"""What is left of the last packet is given so long to find room."""


class Sender:
    """Sends by a thread of its own from `start` to `stop`; a context manager that stops.

    A sender that `waits` has flow control: no packet is lost on the line. One that does not sends on while nobody
    listens, and what has no room is `unheard`.
    """

    def __init__(self, wire: Path, *, rate_hz: float = 100.0, waits: bool = True) -> None:
        self._wire = wire
        self._rate_hz = rate_hz
        self._waits = waits
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self.sent: list[int] = []
        """The numbers of the packets that went into the line, in order."""
        self.unheard: list[int] = []
        self.worst_lateness_s = 0.0

    def __enter__(self) -> Sender:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._socket.connect(str(self._wire))
        self._socket.setblocking(False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self._socket.close()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> int:
        """End after the packet under way; return how many numbers were used."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        return len(self.sent) + len(self.unheard)

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Return when so many packets went into the line; AssertionError if that takes longer."""
        deadline = time.monotonic() + timeout_s
        while len(self.sent) < count:
            assert time.monotonic() < deadline, f"only {len(self.sent)} of {count} packets were taken by the line"
            time.sleep(0.02)

    def _run(self) -> None:
        begin = time.monotonic()
        rest = b""
        number = 0
        while not self._stopping.wait(max(0.0, begin + number / self._rate_hz - time.monotonic())):
            self.worst_lateness_s = max(self.worst_lateness_s, time.monotonic() - begin - number / self._rate_hz)
            packet = numbered_packet(number, time.monotonic_ns())
            rest = self._push(rest)
            after = self._push(packet) if not rest else packet
            if after == packet:
                self.unheard.append(number)
            else:
                self.sent.append(number)
                rest = after
            number += 1
        end = time.monotonic() + LAST_PACKET_S
        while (rest := self._push(rest)) and self._waits and time.monotonic() < end:
            select.select([], [self._socket], [], 0.1)

    def _push(self, data: bytes) -> bytes:
        """Send; return what found no room."""
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                if not self._waits or self._stopping.is_set():
                    break
                select.select([], [self._socket], [], 0.1)
        return data

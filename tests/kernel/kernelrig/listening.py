"""A subscriber of the device of software inside the test's own process: which packets came, when, and with what between."""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

import usbcast

_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class Gaps:
    """The largest time between two packets since the last question."""

    read_ms: float
    """As the node read them."""
    arrived_ms: float
    """As they arrived here."""

    def __str__(self) -> str:
        return f"{self.read_ms:.0f} and {self.arrived_ms:.0f} ms"


class Listening:
    """Listens by a thread of its own, from the start of the stream; a context manager that ends it."""

    def __init__(self, stream: str, endpoint: str, via: str = "push") -> None:
        self.numbers: list[int] = []
        """Of the packets so far."""
        self.told: list[str] = []
        """What happened to the device, and gaps."""
        self._read_ns: list[int] = []
        self._arrived_ns: list[int] = []
        self._asked_at = 0
        self._over = threading.Event()
        self._subscription = usbcast.subscribe(stream, endpoint, start=0, via=via)
        self._thread = threading.Thread(target=self._run, name="listening", daemon=True)

    def __enter__(self) -> Listening:
        self._subscription.__enter__()
        assert self._subscription.ready(60)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._subscription.close()

    @property
    def count(self) -> int:
        return len(self.numbers)

    def reach(self, count: int, timeout_s: float = 60.0) -> None:
        """Return when so many packets have come."""
        deadline = time.monotonic() + timeout_s
        while self.count < count:
            assert time.monotonic() < deadline, f"only {self.count} of {count} packets came; {self.told}"
            time.sleep(0.02)

    def gaps(self) -> Gaps:
        """Since the last question."""
        start, self._asked_at = self._asked_at, self.count
        read, arrived = (_largest_ms(times[start : self._asked_at]) for times in (self._read_ns, self._arrived_ns))
        return Gaps(read, arrived)

    def _run(self) -> None:
        while not self._over.is_set():
            event = self._subscription.receive(0.1)
            if isinstance(event, usbcast.Batch):
                now_ns = time.monotonic_ns()
                for packet, read_ns in zip(event, event.monotonic_ns, strict=True):
                    self._read_ns.append(int(read_ns))
                    self._arrived_ns.append(now_ns)
                    self.numbers.append(_U32.unpack_from(packet)[0])
            elif isinstance(event, usbcast.DeviceEvent):
                self.told.append(event.kind)
            elif event is not None:
                self.told.append(type(event).__name__.lower())
                if isinstance(event, usbcast.End):
                    return


def _largest_ms(times_ns: list[int]) -> float:
    return max((after - before for before, after in pairwise(times_ns)), default=0) / 1e6

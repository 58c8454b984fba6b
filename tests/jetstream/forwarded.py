"""A forwarder for tests: in a thread of this process, or, when it is to be killed, as a program of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.nodes import DEADLINE_S, eventually
from tests.support.programs import Program
from usbcast import Batch, Event, Gap, UsbcastError
from usbcast.jetstream.forwarding import Forwarding, ForwardOptions, forward
from usbcast.node.endpoints import parse
from usbcast.receiving.continuity import Delivery
from usbcast.receiving.event_builder import Record
from usbcast.receiving.open import receive

PROGRAM = Path(__file__).with_name("forwarder_program.py")


@dataclass
class Forwarded:
    """A forwarder at work."""

    seen: Forwarding = field(default_factory=Forwarding)
    warnings: list[str] = field(default_factory=list)

    def ledger(self, stream: str = "sim") -> dict[str, Any]:
        return dict(self.seen.forwarders[stream].ledger.to_json()) if stream in self.seen.forwarders else {}

    def wait_stored(self, packets: int, stream: str = "sim") -> None:
        eventually(lambda: self.ledger(stream).get("out", 0) >= packets, f"{packets} packets acknowledged")

    def wait_idle(self, stream: str = "sim") -> None:
        eventually(lambda: (one := self.seen.forwarders.get(stream)) and one.ended, "the end acknowledged")


@contextlib.contextmanager
def forwarding(
    url: str, upstream: str | None, *streams: str, until_end: bool = False, **options: Any
) -> Iterator[Forwarded]:
    """Forwards as long as the context lasts."""
    made, stopped, failed = Forwarded(), threading.Event(), []

    def look(seen: Forwarding) -> None:
        made.seen = seen

    def work() -> None:
        try:
            chosen = ForwardOptions(parse(url), upstream, **options)
            forward(streams or ("sim",), chosen, stopped, warn=made.warnings.append, look=look, until_end=until_end)
        except UsbcastError as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="forwarder")
    thread.start()
    try:
        yield made
    finally:
        stopped.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def program(url: str, upstream: str, *arguments: str) -> Program:
    """A forwarder of `sim` in a process of its own, which says `figures` ten times a second, one JSON object a line."""
    return Program([sys.executable, str(PROGRAM), url, upstream, *arguments])


def records(stream: str, endpoint: str, timeout_s: float = DEADLINE_S, via: str = "auto") -> list[Record]:
    """The undigested records of a stream from its beginning to its end."""
    receiver = receive(stream, endpoint, "oldest", "all", via)
    came: list[Record] = []

    def ended() -> bool:
        receiver.pump()
        while (record := receiver.take_record()) is not None:
            came.append(record)
        return any(isinstance(record, Delivery) and record.batch.end is not None for record in came)

    try:
        eventually(ended, f"the end of {stream} at {endpoint}", timeout_s)
    finally:
        receiver.close()
    return came


def plain(event: Event) -> Any:
    """An event as something to compare."""
    if isinstance(event, Batch):
        return bytes(event.encoded.raw), event.first_sequence, event.gaps
    return event


def lost(events: list[Event]) -> list[tuple[int, int, int]]:
    return [(gap.first, gap.last, gap.count) for gap in events if isinstance(gap, Gap)]

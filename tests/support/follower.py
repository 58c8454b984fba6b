"""A subscriber as a program: takes a stream, checks every packet, and says what happened, one JSON object a line.

`ready` when it has joined; `silence`, `restart`, `gap`, `device` as they come; `figures` four times a second; `done` when
the stream has ended or SIGTERM came.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
import zlib
from typing import Any

import usbcast
from usbcast import Batch, DeviceEvent, End, Event, Gap, Restart, Silence

TOLD_GAPS = 100


class Follower:
    """What has come so far."""

    def __init__(self) -> None:
        self.next: int | None = None
        self.begin: int | None = None
        self.delivered = self.lost = self.lost_earlier = self.twice = self.unsaid = self.damaged = 0
        self.first_counter: int | None = None
        self.last_counter: int | None = None
        self.batches = 0
        self.lag_us = 0.0

    def take(self, event: Event) -> None:
        match event:
            case Batch():
                self._batch(event)
            case Gap(first, last, count, stage, reason):
                if last >= first:
                    self._expect(first)
                    self.next = last + 1
                    self.lost += count
                else:
                    self.lost_earlier += count
                say("gap", first=first, last=last, count=count, stage=stage, reason=reason)
            case Restart(old, new, delivered_until, known_until):
                say("restart", old=old, new=new, delivered_until=delivered_until, known_until=known_until)
                self.next = 0
            case Silence(duration_ns):
                say("silence", seconds=duration_ns / 1e9, upstream=event.upstream)
            case DeviceEvent(kind=kind):
                say("device", kind=kind)

    def _batch(self, batch: Batch) -> None:
        self._expect(batch.first_sequence)
        self.next = batch.last_sequence + 1
        self.delivered += len(batch)
        self.batches += 1
        for packet in batch:
            self.damaged += int.from_bytes(packet[-4:], "little") != zlib.crc32(packet[:-4])
            self.last_counter = int.from_bytes(packet[:4], "little")
            if self.first_counter is None:
                self.first_counter = self.last_counter

    def _expect(self, first: int) -> None:
        if self.begin is None:
            self.begin = first
        if self.next is not None:
            self.unsaid += max(0, first - self.next)
            self.twice += max(0, self.next - first)


def say(event: str, **what: Any) -> None:
    print(json.dumps({"event": event, **what}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("stream")
    parser.add_argument("via")
    parser.add_argument("--start", default="now")
    parser.add_argument("--deliver", default="all")
    parser.add_argument("--sleep-s", type=float, default=0.0, help="after each batch")
    parser.add_argument("--pause-s", type=float, default=0.0, help="once, after the first batch")
    given = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    start = int(given.start) if given.start.isdigit() else given.start
    follower = Follower()
    with usbcast.subscribe(given.stream, given.endpoint, start, given.deliver, given.via) as subscription:
        if not subscription.ready(20):
            raise SystemExit(f"no node at {given.endpoint}")
        say("ready")
        said_s = time.monotonic()
        ended = False
        while not ended and not stopped.is_set():
            event = subscription.receive(0.1)
            if event is not None:
                follower.take(event)
                if isinstance(event, Batch):
                    follower.lag_us = subscription.lag_ns / 1000
                    time.sleep(given.sleep_s)
                    if follower.batches == 1:
                        time.sleep(given.pause_s)
                ended = isinstance(event, End)
            if time.monotonic() - said_s > 0.25:
                said_s = time.monotonic()
                say("figures", **vars(follower))
        books = subscription.ledger
        say("done", ended=ended, books=books.to_json(), **vars(follower))


if __name__ == "__main__":
    main()

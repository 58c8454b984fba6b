"""A subscriber as a program: takes a stream in one of several forms and keeps a log of it for the account.

The log is written each half second and at the end, so that it is there if this process is killed. SIGUSR1 tells it to stop
sleeping between batches, SIGTERM to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import threading
import time
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import usbcast
import usbcast.aio
from usbcast import Batch, DeviceEvent, End, Event, Gap, Restart
from usbcast_schemas.errors import StreamUnknown

SAVE_EACH_S = 0.5
ASK_AGAIN_S = 0.2


class Keeper:
    """Writes down what comes: runs of packets, declared losses and events."""

    def __init__(self, path: Path, *, latest: bool, in_place: bool, pause_s: float) -> None:
        self._path = path
        self._in_place = in_place
        self._loaned: list[list[int]] = []
        """Runs of the last batch, where it was read in place: it is ours only once the next event is no gap in its place."""
        self._said: dict[str, Any] = {
            "runs": [], "losses": [], "events": [], "errors": [], "latest": latest, "complete": False
        }  # fmt: skip
        self._pause_s = pause_s
        self._epoch = 0
        self._saved_s = time.monotonic()
        self.stopped = threading.Event()
        self.hurry = threading.Event()

    @property
    def began(self) -> bool:
        """Whether anything has come."""
        return bool(self._said["runs"] or self._said["losses"] or self._said["events"])

    def take(self, event: Event) -> None:
        if self._loaned:
            self._settle(event)
        runs, losses, events = self._said["runs"], self._said["losses"], self._said["events"]
        match event:
            case Batch():
                self._batch(event)
            case Gap():
                losses.append(
                    [self._epoch, event.first, event.last, event.count, event.stage, event.at_least, len(runs)]
                )
            case Restart():
                self._epoch = event.new_epoch
                events.append({"kind": "restart", "epoch": event.new_epoch, "at": len(runs)})
            case End():
                events.append({"kind": "end", "epoch": self._epoch, "packets": event.packets, "at": len(runs)})
                self.stopped.set()
            case DeviceEvent():
                events.append({"kind": event.kind, "epoch": self._epoch, "at": len(runs)})
        if time.monotonic() - self._saved_s > SAVE_EACH_S:
            self.save()

    def _batch(self, batch: Batch) -> None:
        packets, payload, size = batch.packets.copy(), bytes(batch.payload), batch.packet_size
        epoch, sequence = batch.epoch, batch.first_sequence
        if not batch.intact:
            return  # overwritten while it was read: the gap that follows must say so
        if not self._epoch:  # what came before the first batch was told of its epoch
            for loss in self._said["losses"]:
                loss[0] = epoch
        self._epoch = epoch
        for at in {0, len(packets) // 2, len(packets) - 1}:
            packet = payload[at * size : (at + 1) * size]
            if zlib.crc32(packet[:-4]) != int.from_bytes(packet[-4:], "little"):
                self._said["errors"].append(f"DAMAGED: packet {sequence + at} of epoch {epoch:x}")
        counters = packets[:, :4].copy().view("<u4").ravel().astype(np.int64)
        cuts = [0, *(np.flatnonzero(np.diff(counters) != 1) + 1).tolist(), len(counters)]
        found = [[epoch, sequence + begin, int(counters[begin]), end - begin] for begin, end in pairwise(cuts)]
        if self._in_place:
            self._loaned = found
        else:
            for run in found:
                self._run(*run)
        if self._pause_s and not self.hurry.is_set():
            self.hurry.wait(self._pause_s)

    def _settle(self, event: Event | None) -> None:
        """Write down the last batch, unless `event` says that it was overwritten while it was in use."""
        lost = isinstance(event, Gap) and event.count and event.first == self._loaned[0][1]
        for run in [] if lost else self._loaned:
            self._run(*run)
        self._loaned = []

    def _run(self, epoch: int, sequence: int, counter: int, count: int) -> None:
        runs = self._said["runs"]
        if runs:
            last = runs[-1]
            follows = last[0] == epoch and last[1] + last[3] == sequence and last[2] + last[3] == counter
            if follows and not self._told_since_last_run():
                last[3] += count
                return
        runs.append([epoch, sequence, counter, count])

    def _told_since_last_run(self) -> bool:
        losses, at = self._said["losses"], len(self._said["runs"])
        return bool(losses) and losses[-1][-1] == at

    def save(self, *, complete: bool = False) -> None:
        self._saved_s = time.monotonic()
        if complete and self._loaned:
            self._settle(None)
        self._said["complete"] = complete
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(self._said))
        beside.replace(self._path)


def by_events(keeper: Keeper, stream: str, options: dict[str, Any]) -> None:
    with usbcast.subscribe(stream, **options) as subscription:
        while not keeper.stopped.is_set():
            event = subscription.receive(0.1)
            if event is not None:
                keeper.take(event)


def by_listener(keeper: Keeper, stream: str, options: dict[str, Any]) -> None:
    with usbcast.subscribe(stream, **options) as subscription:
        listening = subscription.listen(keeper.take)
        while not keeper.stopped.wait(0.05):
            listening.join(0)
        listening.stop()


async def by_aio(keeper: Keeper, stream: str, options: dict[str, Any]) -> None:
    async with usbcast.aio.subscribe(stream, **options) as subscription:
        while not keeper.stopped.is_set():
            event = await subscription.receive(0.1)
            if event is not None:
                keeper.take(event)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("stream", "endpoint", "via", "form", "start", "deliver", "log"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--pause-s", type=float, default=0.0)
    given = parser.parse_args()
    latest = given.deliver == "latest"
    keeper = Keeper(Path(given.log), latest=latest, in_place=given.in_place, pause_s=given.pause_s)
    signal.signal(signal.SIGTERM, lambda *_: keeper.stopped.set())
    signal.signal(signal.SIGUSR1, lambda *_: keeper.hurry.set())
    keeper.save()  # from now on the signals are heard
    options = {
        "endpoint": given.endpoint,
        "via": given.via,
        "start": int(given.start) if given.start.isdigit() else given.start,
        "deliver": given.deliver,
        "copy": not given.in_place,
    }
    while not keeper.stopped.is_set():
        try:
            match given.form:
                case "aio":
                    asyncio.run(by_aio(keeper, given.stream, options))
                case "listener":
                    by_listener(keeper, given.stream, options)
                case _:
                    by_events(keeper, given.stream, options)
        except StreamUnknown:
            if keeper.began:
                raise
            keeper.stopped.wait(ASK_AGAIN_S)  # the stream is not there yet
    keeper.save(complete=True)


if __name__ == "__main__":
    main()

"""A subscriber in a process of its own that takes a stream to its end and examines every packet.

Writes JSON lines: "ready" when nothing can be missed any more, "device" for what happened to the device, "progress" now and
then, and at the end "result": the story of the packets, and their lag.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any

import usbcast
from kernelrig.packets import SHAPES, Examiner, sent_time_ns

PROGRESS_S = 0.1
CLOCK_REQUESTS = 20
SILENCE_S = 60.0


class Witness:
    """One subscription, examined."""

    def __init__(self, stream: str, endpoint: str, via: str, shape: str) -> None:
        self._subscription = usbcast.subscribe(stream, endpoint, start=0, via=via)
        self._endpoint = endpoint
        self._timed = shape == "ftdi-numbered"
        self._examiner = Examiner(SHAPES[shape])
        self._duplicates = 0
        self._next_sequence = 0
        self._line_lags_ns: list[int] = []
        self._read_lags_ns: list[int] = []
        self._times: Counter[str] = Counter()
        self._heard_s = time.monotonic()
        self._told_s = 0.0
        self._told_number = -1
        self._ended = False

    def run(self) -> None:
        self._offset_ns, uncertainty_ns = clock_offset_ns(self._endpoint)
        with self._subscription as subscription:
            ready = subscription.ready(60)
            emit("ready" if ready else "not ready", via=subscription.via)
            while not self._ended and time.monotonic() - self._heard_s < SILENCE_S:
                event = subscription.receive(PROGRESS_S)
                if isinstance(event, usbcast.Batch):
                    self._take(event)
                elif event is not None:
                    self._note(event)
                self._tell_progress()
            ledger = subscription.ledger
            emit(
                "result",
                via=subscription.via,
                ended=self._ended,
                good=self._examiner.good,
                damaged=self._examiner.damaged,
                duplicates=self._duplicates,
                story=self._examiner.story,
                discrepancy=ledger.discrepancy(),
                ledger=ledger.to_json(),
                line_lag_us=percentiles_us(self._line_lags_ns),
                read_lag_us=percentiles_us(self._read_lags_ns),
                clock_uncertainty_us=uncertainty_ns / 1000,
            )

    def _take(self, batch: usbcast.Batch) -> None:
        now_ns = time.monotonic_ns()
        self._duplicates += max(0, self._next_sequence - batch.first_sequence)
        self._next_sequence = batch.last_sequence + 1
        for packet, read_ns in zip(batch, batch.monotonic_ns, strict=True):
            self._examiner.take(packet)
            self._read_lags_ns.append(now_ns - int(read_ns) + self._offset_ns)
            if self._timed:
                self._line_lags_ns.append(now_ns - sent_time_ns(packet))
        self._heard_s = time.monotonic()

    def _tell_progress(self) -> None:
        now_s, number = time.monotonic(), self._examiner.last_number
        if number != self._told_number and now_s - self._told_s >= PROGRESS_S:
            self._told_s, self._told_number = now_s, number
            emit("progress", last_number=number)

    def _note(self, event: usbcast.Event) -> None:
        """Put an event into the story."""
        examiner = self._examiner
        if isinstance(event, usbcast.DeviceEvent):
            examiner.tell(event.kind)
            self._times[event.kind] += 1
            emit("device", kind=event.kind, times=self._times[event.kind], detail=event.detail)
        elif isinstance(event, usbcast.Gap):
            examiner.tell("gap", event.stage, event.reason, event.count, event.size_bytes)
        else:
            examiner.tell(type(event).__name__.lower())
        self._ended = isinstance(event, usbcast.End)


def clock_offset_ns(endpoint: str) -> tuple[int, int]:
    """How far the node's monotonic clock is ahead of this one, and how uncertain that is: of the quickest of some requests."""
    found = []
    with usbcast.NodeClient(endpoint) as node:
        for _ in range(CLOCK_REQUESTS):
            sent_ns = time.monotonic_ns()
            reply = node.clock()
            got_ns = time.monotonic_ns()
            there_ns = (reply.received_monotonic_ns + reply.replied_monotonic_ns) // 2
            away_ns = got_ns - sent_ns - (reply.replied_monotonic_ns - reply.received_monotonic_ns)
            found.append((away_ns // 2, there_ns - (sent_ns + got_ns) // 2))
    uncertainty_ns, offset_ns = min(found)
    return offset_ns, uncertainty_ns


def percentiles_us(values_ns: list[int]) -> dict[str, float]:
    if not values_ns:
        return {}
    values = sorted(values_ns)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: values[min(len(values) - 1, int(len(values) * share))] / 1000 for name, share in shares.items()}


def emit(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("stream")
    parser.add_argument("endpoint")
    parser.add_argument("via")
    parser.add_argument("shape")
    given = parser.parse_args()
    Witness(given.stream, given.endpoint, given.via, given.shape).run()

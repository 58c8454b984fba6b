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
from kernelrig.clocks import ClockTrack
from kernelrig.packets import SHAPES, Examiner

PROGRESS_S = 0.1
SILENCE_S = 60.0


class Witness:
    """One subscription, examined."""

    def __init__(self, stream: str, endpoint: str, via: str, shape: str) -> None:
        self._subscription = usbcast.subscribe(stream, endpoint, start=0, via=via)
        self._endpoint = endpoint
        self._shape = SHAPES[shape]
        self._examiner = Examiner(self._shape)
        self._duplicates = 0
        self._next_sequence = 0
        self._line_lags_ns: list[int] = []
        self._reads: list[tuple[int, int]] = []
        """Of each packet when it was here, and when it was read, each on its own clock."""
        self._times: Counter[str] = Counter()
        self._heard_s = time.monotonic()
        self._told_s = 0.0
        self._told_number = -1
        self._ended = False
        self._silences = 0

    def run(self) -> None:
        with ClockTrack(self._endpoint) as clock, self._subscription as subscription:
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
                silences=self._silences,
                discrepancy=ledger.discrepancy(),
                ledger=ledger.to_json(),
                line_lag_us=percentiles_us(self._line_lags_ns),
                read_lag_us=percentiles_us([here - read + clock.offset_ns(here) for here, read in self._reads]),
                clock_uncertainty_us=clock.uncertainty_ns / 1000,
                clock_drift_us=clock.drift_ns / 1000,
            )

    def _take(self, batch: usbcast.Batch) -> None:
        now_ns = time.monotonic_ns()
        self._duplicates += max(0, self._next_sequence - batch.first_sequence)
        self._next_sequence = batch.last_sequence + 1
        for packet, read_ns in zip(batch, batch.monotonic_ns, strict=True):
            self._reads.append((now_ns, int(read_ns)))
            if self._examiner.take(packet):
                self._line_lags_ns.append(now_ns - self._shape.made_ns(packet))
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
        elif isinstance(event, usbcast.Silence):
            self._silences += 1  # the emulated processor had no time for a heartbeat: that says nothing of the device
        else:
            examiner.tell(type(event).__name__.lower())
        self._ended = isinstance(event, usbcast.End)


def percentiles_us(values_ns: list[int]) -> dict[str, float]:
    if not values_ns:
        return {}
    values = sorted(values_ns)
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
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

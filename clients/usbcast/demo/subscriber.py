"""One of the demo's subscribers: takes every stream over one channel, checks the packets, and prints a summary."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from bisect import bisect_left
from collections import deque
from typing import Any

from usbcast import Batch, End, Gap, Subscription, subscribe
from usbcast.cli.output import emit
from usbcast.demo import PROGRESS_S

GRACE_NS = 50_000_000
"""A packet delivered later than this after the device's last one counts as arriving after the device stopped."""

LAG_SAMPLES = 200_000
RECENT = 50_000


class Follower:
    """Reads one stream to its end."""

    def __init__(
        self, stream: str, endpoint: str, via: str, slow_hz: float, slow_s: float, hurry: threading.Event
    ) -> None:
        self.done = threading.Event()
        self._hurry = hurry
        self._subscription: Subscription = subscribe(stream, endpoint, start=0, via=via)
        self._slow_hz = slow_hz
        self._slow_s = slow_s
        self._delivered = self._lost = self._duplicates = 0
        self._next = 0
        self._joined_ns = 0
        self._lags_ns: deque[int] = deque(maxlen=LAG_SAMPLES)
        self._deliveries: deque[tuple[int, int]] = deque(maxlen=RECENT)
        self._first_ns: tuple[int, int] | None = None
        self._last_ns = (0, 0)
        self._first_count = 0
        self._worst_lag_ns = 0

    def run(self) -> None:
        with self._subscription as subscription:
            subscription.ready()
            self._joined_ns = time.monotonic_ns()
            for event in subscription.events(timeout_s=30):
                if isinstance(event, Batch):
                    self._take(event)
                elif isinstance(event, Gap):
                    self._lost += event.count
                elif isinstance(event, End):
                    break
        self.done.set()

    def _take(self, batch: Batch) -> None:
        now_ns = time.monotonic_ns()
        arrived_ns = batch.encoded.arrivals.monotonic_ns[-1]
        count = len(batch)
        # Counted here again, by sequence: the subscription's own word is not taken for it.
        self._duplicates += max(0, min(self._next, batch.last_sequence + 1) - batch.first_sequence)
        self._next = max(self._next, batch.last_sequence + 1)
        self._delivered += count
        self._deliveries.append((now_ns, count))
        self._last_ns = (arrived_ns, now_ns)
        if arrived_ns >= self._joined_ns:  # what was there before this process came up says nothing of rate and lag
            if self._first_ns is None:
                self._first_ns, self._first_count = (arrived_ns, now_ns), self._delivered
            lag_ns = now_ns - arrived_ns
            self._lags_ns.append(lag_ns)
            self._worst_lag_ns = max(self._worst_lag_ns, lag_ns)
        if self._slow_hz and now_ns < self._joined_ns + self._slow_s * 1e9:
            self._hurry.wait(count / self._slow_hz)

    def progress(self) -> dict[str, Any]:
        counters = self._subscription.ledger.counters if not self.done.is_set() else {}
        worst_ns, self._worst_lag_ns = self._worst_lag_ns, 0
        return {
            "delivered": self._delivered,
            "declared_lost": self._lost,
            "worst_lag_us": worst_ns / 1000,
            "refilled": counters.get("refilled", 0),
        }

    def result(self) -> dict[str, Any]:
        lags = sorted(self._lags_ns)
        stopped_ns = self._last_ns[0]
        late = bisect_left(self._deliveries, (stopped_ns + GRACE_NS, 0))
        first = self._first_ns or (0, 0)
        counters = self._subscription.ledger.counters
        return {
            "delivered": self._delivered,
            "declared_lost": self._lost,
            "duplicates": self._duplicates,
            "after_stop": sum(count for _, count in list(self._deliveries)[late:]),
            "lag_p50_us": _percentile_us(lags, 0.50),
            "lag_p99_us": _percentile_us(lags, 0.99),
            "refilled": counters.get("refilled", 0),
            "rate_in_hz": self._rate(first[0], self._last_ns[0]),
            "rate_out_hz": self._rate(first[1], self._last_ns[1]),
            "slow": bool(self._slow_hz),
        }

    def _rate(self, first_ns: int, last_ns: int) -> float:
        """Packets a second between the first batch after joining and the last."""
        return (self._delivered - self._first_count) / ((last_ns - first_ns) / 1e9) if last_ns > first_ns else 0.0


def _percentile_us(values_ns: list[int], share: float) -> float:
    return round(values_ns[min(len(values_ns) - 1, int(len(values_ns) * share))] / 1000, 1) if values_ns else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("via")
    parser.add_argument("streams", nargs="+")
    parser.add_argument("--slow-stream", default="")
    parser.add_argument("--slow-hz", type=float, default=0)
    parser.add_argument("--slow-s", type=float, default=0)
    given = parser.parse_args()
    hurry = threading.Event()

    def interrupted(*_: object) -> None:
        """Stop being slow; the subscriber ends when the streams end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one in here would wait for the event's lock for ever
        hurry.set()

    signal.signal(signal.SIGINT, interrupted)
    followers = {
        name: Follower(
            name, given.endpoint, given.via, given.slow_hz * (name == given.slow_stream), given.slow_s, hurry
        )
        for name in given.streams
    }
    threads = [threading.Thread(target=follower.run, daemon=True) for follower in followers.values()]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        emit({"event": "progress", "streams": {name: follower.progress() for name, follower in followers.items()}})
        for follower in followers.values():
            follower.done.wait(PROGRESS_S / len(followers))
    if not all(follower.done.is_set() for follower in followers.values()):
        raise SystemExit("a stream was not received to its end")
    emit({"event": "done", "streams": {name: follower.result() for name, follower in followers.items()}})


if __name__ == "__main__":
    main()

"""Follows the counter that a device puts into its packets, and tells where packets are missing, and how many.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from usbcast_broker.flow import Lost, Packets
from usbcast_schemas.profile import Counter
from usbcast_schemas.v1 import usbcast_pb2 as pb

REASON: Final = "counter"
ANEW: Final = "the device began to count anew"
"""The reason of a loss whose size the counter cannot tell."""

UNKNOWN_RATE_HZ: Final = 1e7
"""Assumed until a second of packets was measured: a bus of 10 Gbit/s has no room for more packets of 100 bytes."""

RATE_MARGIN: Final = 1.25
"""Factor by which a device may be faster than its nominal or measured rate."""

SHORT_WRAP: Final = 1 << 16
"""With a range up to this, losing half of the values is not unusual, so every step counts as forward."""

ENVELOPE_S: Final = 60.0
ENVELOPE_FACTOR: Final = 10.0
ENVELOPE_PACKETS: Final = 1000.0
"""A step beyond ten times the packets of the elapsed time plus a minute is not a loss but a new numbering."""

TOLD_NS: Final = 1_000_000_000
"""A device that begins to count anew again and again is told of once in this time; `counters` has every time."""

_WINDOW_NS: Final = 1_000_000_000
_VECTOR_FROM: Final = 24
"""Packets from which on numpy is faster than a loop."""


class _Claim(NamedTuple):
    """Packets lost before the packet at `at`."""

    at: int
    packets: int
    at_least: bool
    reason: str = REASON


class CounterTracker:
    """Splits packets where the counter jumped, and inserts the loss there.

    A step forward is a loss of exactly that many packets; "at least" that many where the time since the packets before
    would have allowed the device another whole wrap. The same value once more is no loss, and counted as "repeated". After
    a step back, or further than the device can have come, it began to count anew ("renumbered"): a loss of at least 0.

    After `restart` the device may have gone on counting, or have begun anew at 0. The loss is exact where only the first
    can be, and the time away explains it. Else it is "at least" what each explanation that can be has in common.
    """

    def __init__(self, counter: Counter, nominal_rate_hz: float = 0.0, counters: dict[str, int] | None = None) -> None:
        self.counters: dict[str, int] = {} if counters is None else counters
        self._offset = counter.offset
        self._end = counter.offset + counter.width
        self._byte_order = counter.byte_order
        self._wrap = counter.modulus
        self._whole = self._wrap == 1 << (8 * counter.width)
        self._dtype = np.dtype(f"{'<' if counter.byte_order == 'little' else '>'}u{counter.width}")
        self._expected: int | None = None
        self._before: int | None = None
        """The value expected before the device was away; None once a packet has followed."""
        self._first: tuple[int, int] | None = None
        """Index and counter of the packet that nothing was expected of."""
        self._seen_ns = 0
        self._told_ns: int | None = None
        self._stored_s = 0.0
        """Time in which packets may have been sent that had not come with the last ones: the device had stored them."""
        self._rate_hz = nominal_rate_hz
        self._window_since_ns: int | None = None
        self._window_packets = 0

    @property
    def following(self) -> bool:
        """True if there was a packet before, so that the next one shows what is missing between them."""
        return self._expected is not None or self._before is not None

    def skip(self, packets: int) -> None:
        """Expect the counter to skip `packets`, which are accounted for elsewhere."""
        if self._expected is not None:
            self._expected = (self._expected + packets) % self._wrap
        elif self._before is not None:
            self._before = (self._before + packets) % self._wrap

    def restart(self) -> None:
        """The device was away: it may have begun to count anew."""
        if self._expected is not None:
            self._before, self._expected = self._expected, None

    def forget(self) -> None:
        """Another device may have taken its part: its counter has nothing to do with the one before."""
        self._before = self._expected = None

    def track(self, packets: Packets, monotonic_ns: int) -> tuple[Packets | Lost, ...]:
        """The packets as they are, or in parts, with a Lost before each part that does not follow on what came before."""
        elapsed_s = max(0, monotonic_ns - self._seen_ns) / 1e9 if self.following else 0.0
        self._seen_ns = monotonic_ns
        self._first = None
        steps = self._steps(packets)
        returned = self._before is not None and self._first is not None
        wrap_hidden = False
        if returned:
            claims = [
                *self._claim_of_absence(elapsed_s + self._stored_s),
                *self._claims(steps, elapsed_s, monotonic_ns),
            ]
        else:
            claims = self._claims(steps, elapsed_s, monotonic_ns)
            missing = sum(claim.packets for claim in claims)
            wrap_hidden = self._possible(elapsed_s) - packets.count - missing >= self._wrap
            if wrap_hidden and not claims and self._rate_hz:
                self._count("silences that could hide a wrap")
        lost = sum(claim.packets for claim in claims)
        if self._rate_hz:
            stored_s = self._stored_s + elapsed_s - (packets.count + lost) * RATE_MARGIN / self._rate_hz
            self._stored_s = min(max(0.0, stored_s), ENVELOPE_S)
        # A wrong claim must not make the device seem fast, so a loss counts here for no more than what came.
        self._measure(packets.count + min(lost, packets.count), monotonic_ns)
        return tuple(_split(packets, claims, at_least=wrap_hidden)) if claims else (packets,)

    def _possible(self, elapsed_s: float) -> float:
        """Packets that the device can have sent in this time."""
        return (self._rate_hz or UNKNOWN_RATE_HZ) * RATE_MARGIN * elapsed_s

    def _is_forward(self, step: int, elapsed_s: float) -> bool:
        """Return True if the device can have counted on as far as `step` in the elapsed time."""
        if self._wrap <= SHORT_WRAP:
            return True
        envelope = ENVELOPE_FACTOR * (self._rate_hz or UNKNOWN_RATE_HZ) * (elapsed_s + ENVELOPE_S) + ENVELOPE_PACKETS
        return step <= min(envelope, self._wrap // 2)

    def _claims(self, steps: Iterable[tuple[int, int]], elapsed_s: float, monotonic_ns: int) -> list[_Claim]:
        claims = []
        for index, step in steps:
            if step == self._wrap - 1 and self._wrap > 2:
                self._count("repeated")
            elif self._is_forward(step, elapsed_s):
                claims.append(_Claim(index, step, at_least=False))
            else:
                self._count("renumbered")
                if self._told_ns is None or monotonic_ns - self._told_ns >= TOLD_NS:
                    self._told_ns = monotonic_ns
                    claims.append(_Claim(index, 0, at_least=True, reason=ANEW))
        return claims

    def _claim_of_absence(self, away_s: float) -> list[_Claim]:
        """Return the claims about packets missing between the last one before the device was away and the first one after."""
        assert self._before is not None
        assert self._first is not None
        (index, value), before = self._first, self._before
        self._before = None
        step = (value - before) % self._wrap
        possible = self._possible(away_s)
        may_have_wrapped = possible >= self._wrap
        may_be_anew = value <= possible
        is_repeated = step == self._wrap - 1 and self._wrap > 2
        if not step and not may_have_wrapped:
            return []
        if is_repeated and not may_have_wrapped and not may_be_anew:
            self._count("repeated")
            return []
        explained = [0] if is_repeated else []
        counted_on = self._is_forward(step, away_s)
        if counted_on:
            explained.append(step)
        else:
            self._count("renumbered")
        if may_be_anew:
            explained.append(value)
        exact = counted_on and len(explained) == 1 and step <= possible and not may_have_wrapped
        reason = REASON if counted_on else ANEW
        return [_Claim(index, min(explained, default=0), at_least=not exact, reason=reason)]

    def _steps(self, packets: Packets) -> Iterable[tuple[int, int]]:
        """(index of a packet, how far its counter is beyond the expected one) wherever it is not the expected one."""
        if packets.packet_size and packets.count >= _VECTOR_FROM:
            return self._steps_of_many(packets)
        steps = []
        for index, value in self._values(packets):
            if self._expected is None:
                self._first = index, value
            elif value != self._expected:
                steps.append((index, (value - self._expected) % self._wrap))
            self._expected = (value + 1) % self._wrap
        return steps

    def _values(self, packets: Packets) -> Iterator[tuple[int, int]]:
        start = 0
        for index in range(packets.count):
            end = packets.ends[index] if packets.ends else start + packets.packet_size
            if end - start < self._end:
                self._count("packets without a counter")
            else:
                stored = packets.payload[start + self._offset : start + self._end]
                value = int.from_bytes(stored, self._byte_order)
                if value >= self._wrap:
                    self._count("counters beyond the wrap")
                yield index, value % self._wrap
            start = end

    def _steps_of_many(self, packets: Packets) -> list[tuple[int, int]]:
        wrap = self._wrap
        values = np.ndarray(
            (packets.count,), self._dtype, buffer=packets.payload, offset=self._offset, strides=(packets.packet_size,)
        )
        if self._whole:  # unsigned arithmetic wraps where the counter does
            inside = values[1:] - values[:-1] - self._dtype.type(1)
        else:
            beyond = int(np.count_nonzero(values >= wrap))
            if beyond:
                self._count("counters beyond the wrap", beyond)
            values = values.astype(np.uint64) % np.uint64(wrap)
            expected = (values[:-1] + np.uint64(1)) % np.uint64(wrap)
            ahead = values[1:] >= expected
            inside = np.where(ahead, values[1:] - expected, values[1:] + (np.uint64(wrap) - expected))
        steps = [(int(i) + 1, int(inside[i])) for i in np.flatnonzero(inside)]
        if self._expected is None:
            self._first = 0, int(values[0])
        elif int(values[0]) != self._expected:
            steps.insert(0, (0, (int(values[0]) - self._expected) % wrap))
        self._expected = (int(values[-1]) + 1) % wrap
        return steps

    def _measure(self, count: int, monotonic_ns: int) -> None:
        """Keep the highest rate over a second."""
        if self._window_since_ns is None:
            self._window_since_ns = monotonic_ns
            return
        self._window_packets += count
        span_ns = monotonic_ns - self._window_since_ns
        if span_ns >= _WINDOW_NS:
            self._rate_hz = max(self._rate_hz, self._window_packets * 1e9 / span_ns)
            self._window_since_ns, self._window_packets = monotonic_ns, 0

    def _count(self, what: str, n: int = 1) -> None:
        self.counters[what] = self.counters.get(what, 0) + n


def _split(packets: Packets, claims: list[_Claim], *, at_least: bool) -> Iterator[Packets | Lost]:
    done = 0
    for claim in claims:
        if claim.at > done:
            yield _part(packets, done, claim.at)
        yield Lost(pb.STAGE_DEVICE, claim.reason, packets=claim.packets, at_least=at_least or claim.at_least)
        done = claim.at
    yield _part(packets, done, packets.count)


def _part(packets: Packets, first: int, last: int) -> Packets:
    if first == 0 and last == packets.count:
        return packets
    view = memoryview(packets.payload)
    if not packets.ends:
        size = packets.packet_size
        return Packets(view[first * size : last * size], last - first, size)
    start = packets.ends[first - 1] if first else 0
    ends = tuple(end - start for end in packets.ends[first:last])
    return Packets(view[start : start + ends[-1]], last - first, 0, ends)

"""How long a byte waits in a read, whatever the device sends: on simulated devices, in a time of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_rig import Backend, transport

from usbcast_broker.sources.simulator import Fault, SimulatedDevice, SimulatorConfig, make_packets
from usbcast_broker.sources.simulator.controller import Read
from usbcast_broker.sources.simulator.source import Signal, Source
from usbcast_broker.sources.usb.read_sizes import MAX_READS, ReadSizes
from usbcast_broker.sources.usb.readahead import CANCELLED, Completion, Failure, Figures, ReadAhead

MS = 1_000_000
START_NS = 77 * MS
LATENCY_MS = 10
MOST_BYTES = 16384
QUEUE = 8
CODES = {Signal.GONE: -4, Signal.STALL: -9, Signal.OVERFLOW: -8}


class Slot:
    """A transfer, as ReadAhead knows it, that the simulated host controller fills."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.read: Read | None = None
        self.outcome: Completion | None = None
        self.asked: list[int] = []

    def submit(self, size_bytes: int) -> int:
        self.asked.append(size_bytes)
        self.outcome = None
        self.read = Read(self.host.source, size_bytes, self.host.config.max_packet_size)
        self.host.queued.append(self)
        return 0

    def cancel(self) -> None:
        if self.outcome is None and self.read is not None:
            if self.host.just_ends:  # it ends by itself at the moment at which it is cancelled
                self.host.advance()
            if self.outcome is None:
                self.host.queued.remove(self)
                self.outcome = Completion(CANCELLED, self.read.take())

    def completion(self) -> Completion | None:
        return self.outcome


class Host:
    """Queued reads of a simulated device: what came, and when. Time passes when nothing is left to do."""

    def __init__(
        self, config: SimulatorConfig, latency_ms: int = LATENCY_MS, *, just_ends: bool = False, **sizes: Any
    ) -> None:
        self.config = config
        self.just_ends = just_ends
        self.source = Source(config)
        self.figures = Figures()
        self.sizes = ReadSizes(MOST_BYTES, config.max_packet_size, latency_ms * MS, **sizes)
        self.queued: deque[Slot] = deque()
        self.slots = [Slot(self) for _ in range(self.sizes.reads(QUEUE))]
        self.ahead = ReadAhead(self.slots, self.figures, self.sizes, QUEUE)
        self.now_ns = START_NS
        self.came: list[tuple[int, bytes]] = []
        """When which bytes were taken over, in ns since the start."""
        self.failures: list[tuple[int, int]] = []
        """Which failures came, and how many bytes before each."""
        self.oldest_held_ns = 0
        self.source.start(START_NS)

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.came)

    def run(self, until_ns: int) -> None:
        """Until so long after the start."""
        self._take()
        while self.now_ns < START_NS + until_ns:
            self.advance()
            self._collect()
            self.ahead.end_overdue(self.now_ns)
            self._collect()
            self.oldest_held_ns = max(self.oldest_held_ns, self.figures.held_ns(self.now_ns))
            times = [START_NS + until_ns, self.ahead.deadline_ns, self.queued and self._oldest().wake_ns()]
            self.now_ns = max(self.now_ns + 1, min(at for at in times if at))

    def advance(self) -> None:
        """The host controller fills the oldest reads with what the device has sent by now."""
        while self.queued and (outcome := self._oldest().poll(self.now_ns)) is not None:
            ended = Completion(0, outcome) if isinstance(outcome, bytes) else Completion(CODES[outcome])
            self.queued.popleft().outcome = ended
            if outcome is Signal.STALL:
                self.source.clear_halt()

    def lags_ms(self) -> list[float]:
        """For each packet, how long after it was made its last byte was taken over."""
        size, period_ns = self.config.packet_size, 1e9 / self.config.rate_hz
        lags, got = [], 0
        for at_ns, data in self.came:
            before, got = got // size, got + len(data)
            lags += [(at_ns - k * period_ns) / MS for k in range(before, got // size)]
        return lags

    def _oldest(self) -> Read:
        read = self.queued[0].read
        assert read is not None
        return read

    def _collect(self) -> None:
        self.ahead.collect(self.now_ns, self.now_ns)
        self._take()

    def _take(self) -> None:
        while outcome := self.ahead.take(self.now_ns):
            if isinstance(outcome, Failure):
                self.failures.append((outcome.code, len(self.data)))
            else:
                self.came += [(self.now_ns - START_NS, transfer.data) for transfer in outcome]


SIZES = (64, 128, 512, 112, 20)
RATES = (1.0, 100.0, 1000.0)


@pytest.mark.parametrize("says_rate", [True, False])
@pytest.mark.parametrize("max_packet_size", [64, 512])
@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("size", SIZES)
def test_no_packet_waits_longer_than_the_latency(
    size: int, rate_hz: float, max_packet_size: int, says_rate: bool
) -> None:
    seconds = max(2, round(5 / rate_hz))
    config = SimulatorConfig(packet_size=size, rate_hz=rate_hz, max_packet_size=max_packet_size)
    host = Host(config, bytes_per_s=size * rate_hz if says_rate else 0.0)
    host.run(seconds * 1000 * MS)
    lags = host.lags_ms()
    made = host.source.produced
    assert host.data == make_packets(config, 0, made)[: len(host.data)]
    assert made - len(lags) <= LATENCY_MS / 1000 * rate_hz + 1
    assert max(lags) <= LATENCY_MS
    assert host.oldest_held_ns <= LATENCY_MS * MS
    # Where the profile says the rate, reads end by themselves: none is ended for its age.
    assert not (says_rate and host.figures.ended_early)


def test_without_a_latency_full_packets_wait_until_a_read_is_full() -> None:
    """What a read does by itself: this is what the latency is for."""
    config = SimulatorConfig(packet_size=64, rate_hz=100, max_packet_size=64)
    host = Host(config, latency_ms=0)
    host.run(3000 * MS)
    assert [(at_ns, len(data)) for at_ns, data in host.came] == [(2550 * MS, MOST_BYTES)]
    assert host.figures.ended_early == 0
    assert len(host.slots) == QUEUE
    assert host.figures.held_ns(host.now_ns) == 450 * MS


def test_at_full_rate_reads_are_as_large_as_the_profile_says() -> None:
    config = SimulatorConfig(packet_size=512, rate_hz=100_000, fifo_bytes=1 << 24)
    host = Host(config)
    host.run(100 * MS)
    sizes = [size for slot in host.slots for size in slot.asked]
    assert sizes.count(MOST_BYTES) > 0.9 * 100e-3 * 100_000 * 512 / MOST_BYTES
    assert {size for _, size in ((slot, slot.asked[-1]) for slot in host.queued)} == {MOST_BYTES}
    assert len(host.queued) == QUEUE
    assert host.figures.ended_early == 0


def test_small_reads_are_more_of_them() -> None:
    """A node that is held up loses as little as with large ones."""
    host = Host(SimulatorConfig(packet_size=64, rate_hz=1, max_packet_size=64))
    host.run(1 * MS)
    assert len(host.queued) == MAX_READS
    host = Host(SimulatorConfig(packet_size=64, rate_hz=20_000, max_packet_size=64))
    host.run(100 * MS)
    assert host.sizes.next_bytes * len(host.queued) > 0.9 * QUEUE * MOST_BYTES
    assert len(host.queued) < MAX_READS


def test_a_device_that_stops_in_the_middle_of_a_read() -> None:
    """It ends for its age, keeps what it has, and the reads that follow become small: then none is ended any more."""
    faults = tuple(Fault(kind="silence", at_packet=at, duration_s=5) for at in (2003, 4001))
    config = SimulatorConfig(packet_size=64, rate_hz=10_000, max_packet_size=64, faults=faults, packets=6001)
    host = Host(config)
    host.run(3000 * MS)
    assert len(host.data) == 2003 * 64
    assert host.came[-1][0] <= (200.3 + LATENCY_MS + 1) * MS
    ended = host.figures.ended_early
    assert 0 < ended <= MAX_READS
    assert host.figures.held_since_ns is None
    host.run(15_000 * MS)
    assert host.data == make_packets(config, 0, 6001)
    assert host.figures.ended_early <= 3 * MAX_READS


def test_where_a_cancelled_read_keeps_nothing_none_is_ended() -> None:
    """Reads of one packet hold nothing back; what a larger one holds when the device stops is told by its age."""
    config = SimulatorConfig(
        packet_size=64, rate_hz=10_000, max_packet_size=64, faults=(Fault(kind="silence", at_packet=203, duration_s=5),)
    )
    host = Host(config, can_end=False)
    host.run(1000 * MS)
    assert host.figures.ended_early == 0
    held_bytes = 203 * 64 - len(host.data)
    assert 0 < held_bytes <= 203 * 64 // 2
    assert host.figures.held_ns(host.now_ns) > 900 * MS
    host.ahead.cancel()
    host.ahead.collect(host.now_ns, host.now_ns)
    assert host.data + b"".join(one.data for one in host.ahead.rest()) == make_packets(config, 0, 203)
    slow = Host(SimulatorConfig(packet_size=64, rate_hz=100, max_packet_size=64), can_end=False)
    slow.run(1000 * MS)
    assert max(slow.lags_ms()) == 0


@pytest.mark.parametrize("kind", ["stall", "unplug", "overflow"])
def test_what_a_read_holds_comes_before_the_failure(kind: str) -> None:
    config = SimulatorConfig(packet_size=64, rate_hz=100, max_packet_size=64, faults=(Fault(kind=kind, at_packet=5),))
    host = Host(config, latency_ms=0)
    host.run(60 * MS)
    assert host.failures[0][1] == 5 * 64
    assert host.data[: 5 * 64] == make_packets(config, 0, 5)


def test_a_zero_length_packet_ends_a_read() -> None:
    faults = (Fault(kind="zero_length", at_packet=3),)
    host = Host(SimulatorConfig(packet_size=64, rate_hz=100, max_packet_size=64, faults=faults), latency_ms=0)
    host.run(50 * MS)
    assert [(at_ns, len(data)) for at_ns, data in host.came] == [(30 * MS, 3 * 64)]


def test_whole_reads_end_where_the_device_ends_its_transfers() -> None:
    config = SimulatorConfig(packet_size=160, rate_hz=50, max_packet_size=64)
    host = Host(config, whole=True)
    host.run(200 * MS)
    assert {len(data) for _, data in host.came} == {160}
    assert len(host.slots) == QUEUE
    full = Host(SimulatorConfig(packet_size=128, rate_hz=50, max_packet_size=64), whole=True)
    full.run(200 * MS)
    assert {len(data) for _, data in full.came} == {128}


def test_an_endpoint_with_several_transactions_in_a_microframe() -> None:
    """One packet of it may hold a part: it is ended as well."""
    sizes = ReadSizes(3072, 3072, LATENCY_MS * MS, transaction_bytes=1024)
    assert sizes.next_bytes == 3072
    assert sizes.deadline_ns(3072, 5) == 5 + LATENCY_MS * MS
    assert ReadSizes(1024, 1024, LATENCY_MS * MS).deadline_ns(1024, 5) is None


rates = st.lists(
    st.tuples(st.sampled_from(["burst", "silence", "drop", "zero_length"]), st.integers(1, 400)), max_size=8
)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([64, 128, 192, 20, 112, 512, 1024]),
    max_packet_size=st.sampled_from([8, 64, 512]),
    rate_hz=st.sampled_from([30.0, 400.0, 1000.0, 5000.0]),
    events=rates,
    just_ends=st.booleans(),
    says=st.sampled_from([0.0, 1e3, 1e7]),
)
def test_nothing_is_lost_and_nothing_waits_however_it_sends(
    size: int, max_packet_size: int, rate_hz: float, events: Sequence[tuple[str, int]], just_ends: bool, says: float
) -> None:
    """Bursts and pauses, reads that end while they are cancelled, and profiles that say a wrong rate."""
    faults = tuple(Fault(kind=kind, at_packet=at, count=20, duration_s=0.25) for kind, at in events)
    config = SimulatorConfig(
        packet_size=size, rate_hz=rate_hz, max_packet_size=max_packet_size, faults=faults, packets=500
    )
    host = Host(config, just_ends=just_ends, bytes_per_s=says)
    host.run(20_000 * MS)
    kept = host.source.produced - host.source.withheld - host.source.dropped
    assert len(host.data) == kept * size
    numbers = [int.from_bytes(host.data[at : at + 4], "little") for at in range(0, len(host.data), size)]
    assert numbers == sorted(set(numbers))
    assert host.oldest_held_ns <= LATENCY_MS * MS


class Ticking:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> tuple[int, int]:
        return self.now_ns, self.now_ns


def test_reads_one_after_another_keep_the_latency_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the transport's own clock: the device answers reads as the simulated one does, in that time."""
    config = SimulatorConfig(packet_size=64, rate_hz=100, max_packet_size=64, packets=200)
    clock, backend = Ticking(), Backend(config)
    source = Source(config)
    source.start(START_NS)

    def answer(_device: SimulatedDevice) -> Callable[..., bytes]:
        def read(_handle: object, size_bytes: int, timeout_ms: int) -> bytes:
            end_ns = clock.now_ns + timeout_ms * MS
            read = Read(source, size_bytes, 64)
            while (outcome := read.poll(clock.now_ns)) is None and clock.now_ns < end_ns:
                clock.now_ns = min(end_ns, read.wake_ns() or end_ns)
            return outcome if isinstance(outcome, bytes) else read.take()

        return read

    monkeypatch.setattr(backend.devices[0], "read", answer(backend.devices[0]))
    way = transport(backend, clock=clock, timeout_ms=500)
    way.open()
    lags, got = [], b""
    while not source.exhausted:
        (transfer,) = way.read()
        lags += [
            clock.now_ns - START_NS - k * 10 * MS for k in range(len(got) // 64, (len(got) + len(transfer.data)) // 64)
        ]
        got += transfer.data
    way.close()
    assert got == make_packets(config, 0, 200)
    assert max(lags) <= LATENCY_MS * MS

"""What a simulated device sends when: driven in time of its own, which only passes when nothing is left to do."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from cobs import cobs
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.sources.simulator import Fault, SimulatorConfig, make_packets
from usbcast_broker.sources.simulator.source import Signal, Source

MS = 1_000_000
START_NS = 77 * MS
Outcome = bytes | Signal


@dataclass
class Host:
    """Reads a source one transfer after another; `times` are the ends of the reads, in ns from its first."""

    config: SimulatorConfig
    read_size: int = 16384
    now_ns: int = START_NS
    outcomes: list[Outcome] = field(default_factory=list)
    times: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = Source(self.config)
        self.source.start(self.now_ns)

    def read(self, timeout_ns: int = 10_000 * MS) -> Outcome | None:
        end_ns = self.now_ns + timeout_ns
        while True:
            outcome = self.source.poll(self.now_ns, self.read_size)
            if outcome is not None:
                self.outcomes.append(outcome)
                self.times.append(self.now_ns - START_NS)
                return outcome
            wake_ns = self.source.wake_ns(self.read_size)
            if wake_ns is None or wake_ns > end_ns:
                self.now_ns = end_ns
                return None
            assert wake_ns > self.now_ns, "it would spin"
            self.now_ns = wake_ns

    def read_all(self) -> list[Outcome]:
        while not self.source.exhausted:
            outcome = self.read()
            assert outcome is not None or self.source.exhausted  # the last packets may be withheld
            if outcome is Signal.STALL:
                self.source.clear_halt()
            if outcome is Signal.GONE:
                replug_ns = self.source.wake_ns(self.read_size)
                assert replug_ns is not None
                self.now_ns = replug_ns
                self.source.catch_up(self.now_ns)
                assert self.source.plugged
                self.source.start(self.now_ns)
        return self.outcomes


def packets_of(config: SimulatorConfig, *numbers: int) -> list[bytes]:
    return [make_packets(config, number, 1) for number in numbers]


def test_the_first_case_is_a_packet_every_ten_milliseconds() -> None:
    config = SimulatorConfig(packets=5)
    host = Host(config)
    assert host.read_all() == packets_of(config, 0, 1, 2, 3, 4)
    assert host.times == [0, 10 * MS, 20 * MS, 30 * MS, 40 * MS]
    assert host.source.last_packet_ns == START_NS + 40 * MS
    assert host.read() is None
    assert host.source.produced == 5


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([0.0, 100.0, 1000.0, 1001.0, 50_000.0]),
    packet_size=st.integers(16, 200),
    packets=st.integers(1, 400),
    read_size=st.integers(1, 5000),
    transfer_size=st.none() | st.integers(1, 2000),
    latency_s=st.none() | st.sampled_from([0.0, 0.016]),
    jitter_s=st.sampled_from([0.0, 0.03]),
)
def test_whatever_the_transfers_the_bytes_are_the_packets(
    rate_hz: float,
    packet_size: int,
    packets: int,
    read_size: int,
    transfer_size: int | None,
    latency_s: float | None,
    jitter_s: float,
) -> None:
    config = SimulatorConfig(
        rate_hz=rate_hz,
        packet_size=packet_size,
        packets=packets,
        transfer_size=transfer_size,
        latency_s=latency_s,
        jitter_s=jitter_s,
    )
    host = Host(config, read_size)
    received = [one for one in host.read_all() if isinstance(one, bytes)]
    assert b"".join(received) == make_packets(config, 0, packets)
    assert max(map(len, received)) <= min(read_size, transfer_size or read_size)
    assert host.source.dropped == host.source.withheld == 0


def test_at_a_high_rate_a_transfer_ends_after_its_latency() -> None:
    host = Host(SimulatorConfig(rate_hz=10_000, packets=100))
    host.read_all()
    # A packet each 0.1 ms, collected for 1 ms from the first one of a transfer on.
    assert host.times[0] == 1 * MS
    assert {len(one) // 112 for one in host.outcomes[1:-1] if isinstance(one, bytes)} == {11}


def test_a_transfer_size_is_waited_for_and_the_rest_goes_at_the_end() -> None:
    host = Host(SimulatorConfig(packets=10, transfer_size=512))
    assert [len(one) for one in host.read_all() if isinstance(one, bytes)] == [512, 512, 96]
    assert host.times == [40 * MS, 90 * MS, 90 * MS]


def test_a_packet_longer_than_a_read_needs_several() -> None:
    config = SimulatorConfig(packet_size=1000, packets=2)
    host = Host(config, read_size=512)
    first = make_packets(config, 0, 1)
    assert host.read_all()[:2] == [first[:512], first[512:]]


def test_nobody_reading_costs_the_oldest_packets() -> None:
    config = SimulatorConfig(packets=100, fifo_bytes=10 * 112 + 50)
    host = Host(config)
    assert host.read() == make_packets(config, 0, 1)
    host.now_ns += 300 * MS
    assert host.read_all()[1:] == packets_of(config, *range(21, 100))
    assert (host.source.dropped, host.source.produced) == (20, 100)


def test_garbage_outlives_the_packets_around_it() -> None:
    faults = tuple(Fault(kind="garbage", at_packet=at, bytes=3) for at in (1, 3))
    config = SimulatorConfig(packets=10, fifo_bytes=224, faults=faults)
    host = Host(config)
    host.now_ns += 200 * MS
    sizes = [len(one) for one in host.read_all() if isinstance(one, bytes)]
    assert sizes == [3, 3, 112, 112]
    assert host.outcomes[2:] == packets_of(config, 8, 9)


def test_a_part_of_a_packet_is_not_dropped() -> None:
    config = SimulatorConfig(packets=20, fifo_bytes=224, transfer_size=100, latency_s=0.001)
    host = Host(config, 100)
    first = host.read()
    host.now_ns += 100 * MS
    assert b"".join(one for one in [*host.read_all()] if isinstance(one, bytes)).startswith(make_packets(config, 0, 1))
    assert isinstance(first, bytes)
    assert host.source.dropped > 0


def test_encoded_packets() -> None:
    config = SimulatorConfig(packets=50, rate_hz=5000, encode=lambda packet: cobs.encode(packet) + b"\0")
    received = b"".join(one for one in Host(config).read_all() if isinstance(one, bytes))
    frames = received.split(b"\0")
    assert frames.pop() == b""
    assert [cobs.decode(frame) for frame in frames] == packets_of(config, *range(50))


FAULTS = [
    (Fault(kind="stall", at_packet=2, count=3), [0, 1, *[Signal.STALL] * 3, 2, 3]),
    (Fault(kind="stall", at_packet=0), [Signal.STALL, 0, 1, 2, 3]),
    (Fault(kind="stall", at_s=0.015), [0, 1, Signal.STALL, 2, 3]),
    (Fault(kind="overflow", at_packet=1), [0, Signal.OVERFLOW, 2, 3]),
    (Fault(kind="overflow", at_s=0.005, count=2), [0, Signal.OVERFLOW, Signal.OVERFLOW, 3]),
    (Fault(kind="zero_length", at_packet=3, count=2), [0, 1, 2, b"", b"", 3]),
    (Fault(kind="drop", at_packet=1, count=2), [0, 3]),
    (Fault(kind="drop", at_packet=0), [1, 2, 3]),
    (Fault(kind="unplug", at_packet=2), [0, 1, Signal.GONE, 2, 3]),
    (Fault(kind="unplug", at_s=0.012), [0, 1, Signal.GONE, 2, 3]),
    (Fault(kind="unplug", at_packet=3, counter="restarts"), [0, 1, 2, Signal.GONE, 0]),
    (Fault(kind="silence", at_packet=2), [0, 1, 2, 3]),
    (Fault(kind="burst", at_packet=1, count=3), [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS, ids=[f"{f.kind}-{f.at_packet}-{f.at_s}" for f, _ in FAULTS])
def test_a_fault_stands_where_it_was_put(fault: Fault, expected: list[int | Outcome]) -> None:
    config = SimulatorConfig(packets=4, faults=(fault,))
    host = Host(config)
    wanted = [make_packets(config, one, 1) if type(one) is int else one for one in expected]
    assert host.read_all() == wanted
    sent = sum(type(one) is int for one in expected)
    assert host.source.produced == 4
    assert host.source.withheld == 4 - sent
    assert host.source.dropped == 0


def test_a_short_read_splits_a_packet() -> None:
    config = SimulatorConfig(packets=4, faults=(Fault(kind="short_read", at_packet=1, count=2, bytes=30),))
    zero, one, two, three = packets_of(config, 0, 1, 2, 3)
    assert Host(config).read_all() == [zero, one[:30], one[30:], two[:30], two[30:], three]
    halved = SimulatorConfig(packets=1, faults=(Fault(kind="short_read", at_packet=0),))
    assert Host(halved).read_all() == [zero[:56], zero[56:]]


def test_short_reads_that_overlap_split_each_packet_once() -> None:
    faults = (Fault(kind="short_read", at_packet=1, count=5), Fault(kind="short_read", at_packet=2, count=5))
    config = SimulatorConfig(packets=12, faults=faults)
    assert b"".join(Host(config).read_all()) == make_packets(config, 0, 12)


def test_garbage_stands_between_packets_and_follows_from_the_seed() -> None:
    fault = Fault(kind="garbage", at_packet=1, bytes=50)
    runs = []
    for seed in (1, 1, 2):
        config = SimulatorConfig(packets=2, seed=seed, faults=(fault,))
        outcomes = Host(config).read_all()
        assert [outcomes[0], outcomes[2]] == packets_of(config, 0, 1)
        runs.append(outcomes[1])
    assert len(runs[0]) == 50  # type: ignore[arg-type]
    assert runs[0] == runs[1] != runs[2]


def test_garbage_while_collecting_is_part_of_the_stream() -> None:
    config = SimulatorConfig(packets=40, rate_hz=2000, faults=(Fault(kind="garbage", at_packet=20, bytes=5),))
    received = b"".join(one for one in Host(config).read_all() if isinstance(one, bytes))
    assert received[: 20 * 112] == make_packets(config, 0, 20)
    assert received[20 * 112 + 5 :] == make_packets(config, 20, 20)


def test_garbage_alone_is_collected_like_packets() -> None:
    faults = (Fault(kind="garbage", at_s=0.05, bytes=3),)
    host = Host(SimulatorConfig(rate_hz=10, packets=2, latency_s=0.01, faults=faults))
    host.read_all()
    assert host.times == [10 * MS, 60 * MS, 100 * MS]


def test_what_is_left_of_a_transfer_is_collected_anew() -> None:
    faults = (Fault(kind="silence", at_packet=9, duration_s=1),)
    host = Host(SimulatorConfig(rate_hz=1000, packets=10, latency_s=0.0105, faults=faults), read_size=1000)
    assert [host.read(), host.read()] == [host.outcomes[0], make_packets(host.config, 8, 1)[-8:]]
    assert host.times == [8 * MS, 8 * MS + 10_500_000]


def test_a_fault_ends_the_transfer_that_is_being_collected() -> None:
    faults = (Fault(kind="stall", at_packet=5),)
    host = Host(SimulatorConfig(packets=10, transfer_size=1120, faults=faults))
    host.read_all()
    assert [len(one) // 112 if isinstance(one, bytes) else one for one in host.outcomes] == [5, Signal.STALL, 5]
    assert host.times == [50 * MS, 50 * MS, 90 * MS]


def test_a_silence_goes_on_while_nobody_has_the_device() -> None:
    host = Host(SimulatorConfig(packets=4, faults=(Fault(kind="silence", at_packet=2, duration_s=1),)))
    host.read()
    host.read()
    host.now_ns += 500 * MS
    host.source.pause(host.now_ns)
    host.now_ns += 100 * MS
    host.source.start(host.now_ns)
    host.read_all()
    assert host.times == [0, 10 * MS, 1020 * MS, 1030 * MS]


def test_a_fault_by_time_comes_also_when_all_packets_are_sent() -> None:
    host = Host(SimulatorConfig(packets=2, faults=(Fault(kind="unplug", at_s=1),)))
    assert host.read_all() == packets_of(host.config, 0, 1)
    assert host.read() is Signal.GONE
    assert host.times[-1] == 1000 * MS


def test_times_of_a_silence_and_of_a_burst() -> None:
    silence = Host(SimulatorConfig(packets=4, faults=(Fault(kind="silence", at_packet=2, duration_s=1),)))
    silence.read_all()
    assert silence.times == [0, 10 * MS, 1020 * MS, 1030 * MS]
    burst = Host(SimulatorConfig(packets=5, faults=(Fault(kind="burst", at_packet=1, count=3),)))
    burst.read_all()
    assert burst.times == [0, 30 * MS, 30 * MS, 30 * MS, 40 * MS]


def test_an_unplugged_device_makes_nothing_and_is_back_in_time() -> None:
    host = Host(SimulatorConfig(packets=4, faults=(Fault(kind="unplug", at_packet=2, duration_s=2),)))
    host.read_all()
    assert host.times == [0, 10 * MS, 20 * MS, 2020 * MS, 2030 * MS]
    assert host.source.life == 1


def test_a_reset_takes_back_an_unplug_that_waits_for_the_host() -> None:
    host = Host(SimulatorConfig(packets=4, faults=(Fault(kind="unplug", at_packet=1),)))
    host.now_ns += 50 * MS
    host.source.reset(host.now_ns)
    assert (host.source.produced, host.source.dropped) == (1, 1)
    host.source.start(host.now_ns)
    assert host.read_all() == packets_of(host.config, 1, 2, 3)


def test_unplugged_by_hand_what_waits_is_lost() -> None:
    host = Host(SimulatorConfig(packets=10))
    host.read()
    host.now_ns += 35 * MS
    host.source.unplug(host.now_ns)
    assert host.read(timeout_ns=0) is Signal.GONE
    assert (host.source.produced, host.source.dropped) == (4, 3)
    host.source.plug()
    host.source.start(host.now_ns)
    assert host.read() == make_packets(host.config, 4, 1)


def test_faults_in_a_row_keep_their_order() -> None:
    faults = (
        Fault(kind="zero_length", at_packet=1),
        Fault(kind="stall", at_packet=1),
        Fault(kind="overflow", at_packet=1),
        Fault(kind="drop", at_packet=2),
        Fault(kind="stall", at_packet=3),
    )
    config = SimulatorConfig(packets=4, faults=faults)
    zero, three = packets_of(config, 0, 3)
    assert Host(config).read_all() == [zero, b"", Signal.STALL, Signal.OVERFLOW, Signal.STALL, three]


@settings(max_examples=40, deadline=None)
@given(
    faults=st.lists(
        st.builds(
            Fault,
            kind=st.sampled_from(
                ["stall", "zero_length", "overflow", "drop", "burst", "silence", "unplug", "short_read"]
            ),
            at_packet=st.integers(0, 60),
            count=st.integers(1, 5),
            duration_s=st.sampled_from([0.001, 0.5]),
        )
        | st.builds(
            Fault,
            kind=st.sampled_from(["stall", "zero_length", "overflow", "drop", "silence", "unplug", "short_read"]),
            at_s=st.floats(0, 0.7),
            count=st.integers(1, 5),
            duration_s=st.sampled_from([0.001, 0.5]),
        ),
        max_size=6,
    ),
    rate_hz=st.sampled_from([0.0, 100.0, 5000.0]),
    read_size=st.sampled_from([64, 512, 16384]),
)
def test_whatever_goes_wrong_the_books_balance(faults: list[Fault], rate_hz: float, read_size: int) -> None:
    config = SimulatorConfig(packets=60, rate_hz=rate_hz, faults=tuple(faults))
    host = Host(config, read_size)
    received = b"".join(one for one in host.read_all() if isinstance(one, bytes))
    source = host.source
    assert source.produced == 60
    # Part of a packet may be read before the rest is lost with an unplug, so bytes bound the packets from both sides.
    whole = source.produced - source.withheld - source.dropped
    assert whole * 112 <= len(received) <= (whole + len(faults)) * 112

"""A device whose USB packets are all full: whatever it sends comes at once, and what reads hold is never lost.

`pytest -m kernel -s tests/kernel/test_latency.py` shows the figures.
"""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from kernelrig.guest import Guest
from kernelrig.length import longer
from kernelrig.serving import Serving
from kernelrig.sessions import ROOM_ENOUGH, SoftDevice

import usbcast

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

WARM_UP_S = 2.0
"""Lags are told from then on: an emulated processor translates each piece of code when it is first executed."""
USUAL_S = 6.0
HEAD = struct.Struct("<IQ")
KEEP_ALL = {"latency_ms": 0}


def profile_text(size: int, rate_hz: float, transfer: Mapping[str, int]) -> str:
    lines = [f"{key} = {value}" for key, value in transfer.items()]
    return "\n".join(
        [
            *("[stream]", 'name = "packets"', f"rate_hz = {rate_hz}"),
            *("[device]", "vendor_id = 0x1209", "product_id = 0x0001"),
            *("[transfer]", *lines),
            *("[framing]", 'method = "fixed"', f"size = {size}", 'checksum = { method = "crc32" }'),
            *("[counter]", "offset = 0", "width = 4", ""),
        ]
    )


@dataclass
class Arrivals:
    """What came to a subscriber at the host, whose clock the device has too."""

    stream: usbcast.Subscription
    story: list[object] = field(default_factory=list)
    """Numbers of packets, and names of other events between them."""
    packets: int = 0
    lags_ms: list[float] = field(default_factory=list)
    declared_lost: int = 0

    def hear(self, until_s: float, packets: int | None = None) -> None:
        """Take what comes until then, or until so many packets have come."""
        while time.monotonic() < until_s and (packets is None or self.packets < packets):
            self.take(self.stream.receive(0.1))

    def hear_until(self, name: str, timeout_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while name not in self.story:
            assert time.monotonic() < deadline_s, f"no {name} came: {self.story[-20:]}"
            self.take(self.stream.receive(0.1))

    def take(self, event: object) -> None:
        if isinstance(event, usbcast.Batch):
            now_us = time.monotonic_ns() / 1000
            for packet in event:
                number, made_us = HEAD.unpack_from(packet)
                self.story.append(number)
                self.lags_ms.append((now_us - made_us) / 1000)
                self.packets += 1
        elif isinstance(event, usbcast.DeviceEvent):
            self.story.append(event.kind)
        elif event is not None and not isinstance(event, usbcast.Silence):  # a guest that has no time is silent, too
            self.story.append(type(event).__name__.lower())
            self.declared_lost += event.count if isinstance(event, usbcast.Gap) else 0


@contextmanager
def arriving(
    guest: Guest, size: int, rate_hz: float, *, keeping: bool = True, **transfer: int
) -> Iterator[tuple[Serving, Arrivals]]:
    """A node in the guest for a device with packets of this size, and its subscriber."""
    text = base64.b64encode(profile_text(size, rate_hz, transfer).encode()).decode()
    guest.shell(f"echo {text} | base64 -d > /tmp/packets.toml")
    with (
        Serving(guest, "/tmp/packets.toml", watched=True, keeping=keeping) as serving,
        usbcast.subscribe("packets", serving.endpoint, start=0, via="push") as stream,
    ):
        assert stream.ready(60)
        yield serving, Arrivals(stream)


def all_arrive(
    guest: Guest,
    size: int,
    rate_hz: float,
    max_packet_size: int,
    *,
    says_rate: bool = True,
    keeping: bool = True,
) -> dict[str, int]:
    """Run the device for a while and stop it: every packet that it made arrives, and nothing more has to happen for it.

    Return the node's counters at the device.
    """
    seconds = WARM_UP_S + USUAL_S * longer() + 4 / rate_hz
    device = SoftDevice(guest, rate_hz=rate_hz, fifo=ROOM_ENOUGH, packet_bytes=size, max_packet_size=max_packet_size)
    with device, arriving(guest, size, rate_hz if says_rate else 0.0, keeping=keeping) as (serving, came):
        begin_s = time.monotonic()
        device.start()
        came.hear(begin_s + WARM_UP_S)
        before, used, busy_ms, from_s = came.packets, serving.cpu_ns(), guest_busy_ms(guest), time.monotonic()
        came.hear(begin_s + seconds)
        used_now, busy_ms, took_s = serving.cpu_ns(), guest_busy_ms(guest) - busy_ms, time.monotonic() - from_s
        lags_ms = sorted(came.lags_ms[before:])
        device.stop()
        made = device.drain(timeout_s=120)["made"]
        came.hear(time.monotonic() + 60, made)
        counters: dict[str, int] = dict(next(one for one in serving.health().ledgers if one.stage == "device").counters)
        books = serving.stop()
    cpu_ms = sum(used_now[name] - used.get(name, 0) for name in used_now) / 1e6
    told = [round(lags_ms[int(len(lags_ms) * share)], 1) for share in (0.5, 0.99)] if lags_ms else ["-", "-"]
    print(
        f"{size:4} bytes, {rate_hz:5.0f}/s, wMaxPacketSize {max_packet_size:3}: lag ms p50 {told[0]}, p99 {told[1]}, max "
        f"{max(lags_ms, default=0):.1f}; lost {made - came.packets} of {made}; CPU {cpu_ms / took_s:.0f} ms/s, "
        f"of the guest {busy_ms / took_s:.0f} of 2000; "
        f"reads ended early {counters.get('ended_early', '-')}"
    )
    assert [one for one in came.story if isinstance(one, int)] == list(range(made)), came.story[-20:]
    assert came.declared_lost == 0
    assert books["balanced"], books["discrepancies"]
    return counters


def guest_busy_ms(guest: Guest) -> float:
    """Return the processor time of everything in the guest since it booted: its two processors have 2,000 ms a second."""
    user, nice, system, _idle, _waiting, irq, soft_irq = map(int, guest.shell("head -1 /proc/stat")[0].split()[1:8])
    return 10.0 * (user + nice + system + irq + soft_irq)


CI = pytest.param(64, 100.0, 64, marks=pytest.mark.kernel_ci)
CASES = [
    CI if (size, rate_hz, max_packet_size) == CI.values else (size, rate_hz, max_packet_size)
    for max_packet_size in (64, 512)
    for size in (64, 128, 512, 112, 20)
    for rate_hz in (1.0, 100.0, 1000.0)
]


@pytest.mark.parametrize(("size", "rate_hz", "max_packet_size"), CASES)
def test_every_packet_arrives_without_another_one(
    guest: Guest, size: int, rate_hz: float, max_packet_size: int
) -> None:
    all_arrive(guest, size, rate_hz, max_packet_size)


@pytest.mark.parametrize("rate_hz", [pytest.param(300.0, marks=pytest.mark.kernel_ci), 1.0, 100.0, 1000.0])
def test_where_the_profile_says_no_rate(guest: Guest, rate_hz: float) -> None:
    all_arrive(guest, 64, rate_hz, 64, says_rate=False)


@pytest.mark.kernel_ci
def test_over_usbip_no_read_is_ended(guest: Guest) -> None:
    """What it had taken would be gone."""
    assert all_arrive(guest, 64, 100.0, 64, keeping=False)["ended_early"] == 0


@dataclass(frozen=True)
class Ending:
    """What ends a read that is not full, and what is told of it."""

    name: str
    told: str


@pytest.mark.kernel_ci
@pytest.mark.parametrize(
    "ending", [Ending("leave", "detached"), Ending("halt", "stalled"), Ending("stop", "end")], ids=lambda one: one.name
)
def test_what_a_read_holds_when_it_fails_comes_before_the_failure(guest: Guest, ending: Ending) -> None:
    """Reads hold all that they get, as without a latency: 40 packets are a sixth of one."""
    with (
        SoftDevice(guest, rate_hz=200, fifo=ROOM_ENOUGH, packet_bytes=64, max_packet_size=64) as device,
        arriving(guest, 64, 200, **KEEP_ALL) as (serving, came),
    ):
        if ending.name == "halt":
            device.fail([-32], [40])
        device.start()
        device.wait_for(40, timeout_s=60)
        made = device.drain()["made"] if ending.name != "halt" else 40
        came.hear(time.monotonic() + 0.5)
        assert came.packets == 0 or ending.name == "halt"
        if ending.name == "leave":
            device.leave()
        elif ending.name == "stop":
            serving.interrupt()
        came.hear_until(ending.told)
        if ending.name != "stop":
            serving.interrupt()
        serving.finish()
    assert came.story[: made + 2] == ["attached", *range(made), ending.told]


def test_reads_that_end_while_they_are_cancelled_lose_nothing(guest: Guest) -> None:
    """Bursts of full packets, and pauses in the middle of a read, again and again."""
    with (
        SoftDevice(guest, rate_hz=600, fifo=ROOM_ENOUGH, packet_bytes=64, max_packet_size=64) as device,
        arriving(guest, 64, 0.0) as (serving, came),
    ):
        made = 0
        for n in range(int(12 * longer())):
            device.start()
            device.wait_for(made + 120 + n, timeout_s=120)
            made = device.drain(timeout_s=60)["made"]
            came.hear(time.monotonic() + 60, made)
            assert came.packets == made
        counters = dict(next(one for one in serving.health().ledgers if one.stage == "device").counters)
        serving.stop()
    print(f"{made} packets in bursts, {counters['ended_early']} reads ended early")
    assert [one for one in came.story if isinstance(one, int)] == list(range(made))
    assert counters["ended_early"] > 0

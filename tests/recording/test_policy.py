"""The decisions of a recorder, as tables."""

from __future__ import annotations

import pytest

from usbcast.recording.policy import Keep, Limits, RateWatch, Rotation
from usbcast.recording.sizes import parse_size
from usbcast_broker.stream.relay import RelayQueue
from usbcast_schemas.batch import Encoded


@pytest.mark.parametrize(
    ("size", "age_s", "channels", "due"),
    [(0, 0, 0, False), (99, 9.9, 9999, False), (100, 0, 0, True), (0, 10, 0, True), (0, 0, 10_000, True)],
)
def test_rotation(size: int, age_s: float, channels: int, due: bool) -> None:
    assert bool(Rotation(100, 10).reason(size, age_s, channels)) == due


@pytest.mark.parametrize(
    ("keep", "sizes", "gone"),
    [
        (Keep(), [9] * 100, 0),
        (Keep(segments=3), [1, 1, 1], 0),
        (Keep(segments=3), [1, 1, 1, 1, 1], 2),
        (Keep(segments=1), [1, 1], 1),
        (Keep(size_bytes=10), [5, 5], 0),
        (Keep(size_bytes=10), [5, 5, 1], 1),
        (Keep(size_bytes=10), [100], 0),
        (Keep(size_bytes=10), [1, 100], 1),
        (Keep(segments=4, size_bytes=10), [1, 6, 6, 4], 2),
        (Keep(segments=2, size_bytes=10), [], 0),
    ],
)
def test_keep_never_takes_the_newest(keep: Keep, sizes: list[int], gone: int) -> None:
    assert keep.surplus(sizes) == gone


@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        (Limits(), None),
        (Limits(packets=10), "10 packets"),
        (Limits(packets=11), None),
        (Limits(packets=9), "9 packets"),
        (Limits(duration_s=5), "5 s"),
        (Limits(duration_s=4.5), "4.5 s"),
        (Limits(duration_s=5.5), None),
        (Limits(until_realtime_ns=99), "the time"),
        (Limits(until_realtime_ns=100), "the time"),
        (Limits(until_realtime_ns=101), None),
        (Limits(at_end=True), "has ended"),
    ],
)
def test_limits(limits: Limits, reached: str | None) -> None:
    found = limits.reached(packets=10, elapsed_s=5.0, realtime_ns=100, ended=True)
    assert (found is None) == (reached is None)
    assert reached is None or reached in str(found)


def test_a_rate_is_complained_of_once_and_praised_once() -> None:
    watch, said, packets = RateWatch(), [], 0
    for second in range(40):
        packets += 100 if second < 12 or second >= 25 else 50 if second < 18 else 0
        said.append((second, watch.look(packets, 100.0, float(second))))
    told = [(second, sentence.split(":")[0].split(" packets")[0]) for second, sentence in said if sentence]
    assert [sentence.split()[1] for _, sentence in told] in (
        ["90.0", "nothing", "20.0", "well"], ["80.0", "nothing", "20.0", "well"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rate_hz", "nominal_hz", "says"),
    [
        (90, 100, None),
        (110, 100, None),
        (89, 100, "gives 89.0 packets/s where its profile says 100.0"),
        (111, 100, "gives 111.0 packets/s where its profile says 100.0"),
        (5, 0, None),
        (0, 0, "gives nothing: no packet for 5 s"),
        (0, 100, "gives nothing: no packet for 5 s"),
    ],
)
def test_a_rate_is_measured_over_five_seconds(rate_hz: int, nominal_hz: int, says: str | None) -> None:
    watch = RateWatch()
    told = [watch.look(1000 + rate_hz * second, nominal_hz, 70.0 + second) for second in range(9)]
    assert told == [None] * 5 + [says] + [None] * 3


def test_an_old_rate_is_forgotten() -> None:
    watch = RateWatch()
    packets = [0, 0, 0, 0, 0, 0, 100, 200, 300, 400, 500, 600, 700]
    told = [watch.look(count, 100.0, float(second)) for second, count in enumerate(packets)]
    assert [(second, says) for second, says in enumerate(told) if says] == [
        (5, "gives nothing: no packet for 5 s"),
        (6, "gives 20.0 packets/s where its profile says 100.0"),
        (10, "is well again: 100.0 packets/s"),
    ]


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64MiB", 64 << 20), ("1 GB", 10**9), ("1.5k", 1500), ("2TiB", 2 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "5 apples", "-1", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_a_relays_queue_refuses_what_does_not_fit_and_rings_when_it_was_empty() -> None:
    rung: list[int] = []
    queue = RelayQueue(lambda: rung.append(1), max_bytes=100)
    batches = [Encoded(bytes(60), n, n, 1) for n in range(3)]
    assert queue.offer(batches[0])
    assert not queue.offer(batches[1])
    assert queue.held_bytes == 60
    assert queue.take(1 << 20) == [(batches[0], False)]
    assert queue.offer(Encoded(bytes(1000), 9, 9, 1), last=True), "one that is larger than the bound passes alone"
    assert len(rung) == 2
    assert queue.take(1)[0][1]
    assert queue.held_bytes == 0

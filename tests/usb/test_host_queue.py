"""The bounded queue between the device's thread and the framing's."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_rig import data_of, take_all

from usbcast_broker.flow import DeviceEvent, HostItem, Lost, Transfer
from usbcast_broker.stream import host_queue
from usbcast_broker.stream.coalescing import Coalescer
from usbcast_broker.stream.host_queue import DEFAULT_MAX_BYTES, QUEUE_FULL, HostQueue
from usbcast_schemas.v1 import usbcast_pb2 as pb

STALLED, FAILED = pb.DeviceEvent.KIND_STALLED, pb.DeviceEvent.KIND_FAILED


def transfer(size: int, fill: int = 0) -> Transfer:
    return Transfer(bytes([fill]) * size, 1, 2)


def stalled(kind: pb.DeviceEvent.Kind = STALLED) -> DeviceEvent:
    return DeviceEvent(kind, 1, 2)


def full(size_bytes: int) -> Lost:
    return Lost(pb.STAGE_HOST, QUEUE_FULL, size_bytes=size_bytes)


def test_its_default_bound() -> None:
    assert HostQueue().max_bytes == DEFAULT_MAX_BYTES == 64 * 1024 * 1024


TABLE: list[tuple[list[HostItem], list[HostItem]]] = [
    ([], []),
    ([transfer(60), transfer(40)], [transfer(60), transfer(40)]),
    ([transfer(60), transfer(41)], [transfer(60), full(41)]),
    ([transfer(101)], [full(101)]),
    ([transfer(60), transfer(41), transfer(50), stalled(), transfer(70), transfer(40)],
     [transfer(60), full(91), stalled(), full(70), transfer(40)]),
    ([transfer(100), stalled(), stalled(FAILED)], [transfer(100), stalled(), stalled(FAILED)]),
    ([transfer(100), transfer(0)], [transfer(100), transfer(0)]),
    ([Lost(pb.STAGE_DEVICE, "x", packets=1), Lost(pb.STAGE_DEVICE, "x", packets=2, at_least=True)],
     [Lost(pb.STAGE_DEVICE, "x", packets=3, at_least=True)]),
    ([transfer(100), transfer(1), Lost(pb.STAGE_DEVICE, "x", packets=1), transfer(2)],
     [transfer(100), full(3), Lost(pb.STAGE_DEVICE, "x", packets=1)]),
]  # fmt: skip


@pytest.mark.parametrize(("put", "taken"), TABLE)
def test_at_the_bound_the_oldest_stay_and_the_hole_is_marked(put: list[HostItem], taken: list[HostItem]) -> None:
    queue = HostQueue(100)
    for item in put:
        queue.put(item)
    assert queue.ledger.discrepancy() is None
    assert queue.ledger.held == len(data_of(taken))
    assert take_all(queue) == taken
    assert queue.ledger.held == 0
    assert queue.ledger.lost_total == sum(item.size_bytes for item in taken if isinstance(item, Lost))
    assert queue.ledger.discrepancy() is None


def test_there_is_room_again_after_taking() -> None:
    queue = HostQueue(100)
    for item in (transfer(100), transfer(50), transfer(60)):
        queue.put(item)
    assert queue.take(100) == [transfer(100), full(110)]
    queue.put(transfer(100, 7))
    assert take_all(queue) == [transfer(100, 7)]


def test_taking_stops_at_its_budget_but_takes_something() -> None:
    queue = HostQueue(1000)
    items: list[HostItem] = [transfer(100), stalled(), transfer(50), transfer(1), transfer(600)]
    for item in items:
        queue.put(item)
    assert queue.take(0) == items[:2]
    assert queue.take(50) == items[2:3]
    assert queue.take(1) == items[3:4]
    assert queue.take(1) == items[4:]
    assert queue.take(1) == []
    assert (queue.ledger.left, queue.ledger.held) == (751, 0)


def test_tiny_transfers_are_bounded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_queue, "MAX_TRANSFERS", 3)
    queue = HostQueue()
    for _ in range(5):
        queue.put(transfer(1))
    assert take_all(queue) == [transfer(1)] * 3 + [full(2)]
    for _ in range(3):
        queue.put(transfer(1))
    assert queue.take(2) == [transfer(1)] * 2
    for _ in range(3):
        queue.put(transfer(1))
    assert take_all(queue) == [transfer(1)] * 3 + [full(1)]


def test_device_events_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_queue, "MAX_DEVICE_EVENTS", 3)
    queue = HostQueue(100)
    for _ in range(5):
        queue.put(stalled())
    queue.put(Lost(pb.STAGE_DEVICE, "x", packets=1))
    assert take_all(queue) == [stalled()] * 3 + [Lost(pb.STAGE_DEVICE, "x", packets=1)]
    assert queue.ledger.counters == {"happenings dropped": 2}
    for item in (stalled(), stalled(), transfer(50), stalled(), transfer(50)):
        queue.put(item)
    assert queue.take(0) == [stalled(), stalled()]
    for item in (stalled(), stalled(), stalled()):
        queue.put(item)
    assert take_all(queue) == [transfer(50), stalled(), transfer(50), stalled(), stalled()]
    assert queue.ledger.counters == {"happenings dropped": 3}


def test_the_doorbell_rings_when_something_comes_into_an_empty_queue() -> None:
    rings: list[int] = []
    queue = HostQueue(100, lambda: rings.append(len(queue)))
    queue.put(stalled())
    queue.put(transfer(60))
    queue.put(transfer(60))
    assert rings == [1]
    take_all(queue)
    queue.put(transfer(200))
    assert rings == [1, 1]
    assert take_all(queue) == [full(200)]


def test_a_snapshot_is_a_copy() -> None:
    queue = HostQueue(100)
    queue.put(transfer(60))
    before = queue.snapshot()
    queue.put(transfer(60))
    assert (before.entered, before.held, before.lost_total) == (60, 60, 0)
    assert (queue.snapshot().entered, queue.snapshot().lost) == (120, {QUEUE_FULL: 60})


items_to_put = st.one_of(
    st.integers(0, 120).map(transfer),
    st.just(stalled()),
    st.just(Lost(pb.STAGE_DEVICE, "overflow", packets=1)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(items_to_put | st.integers(0, 250), max_size=60))
def test_whatever_is_put_and_taken_the_books_balance(steps: list[HostItem | int]) -> None:
    queue = HostQueue(200)
    expected: deque[HostItem] = deque()
    taken: list[HostItem] = []
    held = 0
    for step in steps:
        if isinstance(step, int):
            some = queue.take(step)
            size = len(data_of(some))
            assert size <= step or len([one for one in some if isinstance(one, Transfer) and one.data]) == 1
            held -= size
            taken += some
        else:
            queue.put(step)
            if isinstance(step, Transfer) and held + len(step.data) > 200:
                expected.append(full(len(step.data)))
            else:
                held += len(step.data) if isinstance(step, Transfer) else 0
                expected.append(step)
        assert queue.ledger.held == held <= 200
        assert queue.ledger.discrepancy() is None
    taken += take_all(queue)
    assert [one for one in taken if not isinstance(one, Lost)] == [one for one in expected if not isinstance(one, Lost)]
    for reason in (QUEUE_FULL, "overflow"):
        for what in ("size_bytes", "packets"):
            assert _sums(taken, reason, what) == _sums(list(expected), reason, what)


def _sums(items: list[HostItem], reason: str, what: str) -> list[int]:
    """How much was lost in each stretch between items that are no losses."""
    sums = [0]
    for item in items:
        if not isinstance(item, Lost):
            sums.append(0)
        elif item.reason == reason:
            sums[-1] += getattr(item, what)
    return sums


def test_two_threads() -> None:
    heard = threading.Event()
    queue = HostQueue(5000, heard.set)
    total = 30_000

    def write() -> None:
        for i in range(total):
            queue.put(Transfer(b"%07d" % i, i, i))

    writer = threading.Thread(target=write)
    writer.start()
    numbers: list[int] = []
    lost_bytes = 0
    while len(numbers) * 7 + lost_bytes < total * 7:
        assert heard.wait(10)
        heard.clear()
        while items := queue.take(700):
            assert queue.snapshot().discrepancy() is None
            for item in items:
                if isinstance(item, Lost):
                    lost_bytes += item.size_bytes
                elif isinstance(item, Transfer):
                    assert int(item.data) == len(numbers) + lost_bytes // 7
                    numbers.append(int(item.data))
    writer.join()
    assert queue.ledger.lost.get(QUEUE_FULL, 0) == lost_bytes


def test_several_at_once_ring_once_when_all_are_there() -> None:
    held: list[int] = []
    queue = HostQueue(max_bytes=100, doorbell=lambda: held.append(queue.ledger.held))
    queue.extend([])
    assert held == []
    queue.extend([transfer(60), transfer(50), transfer(40)])
    assert held == [100]
    queue.extend([transfer(1)])
    assert held == [100]
    assert take_all(queue) == [transfer(60), full(50), transfer(40), full(1)]


def test_with_a_moderation_the_doorbell_rings_again_when_it_is_time() -> None:
    rings: list[int] = []
    coalescer = Coalescer()
    queue = HostQueue(1000, lambda: rings.append(len(queue)), coalescer)
    coalescer.turned(0, 1_000)
    before, after = coalescer.next_ns - 1, coalescer.next_ns
    queue.extend([])
    for arrived_ns, rung in ((before, [1]), (before, [1]), (after, [1, 3]), (after, [1, 3, 4])):
        queue.put(Transfer(b"x", 0, arrived_ns))
        assert rings == rung
    queue.extend([])
    queue.put(stalled())
    assert rings == [1, 3, 4], "what happened to the device goes with the next turn"

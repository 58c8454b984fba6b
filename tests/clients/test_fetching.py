"""When what is missing is asked for, and how much of it."""

from __future__ import annotations

import pytest

from usbcast.events import Gap
from usbcast.receiving.continuity import Continuity, Delivery
from usbcast.receiving.fetching import Fetching
from usbcast.receiving.pace import FIRST_BYTES
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

MS = 1_000_000


def batch(number: int) -> EncodedBatch:
    raw = encode_batch(
        epoch=7, number=number, first_sequence=number, packet_count=1, packet_size=8, payload=(bytes(8),),
        arrivals=Arrivals((1,), (0,), (0,)),
    )  # fmt: skip
    return decode_batch(raw)


@pytest.fixture
def core() -> Continuity:
    """Batch 0 was delivered; 5 are known to exist."""
    made = Continuity()
    made.start(7, 0, 0)
    made.live(batch(0))
    made.known(7, 5, 5)
    return made


class Gate:
    """Lets pass as many bytes as the test says."""

    always = False

    def __init__(self) -> None:
        self.open_bytes = 0
        self.took_bytes = 0

    def budget(self, now_ns: int) -> int:  # noqa: ARG002
        return self.open_bytes

    def due_ns(self, now_ns: int) -> int:
        return now_ns + 7 * MS

    def took(self, size_bytes: int, now_ns: int) -> None:  # noqa: ARG002
        self.took_bytes += size_bytes


def test_what_only_a_fetch_brings_is_asked_for_at_once_and_once(core: Continuity) -> None:
    fetching = Fetching(core)
    asked = fetching.request("s", 100, pushed=False)
    assert asked is not None
    assert (asked.stream, asked.epoch, asked.from_sequence, asked.from_number) == ("s", 7, 1, 1)
    assert asked.byte_budget == FIRST_BYTES
    assert not asked.HasField("until_sequence")
    fetching.sent(3, 100)
    assert fetching.under_way
    assert fetching.is_answer(3)
    assert not fetching.is_answer(4)
    fetching.answered(
        pb.FetchReply(epoch=7, next_sequence=5, next_number=5), [batch(n) for n in range(1, 5)], 200, pushed=False
    )
    assert core.next_sequence == 5
    assert not fetching.under_way
    assert fetching.request("s", 300, pushed=False) is None


def test_what_is_pushed_is_waited_for_as_long_as_it_comes_nearer(core: Continuity) -> None:
    fetching = Fetching(core)
    assert fetching.request("s", 0, pushed=True) is None
    due = fetching.due_ns()
    assert due is not None
    assert due <= 2 * MS, "others who miss the same do not ask at the same moment"
    core.live(batch(1))
    assert fetching.request("s", due, pushed=True) is None
    later = fetching.due_ns()
    assert later is not None
    assert later >= due + 20 * MS
    assert fetching.request("s", later - 1, pushed=True) is None
    asked = fetching.request("s", later, pushed=True)
    assert asked is not None, "nothing has come since"
    assert asked.from_number == 2


def test_who_has_all_is_not_waited_for(core: Continuity) -> None:
    fetching = Fetching(core)
    fetching.request("s", 0, pushed=True)
    for n in range(1, 5):
        core.live(batch(n))
    assert fetching.request("s", 1000 * MS, pushed=True) is None
    assert fetching.due_ns() is None


def test_a_gate_says_when_and_how_much(core: Continuity) -> None:
    gate = Gate()
    fetching = Fetching(core, gate)
    assert not fetching.counts(0)
    assert fetching.request("s", 0, pushed=False) is None
    assert fetching.due_ns() == 7 * MS
    gate.open_bytes = 1000
    assert fetching.counts(0)
    assert fetching.request("s", 6 * MS, pushed=False) is None
    asked = fetching.request("s", 7 * MS, pushed=False)
    assert asked is not None
    assert asked.byte_budget == 1000
    fetching.sent(1, 7 * MS)
    fetching.answered(pb.FetchReply(epoch=7, next_sequence=5, next_number=5), [batch(1)], 8 * MS, pushed=False)
    assert gate.took_bytes == len(batch(1).raw)


def test_no_answer_is_waited_for_longer_and_asked_for_less(core: Continuity) -> None:
    fetching = Fetching(core)
    waited = []
    now = 0
    for request_id in range(6):
        asked = fetching.request("s", now, pushed=False)
        assert asked is not None
        fetching.sent(request_id, now)
        due = fetching.due_ns()
        assert due is not None
        assert not fetching.is_overdue(due - 1)
        assert fetching.is_overdue(due)
        waited.append((asked.byte_budget // 1024, (due - now) // 10**9))
        fetching.failed(due + 5)
        assert fetching.request("s", due + 4, pushed=False) is None
        now = due + 5
    assert waited == [(256, 3), (64, 6), (16, 12), (16, 24), (16, 24), (16, 24)]


def test_an_empty_answer_is_not_asked_for_again_at_once(core: Continuity) -> None:
    fetching = Fetching(core)
    fetching.request("s", 0, pushed=False)
    fetching.sent(1, 0)
    fetching.answered(pb.FetchReply(epoch=7, next_sequence=5, next_number=5), [], 10, pushed=False)
    assert fetching.request("s", 20 * MS, pushed=False) is None
    assert fetching.request("s", 20 * MS + 10, pushed=False) is not None


def test_what_cannot_be_read_is_stepped_over_and_told_as_a_gap(core: Continuity) -> None:
    """Batches 1 and 2 are malformed, each in an answer of its own; 3 and 4 are not."""
    fetching = Fetching(core)
    now = 0
    for number in (1, 2):
        asked = fetching.request("s", now, pushed=False)
        assert asked is not None
        assert (asked.from_number, asked.from_sequence) == (number, 1)
        fetching.sent(number, now)
        core.unreadable()
        told = pb.FetchReply(epoch=7, next_sequence=5, next_number=5, complete=False)
        fetching.answered(told, [], now, pushed=False, unreadable=1)
        now += 20 * MS
    asked = fetching.request("s", now, pushed=False)
    assert asked is not None
    assert asked.from_number == 3
    fetching.sent(3, now)
    told = pb.FetchReply(epoch=7, next_sequence=5, next_number=5, complete=True)
    fetching.answered(told, [batch(3), batch(4)], now, pushed=False)
    first = [core.out.popleft() for _ in range(2)][-1]
    assert isinstance(first, Delivery)
    assert first.gaps == (Gap(1, 2, 2, "ring", "could not be read"),)
    assert core.next_sequence == 5


def test_where_nothing_readable_is_left_it_is_asked_for_less_often(core: Continuity) -> None:
    fetching = Fetching(core)
    told = pb.FetchReply(epoch=7, next_sequence=5, next_number=5, complete=True)
    for at, unreadable in ((0, 4), (20 * MS, 0)):
        assert fetching.request("s", at, pushed=False) is not None
        fetching.sent(1, at)
        fetching.answered(told, [], at, pushed=False, unreadable=unreadable)
    assert fetching.request("s", 1019 * MS, pushed=False) is None
    asked = fetching.request("s", 1020 * MS, pushed=False)
    assert asked is not None
    assert asked.from_number == 5


def test_a_request_that_was_put_off_is_sent_whenever_its_time_is_over(core: Continuity) -> None:
    for late_ns in (0, 1, 5 * MS):
        fetching = Fetching(core)
        fetching.request("s", 0, pushed=True)
        due_ns = fetching.due_ns()
        assert due_ns is not None
        assert fetching.request("s", due_ns + late_ns, pushed=True) is not None
        core.fetch_failed()


def test_an_answer_is_overdue_from_its_deadline_on(core: Continuity) -> None:
    for late_ns, overdue in ((-1, False), (0, True), (1, True), (10**12, True)):
        fetching = Fetching(core)
        assert not fetching.is_overdue(10**12), "nothing was asked for"
        fetching.request("s", 0, pushed=False)
        fetching.sent(1, 0)
        deadline_ns = fetching.due_ns()
        assert deadline_ns is not None
        assert fetching.is_overdue(deadline_ns + late_ns) == overdue
        fetching.given_up()
        assert not fetching.under_way
        core.fetch_failed()


def test_who_counts_as_a_subscriber(core: Continuity) -> None:
    assert Fetching(core).counts(0)
    for always, open_bytes, counts in ((False, 0, False), (False, 1, True), (True, 0, True), (True, 1, True)):
        gate = Gate()
        gate.always, gate.open_bytes = always, open_bytes
        assert Fetching(core, gate).counts(0) == counts

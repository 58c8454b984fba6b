"""A consumer that must not end: where it goes on, when it tries again, and that it misses nothing."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.support.nodes import DEADLINE_S, Served, eventually, serving, small
from tests.support.resumed import AWAY, check_resumes, fail, take_to_end
from usbcast.events import Gap, Restart, Silence
from usbcast.receiving import resume_point
from usbcast.receiving.continuity import Delivery, Position
from usbcast.receiving.event_builder import Record
from usbcast.receiving.open import Receiver, receive
from usbcast.receiving.resume_point import AGAIN_NS, ResumePoint, position_behind
from usbcast.receiving.resuming import ResumingReceiver, wait_for_any
from usbcast_broker.node import Node
from usbcast_schemas.batch import Arrivals, decode_batch, encode_batch
from usbcast_schemas.errors import StreamUnknown

HERE = Position(7, 100, 10)


def delivery(number: int, first: int, count: int, epoch: int = 7) -> Delivery:
    arrivals = Arrivals((count,), (5,), (6,)) if count else Arrivals()
    raw = encode_batch(
        epoch=epoch, number=number, first_sequence=first, packet_count=count, packet_size=1, payload=[bytes(count)],
        arrivals=arrivals,
    )  # fmt: skip
    return Delivery(decode_batch(raw))


@pytest.mark.parametrize(
    ("record", "behind"),
    [
        (delivery(10, 100, 5), Position(7, 105, 11)),
        (delivery(3, 20, 0, epoch=8), Position(8, 20, 4)),
        (Gap(100, 109, 10, "ring", "overwritten"), Position(7, 110, 10)),
        (Gap(100, 99, 3, "host", "queue full"), HERE),
        (Restart(7, 8, 100, 100), Position(8, 0, 0)),
        (Silence(1), HERE),
    ],
)
def test_the_position_is_behind_the_last_record(record: Delivery | Gap | Restart | Silence, behind: Position) -> None:
    assert position_behind(record, HERE) == behind
    point = ResumePoint(HERE)
    point.took(record)
    assert point.start == point.position == behind


def test_until_a_batch_has_come_it_begins_where_the_user_wants() -> None:
    point = ResumePoint("oldest")
    point.took(Silence(1))
    point.took(Gap(0, 9, 10, "ring", "overwritten"))
    assert (point.start, point.position) == ("oldest", None)
    point.took(delivery(0, 10, 5))
    assert point.start == Position(7, 15, 1)


def test_after_a_failure_it_is_due_again_a_second_later() -> None:
    point = ResumePoint("now")
    assert (point.is_away, point.rest_ns(5)) == (False, 0)
    point.failed(5)
    assert (point.is_away, point.rest_ns(5), point.rest_ns(5 + AGAIN_NS)) == (True, AGAIN_NS, 0)
    point.failed(6 + AGAIN_NS)
    assert point.rest_ns(6 + AGAIN_NS) == AGAIN_NS
    point.resumed()
    assert (point.is_away, point.rest_ns(7 + AGAIN_NS)) == (False, 0)


@pytest.mark.parametrize("via", ["push", "ring"])
def test_no_record_is_missing_or_comes_twice(via: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_point, "AGAIN_NS", 1_000_000)
    with serving(rate_hz=2000, packets=600, ends=True) as served:
        check_resumes(lambda at: receive("sim", served.endpoint, at, "all", via), 600)


@pytest.mark.parametrize("via", ["push", "ring"])
def test_a_node_that_has_the_stream_later(via: str) -> None:
    with contextlib.ExitStack() as first:
        node = first.enter_context(Node(small()))
        node.start()
        endpoint = node.endpoint
        resuming = ResumingReceiver(lambda at: receive("sim", endpoint, at, "all", via), "oldest")
        with contextlib.closing(resuming):
            eventually(lambda: resuming.pump() or resuming.trouble, "it is told that there is none")
            assert "has no stream 'sim'" in resuming.trouble
            first.close()
            with serving(rate_hz=2000, packets=200, ends=True, settings=small(bind=endpoint)):
                taken = take_to_end(resuming)
    assert sum(record.batch.packet_count for record in taken if isinstance(record, Delivery)) == 200


def test_what_is_not_retried_is_raised() -> None:
    with Node(small()) as node:
        node.start()
        resuming = ResumingReceiver(lambda at: receive("sim", node.endpoint, at, "all", "auto"), "oldest", ())
        with contextlib.closing(resuming), pytest.raises(StreamUnknown):
            eventually(resuming.pump)


def test_while_it_is_away_its_wait_ends_with_what_it_watches_or_when_it_is_due() -> None:
    from usbcast_broker.doorbell import PollableDoorbell

    with serving(rate_hz=1000) as served:
        resuming: ResumingReceiver[Receiver] = ResumingReceiver(
            lambda at: receive("sim", served.endpoint, at, "all", "auto"), "oldest"
        )
        bell = PollableDoorbell()
        with contextlib.closing(bell), contextlib.closing(resuming):
            resuming.watch(bell.fileno())
            eventually(resuming.pump, "it receives")
            fail(resuming)
            resuming.pump()
            assert resuming.trouble == AWAY
            assert 0 < resuming.park_s() <= AGAIN_NS / 1e9
            begun_s = time.monotonic()
            assert not resuming.waiter.wait(0.01)
            bell.ring()
            assert resuming.waiter.wait(DEADLINE_S)
            assert time.monotonic() - begun_s < DEADLINE_S
            resuming.point.resumed()  # not to wait for a second
            resuming.point.failed(time.monotonic_ns() - AGAIN_NS)
            eventually(lambda: resuming.pump() and not resuming.is_away, "it receives again")
            assert resuming.waiter.wait(DEADLINE_S), "the next receiver watches it, too"


@pytest.mark.parametrize("via", ["push", "ring"])
def test_a_wait_for_several_ends_with_what_comes_to_one_of_them(via: str) -> None:
    device = {"rate_hz": 2000, "packets": 100}
    with serving(**device) as quiet, serving(**device) as other, contextlib.ExitStack() as stack:

        def resuming(served: Served) -> ResumingReceiver[Receiver]:
            made = ResumingReceiver(lambda at: receive("sim", served.endpoint, at, "all", via), "oldest")
            return stack.enter_context(contextlib.closing(made))

        both = [resuming(quiet), resuming(other)]
        eventually(lambda: [*map(_take, both)] and all(one.ledger().left == 100 for one in both), "all packets")
        eventually(lambda: wait_for_any(both, 0.01) or not [*map(_take, both)], "both are quiet")
        other.end()
        ended: list[Record] = []
        while not ended:
            wait_for_any(both, DEADLINE_S)
            assert not _take(both[0])
            ended = _take(both[1])
    assert isinstance(ended[-1], Delivery)
    assert ended[-1].batch.end is not None


def _take(resuming: ResumingReceiver[Receiver]) -> list[Record]:
    resuming.pump()
    return list(iter(resuming.take_record, None))

"""The pure parts: the window of what is under way, messages and back, and gaps that are declared from elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usbcast.events import Gap, Restart
from usbcast.jetstream.messages import EPOCH_OVER, Outgoing, batch_message, gap_message, position_after, read
from usbcast.jetstream.names import Names, stream_of
from usbcast.jetstream.window import Window
from usbcast.receiving.continuity import Continuity, Delivery, Position
from usbcast_schemas.batch import Arrivals, EncodedBatch, decode_batch, encode_batch

NAMES = Names("usbcast", "sim")


def batch(number: int, first: int, count: int = 1, epoch: int = 7) -> EncodedBatch:
    arrivals = Arrivals((count,), (5,), (6,)) if count else Arrivals()
    return decode_batch(
        encode_batch(
            epoch=epoch, number=number, first_sequence=first, packet_count=count, packet_size=1,
            payload=[bytes(count)], arrivals=arrivals,
        )
    )  # fmt: skip


def message(number: int, first: int, count: int = 1) -> Outgoing:
    return batch_message(NAMES, batch(number, first, count))


def test_names() -> None:
    assert (NAMES.store, NAMES.batch, NAMES.gap) == ("usbcast-sim", "usbcast.sim.batch", "usbcast.sim.gap")
    assert NAMES.info(0xAB) == "usbcast.sim.info.00000000000000ab"
    assert stream_of(NAMES.info(1)) == "sim"


def test_messages_and_back() -> None:
    one = batch(3, 10, 2)
    made = batch_message(NAMES, one)
    assert (made.message_id, made.body, made.packets) == ("sim/0000000000000007/10/3", bytes(one.raw), 2)
    assert position_after(read(made.subject, made.body)) == made.after == Position(7, 12, 4)

    gap = Gap(12, 19, 8, "ring", "overwritten in the ring")
    for number, position in ((9, Position(7, 20, 9)), (None, Position(7, 20, EPOCH_OVER))):
        stored = gap_message(NAMES, 7, gap, number)
        back = read(stored.subject, stored.body)
        assert position_after(back) == stored.after == position
        assert not isinstance(back, EncodedBatch)
        assert (back.epoch, back.gap, back.next_number) == (7, gap, number)


@given(st.permutations(range(6)), st.integers(0, 6))
def test_whatever_the_order_of_answers_the_position_is_behind_what_is_stored_for_certain(
    order: list[int], answered: int
) -> None:
    window = Window()
    window.begin(Position(7, 0, 0), 40)
    assert [window.add(message(n, 2 * n, 2), n) for n in range(6)] == [41, 42, 43, 44, 45, 46]
    done: set[int] = set()
    for n in order[:answered]:
        assert window.acknowledged(41 + n, duplicate=False) is not None
        done.add(n)
        whole = next(n for n in range(7) if n not in done)
        assert window.position == Position(7, 2 * whole, whole)
    assert (window.ledger.left, window.ledger.held) == (2 * answered, 12 - 2 * answered)
    assert window.ledger.discrepancy() is None

    # The connection is lost; the server turns out to have the first four.
    window.begin(Position(7, 8, 4), 44)
    assert window.empty
    assert window.ledger.discrepancy() is None
    assert window.ledger.held == 0
    assert window.ledger.left == 2 * len(done | {0, 1, 2, 3})
    assert window.add(message(4, 8, 2), 0) == 45


def test_a_window_has_its_bounds() -> None:
    window = Window(most_messages=3, most_bytes=10_000)
    window.begin(None, 0)
    for n in range(3):
        assert window.room
        window.add(message(n, n), 100 + n)
    assert not window.room
    assert window.oldest_sent_ns == 100
    assert window.acknowledged(9, duplicate=False) is None
    assert window.acknowledged(1, duplicate=True) is not None
    assert window.room
    assert window.oldest_sent_ns == 101
    assert window.ledger.counters["was there already"] == 1
    window.add(message(3, 3, 20_000), 0)
    window.acknowledged(2, duplicate=False)
    assert not window.room, "by bytes"


def test_a_gap_is_lost_when_it_is_acknowledged() -> None:
    window = Window()
    window.begin(None, 0)
    window.add(gap_message(NAMES, 7, Gap(0, 9, 10, "ring", "gone"), 4), 0)
    window.add(message(4, 10), 0)
    assert (window.ledger.entered, window.ledger.held) == (11, 11)
    window.acknowledged(1, duplicate=False)
    window.acknowledged(2, duplicate=False)
    assert (window.ledger.left, window.ledger.held, window.ledger.lost) == (1, 0, {"ring: gone": 10})
    assert window.ledger.discrepancy() is None


def test_a_server_that_has_gone_back_is_noticed() -> None:
    window = Window()
    window.begin(Position(7, 0, 0), 0)
    window.add(message(0, 0), 0)
    window.acknowledged(1, duplicate=False)
    window.begin(Position(7, 0, 0), 0)
    assert window.ledger.counters["went back"] == 1


GONE = ("removed by the server's retention", "store")


def core() -> Continuity:
    made = Continuity(can_fetch=False, gone=GONE)
    made.start(7, 0, 0)
    made.live(batch(0, 0, 5))
    return made


def said(made: Continuity) -> list[object]:
    items: list[object] = []
    while made.out:
        item = made.out.popleft()
        items += [*item.gaps, item.batch.number] if isinstance(item, Delivery) else [item]
    return items


def test_a_declared_gap_stands_in_its_place_with_its_own_reason() -> None:
    made = core()
    made.declared(7, Gap(5, 9, 5, "ring", "overwritten in the ring"), 3)
    made.live(batch(3, 10))
    assert said(made) == [0, Gap(5, 9, 5, "ring", "overwritten in the ring"), 3]
    assert made.position == Position(7, 11, 4)


def test_what_is_missing_without_a_declaration_is_gone_from_the_server() -> None:
    made = core()
    made.declared(7, Gap(8, 9, 2, "ring", "overwritten"), 3)
    made.live(batch(5, 12))
    assert said(made) == [
        0,
        Gap(5, 7, 3, "store", GONE[0]),
        Gap(8, 9, 2, "ring", "overwritten"),
        Gap(10, 11, 2, "store", GONE[0]),
        5,
    ]


def test_a_gap_that_comes_again_is_no_gap() -> None:
    made = core()
    for _ in range(2):
        made.declared(7, Gap(5, 9, 5, "ring", "overwritten"), 3)
    made.live(batch(3, 10))
    assert said(made) == [0, Gap(5, 9, 5, "ring", "overwritten"), 3]


def test_a_gap_without_packets_and_one_at_the_end_of_an_epoch() -> None:
    made = core()
    events = Gap(5, 4, 0, "ring", "device events overwritten in the ring")
    made.declared(7, events, 3)
    made.live(batch(3, 5))
    made.declared(7, Gap(6, 7, 2, "ring", "the node went away"), None)
    made.live(batch(0, 0, 1, epoch=8))
    assert said(made) == [0, events, 3, Gap(6, 7, 2, "ring", "the node went away"), Restart(7, 8, 8, 8), 0]


def test_a_gap_wholly_before_the_start_is_not_told() -> None:
    made = Continuity(can_fetch=False, gone=GONE)
    made.start(7, 20)
    made.declared(7, Gap(0, 9, 10, "ring", "overwritten"), 3)
    made.live(batch(3, 10, 5))
    made.live(batch(4, 15, 10))
    assert said(made) == [4]
    assert made.first_sequence == 20

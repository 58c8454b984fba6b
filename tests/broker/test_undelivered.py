"""Answers that wait for room: order, bounds and patience. Times are handed in."""

from __future__ import annotations

from collections.abc import Sequence

from usbcast_broker.serving.outbox import KEPT_NS, MAX_ANSWERS, MAX_BYTES, MAX_CLIENTS, MAX_TOTAL_BYTES, Outbox


def test_what_waits_goes_in_order_as_there_is_room() -> None:
    room = 2
    sent: list[bytes] = []

    def send(client: bytes, frames: Sequence[bytes]) -> bool:
        if len(sent) >= room:
            return False
        sent.append(frames[1])
        return True

    outbox: Outbox[bytes] = Outbox()
    assert not outbox
    for n in range(5):
        assert outbox.keep(b"a", [b"a", b"%d" % n], 0)
    assert outbox.waits(b"a")
    assert not outbox.waits(b"b")
    assert outbox.retry(send, 1) == 0
    assert (sent, bool(outbox)) == ([b"0", b"1"], True)
    room = 5
    assert outbox.retry(send, 2) == 0
    assert (sent, bool(outbox)) == ([b"0", b"1", b"2", b"3", b"4"], False)


def test_one_that_takes_nothing_keeps_nobody_waiting() -> None:
    outbox: Outbox[bytes] = Outbox()
    outbox.keep(b"slow", [b"slow"], 0)
    outbox.keep(b"quick", [b"quick"], 0)
    sent = []

    def send(client: bytes, frames: Sequence[bytes]) -> bool:
        if client == b"quick":
            sent.append(frames)
        return client == b"quick"

    assert outbox.retry(send, 1) == 0
    assert (len(sent), outbox.waits(b"slow"), outbox.waits(b"quick")) == (1, True, False)
    outbox.keep(b"slow", [b"slow"], KEPT_NS)
    assert outbox.retry(send, KEPT_NS + 1) == 1, "the older of the two"
    assert outbox.waits(b"slow")


def test_what_is_urgent_goes_first() -> None:
    outbox: Outbox[bytes] = Outbox()
    for n in range(MAX_ANSWERS):
        outbox.keep(b"a", [b"a", b"%d" % n], 0)
    assert not outbox.keep(b"a", [b"a", b"late"], 0)
    assert outbox.keep(b"a", [b"a", b"urgent"], 0, first=True)
    sent: list[bytes] = []

    def send(client: bytes, frames: Sequence[bytes]) -> bool:
        sent.append(frames[1])
        return True

    outbox.retry(send, 1)
    assert sent[:2] == [b"urgent", b"0"]
    assert len(sent) == MAX_ANSWERS + 1


def test_everything_is_bounded() -> None:
    outbox: Outbox[bytes] = Outbox()
    assert not outbox.keep(b"large", [bytes(MAX_BYTES + 1)], 0)
    assert outbox.keep(b"bytes", [bytes(MAX_BYTES)], 0)
    assert not outbox.keep(b"bytes", [b"x"], 0)
    for _ in range(MAX_ANSWERS):
        assert outbox.keep(b"many", [b""], 0)
    assert not outbox.keep(b"many", [b""], 0)
    for n in range(MAX_CLIENTS - 2):
        assert outbox.keep(b"%d" % n, [b""], 0)
    assert not outbox.keep(b"one more", [b""], 0)


def test_all_together_are_bounded() -> None:
    outbox: Outbox[bytes] = Outbox()
    kept = sum(outbox.keep(b"%d" % n, [bytes(MAX_BYTES)], 0) for n in range(MAX_CLIENTS))
    assert kept == MAX_TOTAL_BYTES // MAX_BYTES
    assert outbox.retry(lambda client, _: client == b"3", 1) == 0
    assert outbox.keep(b"another", [bytes(MAX_BYTES)], 1), "there is room again"
    assert outbox.retry(lambda *_: False, KEPT_NS + 1) == kept - 1
    assert outbox.retry(lambda *_: False, KEPT_NS + 2) == 1
    assert not outbox

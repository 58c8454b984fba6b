"""Doorbells: a ring is never lost, and many rings are one."""

from __future__ import annotations

import select
import threading

from usbcast_broker.doorbell import Doorbell, PollableDoorbell


def test_rings_before_the_wait_are_heard_once() -> None:
    bell = Doorbell()
    assert not bell.wait(0)
    for _ in range(3):
        bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0.001)
    assert not bell.wait(-5)


def test_a_ring_wakes_who_waits() -> None:
    bell = Doorbell()
    heard = []
    waiting = threading.Thread(target=lambda: heard.append(bell.wait(10)))
    waiting.start()
    bell.ring()
    waiting.join(10)
    assert heard == [True]


def test_no_ring_is_lost_between_two_threads() -> None:
    """Each side answers the other's ring; a lost one would show as a wait that times out."""
    there, back = Doorbell(), Doorbell()
    rounds = 2000
    lost = []

    def answer() -> None:
        for n in range(rounds):
            if not there.wait(5):
                lost.append(n)
            back.ring()

    thread = threading.Thread(target=answer)
    thread.start()
    for n in range(rounds):
        there.ring()
        if not back.wait(5):
            lost.append(n)
    thread.join(5)
    assert lost == []


def test_a_pollable_one_is_readable_until_it_is_quiet() -> None:
    bell = PollableDoorbell()
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    bell.ring()
    bell.ring()
    assert len(poll.poll(1000)) == 1
    bell.quiet()
    assert poll.poll(0) == []
    bell.quiet()
    bell.close()


def test_a_full_pipe_and_a_closed_one_are_no_errors() -> None:
    bell = PollableDoorbell()
    for _ in range(70_000):
        bell.ring()
    while select.select([bell.fileno()], [], [], 0)[0]:
        bell.quiet()
    bell.ring()
    assert select.select([bell.fileno()], [], [], 1)[0]
    bell.close()

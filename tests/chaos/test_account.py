"""The account itself: it finds each kind of fault, and nothing where there is none."""

from __future__ import annotations

import pytest

from tests.chaos.account import Log, Loss, Run, check, check_device, check_together
from tests.chaos.plan import make_plan


def log(*runs: Run, losses: tuple[Loss, ...] = (), events: tuple[dict[str, object], ...] = ()) -> Log:
    return Log("reader", list(runs), list(losses), list(events), complete=True)


def test_a_whole_stream_adds_up() -> None:
    whole = log(Run(1, 0, 0, 10), Run(1, 10, 13, 5), losses=(Loss(1, 10, 9, 3, "device", False, 1),))
    assert check(whole) == []
    assert check_device(whole, {"epoch": 1, "made": 18, "ended": True}) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (log(Run(1, 0, 0, 10), Run(1, 12, 12, 5)), "UNSAID: sequences 10 to 11"),
        (log(Run(1, 0, 0, 10), Run(1, 8, 8, 5)), "TWICE: sequences 8 to 9"),
        (log(Run(1, 0, 0, 10), Run(1, 10, 14, 5)), "the counter jumped by 4 at sequence 10"),
        (log(Run(1, 0, 0, 10), Run(1, 10, 3, 5)), "the counter fell from 10 to 3"),
        (log(Run(1, 5, 5, 5), Run(1, 0, 0, 5)), "out of order"),
        (
            log(Run(1, 0, 0, 10), Run(1, 10, 14, 5), losses=(Loss(1, 10, 9, 5, "device", True, 1),)),
            "5 were declared lost at least",
        ),
        (log(Run(1, 0, 0, 10), losses=(Loss(1, 10, 12, 2, "ring", False, 1),)), "a gap says 2 packets"),
        (log(Run(1, 0, 0, 10), events=({"kind": "end", "epoch": 1, "packets": 12, "at": 1},)), "ended with 12 packets"),
    ],
)
def test_what_does_not_add_up_is_found(broken: Log, said: str) -> None:
    assert any(said in problem for problem in check(broken))


def test_a_packet_that_the_device_made_and_nobody_speaks_of_is_found() -> None:
    (problem,) = check_device(log(Run(1, 0, 0, 10)), {"epoch": 1, "made": 11, "ended": True})
    assert "1 are missing" in problem
    (problem,) = check_device(log(Run(1, 5, 7, 10)), {"epoch": 1, "made": 18, "ended": True})
    assert "of 11 packets" in problem


def test_two_subscribers_that_got_different_packets_under_one_sequence_are_found() -> None:
    one, other = log(Run(1, 0, 0, 10)), Log("other", [Run(1, 5, 6, 2)])
    (problem,) = check_together([one, other])
    assert "sequence 5" in problem
    assert check_together([one, Log("other", [Run(1, 5, 5, 20)])]) == []


def test_a_seed_gives_the_same_plan_again() -> None:
    assert make_plan(7, 30, stores=True, steps_clock=True) == make_plan(7, 30, stores=True, steps_clock=True)
    assert make_plan(7, 30, stores=True, steps_clock=True) != make_plan(8, 30, stores=True, steps_clock=True)

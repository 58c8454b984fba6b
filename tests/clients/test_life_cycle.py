"""The states of a subscription: each can be left, none is slept through, and whatever comes when, deadlines are kept."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from usbcast.receiving.life_cycle import (
    DESCRIBE_NS,
    JOINING_NS,
    LOOK_AGAIN_NS,
    REPORT_NS,
    RETRY_NS,
    SILENCE_NS,
    TRANSITIONS,
    Change,
    Connection,
    Description,
    LifeCycle,
    Sign,
    State,
)

MS = 1_000_000
FAR_NS = 10**18
STATES: list[State] = [*Connection, *Description, *Sign]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_no_state_without_a_way_out(state: State) -> None:
    assert any(after is not state for after in TRANSITIONS[state].values())
    assert any(state is after for before in STATES if before is not state for after in TRANSITIONS[before].values())


@pytest.mark.parametrize("state", STATES, ids=str)
def test_no_way_leads_into_another_machine(state: State) -> None:
    assert {type(after) for after in TRANSITIONS[state].values()} <= {type(state)}


@pytest.mark.parametrize("change", Change, ids=str)
def test_all_that_happens_concerns_one_machine(change: Change) -> None:
    assert len({type(state) for state, row in TRANSITIONS.items() if change in row}) == 1


def described(now_ns: int = 0) -> LifeCycle:
    life = LifeCycle(now_ns)
    life.describing.asked(1, now_ns)
    life.answered_ns = now_ns
    life.describing.described()
    return life


def test_a_description_is_due_at_the_beginning() -> None:
    life = LifeCycle(5)
    assert life.describing.may_ask(5)
    assert not life.is_calm
    assert life.due_ns(5) <= 5


def test_an_address_that_is_not_found_is_looked_up_again_soon() -> None:
    life = LifeCycle(0)
    life.describing.not_found(0)
    assert not life.describing.may_ask(LOOK_AGAIN_NS - 1)
    assert life.due_ns(0) == LOOK_AGAIN_NS
    assert life.describing.may_ask(LOOK_AGAIN_NS)


def test_a_description_that_does_not_come_is_asked_for_again_and_waited_for_longer() -> None:
    life, now_ns, waits = LifeCycle(0), 0, []
    for number in range(4):
        assert life.describing.may_ask(now_ns)
        life.describing.asked(number, now_ns)
        assert life.describing.is_answer(number)
        assert not life.describing.is_answer(number + 1)
        assert not life.describing.may_ask(now_ns + DESCRIBE_NS[1])
        due_ns = life.due_ns(FAR_NS)
        assert not life.describing.is_overdue(due_ns - 1)
        assert life.describing.is_overdue(due_ns)
        waits.append(due_ns - now_ns)
        now_ns = life.due_ns(FAR_NS)
        assert RETRY_NS[0] << number <= now_ns - due_ns < (RETRY_NS[0] << number) * 3 // 2
    assert waits == [1500 * MS, 3000 * MS, 4000 * MS, 4000 * MS]
    life.describing.asked(9, now_ns)
    life.describing.described()
    life.describing.doubt(now_ns)
    life.describing.asked(10, now_ns)
    assert life.due_ns(now_ns) == now_ns + DESCRIBE_NS[0]


@pytest.mark.parametrize("after", ["success", "description", "doubt"])
def test_pauses_double_up_to_a_bound_and_begin_anew_when_something_went_well(
    after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.randrange", lambda _: 0)  # nothing is added at random
    describing = described().describing if after == "doubt" else LifeCycle(0).describing
    grown = [describing.back_off_ns() for _ in range(30)]
    assert grown == [min(RETRY_NS[0] << n, RETRY_NS[1]) for n in range(30)]
    if after == "success":
        describing.went_well()
    elif after == "doubt":
        describing.doubt(0)
    else:
        describing.asked(1, 0)
        describing.described()
    assert describing.back_off_ns() == RETRY_NS[0]


def test_a_description_that_is_refused_is_asked_for_again_after_a_pause() -> None:
    describing = LifeCycle(0).describing
    assert not describing.is_answer(-1)
    describing.asked(4, 0)
    assert describing.is_answer(4)
    assert not describing.is_answer(5)
    describing.refused(10)
    assert not describing.is_answer(4)
    due_ns = describing.due_ns()
    assert due_ns is not None
    assert 10 + RETRY_NS[0] <= due_ns < 10 + RETRY_NS[0] * 3 // 2
    assert [describing.may_ask(due_ns + late) for late in (-1, 0, 1)] == [False, True, True]


def test_when_there_is_something_to_do() -> None:
    life = described(0)
    assert life.describing.due_ns() is None
    assert life.due_ns(5) == 5 + SILENCE_NS, "nothing is reported without a channel"
    life.connected()
    life.joined()
    assert life.due_ns(5) == 0
    assert life.may_report(0)
    assert life.due_ns(5) == min(REPORT_NS, 5 + SILENCE_NS)
    assert life.calm_until_ns(5) == min(REPORT_NS, 5 + SILENCE_NS)
    assert [life.may_report(ns) for ns in (REPORT_NS - 1, REPORT_NS, REPORT_NS)] == [False, True, False]
    life.describing.doubt(3)
    assert life.due_ns(5) == 3
    assert not life.is_calm


@pytest.mark.parametrize(("quiet_ns", "silent"), [(0, False), (SILENCE_NS - 1, False), (SILENCE_NS, True)])
def test_silence_begins_at_its_bound(quiet_ns: int, silent: bool) -> None:
    life = described(0)
    assert life.listen(7, 7 + quiet_ns) == silent
    assert life.is_silent == silent
    assert life.is_calm != silent


def test_a_dropped_link_has_the_description_asked_for_at_once() -> None:
    life = LifeCycle(0)
    life.describing.asked(1, 0)
    life.describing.dropped(7)
    assert life.describing.may_ask(7)
    assert not life.describing.is_answer(1)
    known = described()
    known.describing.dropped(7)
    assert known.describing.state is Description.KNOWN


def test_doubt_brings_no_question_forward_that_waits_for_its_turn() -> None:
    life = LifeCycle(0)
    life.describing.asked(1, 0)
    life.describing.refused(0)
    life.describing.doubt(0)
    assert not life.describing.may_ask(RETRY_NS[0] - 1)
    known = described()
    known.describing.doubt(20)
    assert not known.describing.may_ask(19)
    assert known.describing.may_ask(20)


def test_reports_of_a_joining_subscription_come_at_growing_distances_and_then_once_a_second() -> None:
    life = LifeCycle(0)
    assert not life.may_report(0)
    life.connected()
    now_ns, distances = 0, []
    for _ in range(12):
        assert life.may_report(now_ns)
        assert not life.may_report(now_ns)
        due_ns = life.calm_until_ns(now_ns + 10 * SILENCE_NS)
        distances.append(due_ns - now_ns)
        now_ns = due_ns
    assert distances == [min(JOINING_NS << at, REPORT_NS) for at in range(12)]
    joining = LifeCycle(0)
    joining.connected()
    assert joining.may_report(0)
    joining.joined()
    assert joining.may_report(JOINING_NS)
    assert not joining.may_report(JOINING_NS + REPORT_NS - 1)
    assert joining.may_report(JOINING_NS + REPORT_NS)


def test_silence_begins_once_puts_the_description_in_doubt_and_ends() -> None:
    life = described()
    life.connected()
    assert life.is_calm
    assert not life.listen(0, SILENCE_NS - 1)
    assert life.listen(0, SILENCE_NS)
    assert life.is_silent
    assert life.describing.may_ask(SILENCE_NS)
    assert not life.listen(0, SILENCE_NS + 1)
    assert not life.listen(SILENCE_NS, SILENCE_NS + 2)
    assert not life.is_silent


def test_a_calm_subscription_looks_up_for_its_report_or_for_silence() -> None:
    life = described()
    life.connected()
    life.joined()
    assert life.may_report(5 * SILENCE_NS)
    assert life.calm_until_ns(5 * SILENCE_NS) == life.due_ns(5 * SILENCE_NS) == 5 * SILENCE_NS + REPORT_NS
    assert life.calm_until_ns(MS) == life.due_ns(MS) == SILENCE_NS + MS


def test_the_silence_of_an_upstream_is_told_once() -> None:
    life = described()
    assert [life.listen_upstream(silent_ns) for silent_ns in (0, 5, 9, 0, 5)] == [False, True, False, False, True]


class Lived(RuleBasedStateMachine):
    """A subscription as the receiver leads it, on a clock of its own, to which anything may happen at any time."""

    @initialize()
    def begin(self) -> None:
        self.now_ns = 0
        self.life = LifeCycle(0)
        self.heard_ns = 0
        self.requests = 0
        self.silences: list[bool] = []
        self.asked_ns = self.reported_ns = 0
        self.turn()

    def turn(self) -> None:
        """What the receiver does at each look."""
        if self.life.listen(max(self.heard_ns, self.life.answered_ns), self.now_ns):
            assert not self.silences or not self.silences[-1], "silence is told once"
            self.silences.append(True)
        elif not self.life.is_silent and self.silences and self.silences[-1]:
            self.silences.append(False)
        self.life.describing.is_overdue(self.now_ns)
        if self.life.describing.may_ask(self.now_ns):
            self.requests += 1
            self.life.describing.asked(self.requests, self.now_ns)
            self.asked_ns = self.now_ns
        if self.life.may_report(self.now_ns):
            self.reported_ns = self.now_ns

    def due_ns(self) -> int:
        return self.life.due_ns(max(self.heard_ns, self.life.answered_ns))

    @rule(wait_ms=st.integers(0, 400))
    def time_passes(self, wait_ms: int) -> None:
        """The receiver sleeps until something is due, as often as it has to."""
        until_ns = self.now_ns + wait_ms * MS
        while (due_ns := self.due_ns()) < until_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.turn()
            assert self.due_ns() > self.now_ns, "what was due is done"
        self.now_ns = until_ns
        self.turn()

    @rule()
    def long_time_passes(self) -> None:
        self.time_passes(4000)

    @precondition(lambda self: self.life.describing.state is Description.ASKED)
    @rule(of_use=st.booleans())
    def an_answer_comes(self, of_use: bool) -> None:
        assert self.life.describing.is_answer(self.requests)
        if not of_use:
            self.life.describing.refused(self.now_ns)
            return
        self.life.answered_ns = self.now_ns
        self.life.connected()
        self.life.describing.described()
        self.turn()

    @precondition(lambda self: self.life.connection is not Connection.SEEKING)
    @rule()
    def a_message_comes(self) -> None:
        self.heard_ns = self.now_ns
        self.life.joined()
        self.turn()

    @rule()
    def a_channel_is_given_up(self) -> None:
        self.life.lost()

    @rule(later_ms=st.sampled_from([0, 20]))
    def there_is_doubt(self, later_ms: int) -> None:
        self.life.describing.doubt(self.now_ns + later_ms * MS)
        self.turn()

    @rule()
    def the_link_is_dropped(self) -> None:
        self.life.describing.dropped(self.now_ns)
        self.turn()

    @invariant()
    def something_is_due_within_four_seconds(self) -> None:
        assert self.due_ns() - self.now_ns <= DESCRIBE_NS[1]

    @invariant()
    def a_silent_node_is_asked(self) -> None:
        if self.life.is_silent:
            assert self.life.describing.state is not Description.KNOWN
            assert self.now_ns - self.asked_ns <= DESCRIBE_NS[1] + 2 * RETRY_NS[1]

    @invariant()
    def silence_is_noticed(self) -> None:
        silent = self.now_ns - max(self.heard_ns, self.life.answered_ns) >= SILENCE_NS
        assert self.life.is_silent == silent

    @invariant()
    def a_connected_subscription_reports(self) -> None:
        if self.life.connection is Connection.LIVE:
            assert self.life.calm_until_ns(self.now_ns) - self.now_ns <= REPORT_NS


Lived.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLived = Lived.TestCase

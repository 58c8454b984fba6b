"""Admission by itself: libzmq's questions, the answers, and who may do what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_broker.access.admission import ADMITTED, Admission, answer, parse_question
from usbcast_broker.access.refusals import MAX_NAMED, Refusals
from usbcast_schemas.errors import WireError
from usbcast_schemas.keys import ClientKey, KeyPair, Rights, key_text, short_text

NODE, ALICE, BOB, EVE, GONE = (bytes([n]) * 32 for n in range(1, 6))
ADMISSION = Admission(
    KeyPair(NODE, bytes(32), "lab"),
    {
        ALICE: ClientKey(ALICE, "alice", Rights.READ),
        BOB: ClientKey(BOB, "bob", Rights.COMMAND),
        GONE: ClientKey(GONE, "gone", Rights.NONE),
    },
)


def question(mechanism: bytes = b"CURVE", *credentials: bytes) -> list[bytes]:
    return [b"1.0", b"7", b"usbcast", b"10.0.0.5", b"", mechanism, *credentials]


def test_who_comes_in() -> None:
    entered = {key: ADMISSION.may_enter(b"CURVE", key) for key in (NODE, ALICE, BOB, EVE, GONE)}
    reasons = {key: refusal.reason if refusal else "" for key, refusal in entered.items()}
    assert reasons == {NODE: "", ALICE: "", BOB: "", EVE: "key not allowed", GONE: "key revoked"}
    refusal = entered[EVE]
    assert refusal is not None
    assert f"usbcast keys allow {key_text(EVE)}" in refusal.sentence
    assert (refused := ADMISSION.may_enter(b"NULL", b"")) is not None
    assert refused.reason == "no key"
    assert Admission().may_enter(b"NULL", b"") is None


def test_who_may_ask_what() -> None:
    kinds = ("describe", "fetch", "clock", "health", "report", "command")
    may = {
        key: [kind for kind in kinds if ADMISSION.may_ask(key_text(key), kind) is None]
        for key in (NODE, ALICE, BOB, EVE)
    }
    assert may == {NODE: [*kinds], ALICE: [*kinds[:-1]], BOB: [*kinds], EVE: []}
    refusal = ADMISSION.may_ask(key_text(ALICE), "command")
    assert refusal is not None
    assert refusal.who == f"key {short_text(ALICE, 'alice')}"
    assert Admission().may_ask("", "command") is None


def test_who_lost_the_right_to_read() -> None:
    later = Admission(KeyPair(NODE, bytes(32), "lab"), {ALICE: ClientKey(ALICE, "alice", Rights.COMMAND)})
    assert [client.name for client in ADMISSION.lost_to(later)] == ["bob"]
    assert ADMISSION.lost_to(ADMISSION) == []


def test_the_answer_to_a_question() -> None:
    asked = parse_question(question(b"CURVE", ALICE))
    assert (asked.address, asked.key) == ("10.0.0.5", ALICE)
    assert answer(asked, ADMITTED) == [b"1.0", b"7", b"200", b"", key_text(ALICE).encode(), b""]
    assert answer(asked, b"400", "no") == [b"1.0", b"7", b"400", b"no", b"", b""]


frames = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"1.0", b"CURVE", b"NULL", b"PLAIN", ALICE, EVE])), max_size=9
)


@given(st.one_of(frames, st.builds(question, st.binary(max_size=40), st.binary(max_size=40))))
def test_no_question_lets_in_a_stranger(asked: list[bytes]) -> None:
    """It parses, or it is a WireError; and only an allowed key comes in."""
    try:
        parsed = parse_question(asked)
    except WireError:
        return
    refusal = ADMISSION.may_enter(parsed.mechanism, parsed.key)
    assert (refusal is None) == (parsed.mechanism == b"CURVE" and parsed.key in (NODE, ALICE, BOB))
    assert len(answer(parsed, ADMITTED)) == 6


def test_peers_are_named_once_and_remembered_within_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for n in range(3 * MAX_NAMED):
        for _ in range(2):
            refusals.refuse("no key", f"10.0.{n // 256}.{n % 256}", "no key")
    assert refusals.by_reason() == {"no key": 6 * MAX_NAMED}
    assert len(caplog.records) == 3 * MAX_NAMED
    assert len(refusals._seen) == MAX_NAMED


def test_what_is_tolerated_is_counted_and_named_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    named = []
    for _ in range(5):
        refusals.refuse("left", "10.0.0.1", "it leaves", tolerated=2)
        named.append(len(caplog.records))
    assert named == [0, 0, 1, 1, 1]
    assert refusals.by_reason() == {"left": 5}

"""Every wait of the product, where nobody answers: it ends at its deadline and at a signal, and does not spin meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.waits import OWN_S, WAITS, cases, run


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", WAITS)
def test_a_wait_ends_at_its_deadline_and_at_a_signal(name: str) -> None:
    wanted = list(cases([name]))
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = dict(zip(wanted, pool.map(lambda case: run(*case), wanted), strict=True))
    assert [f"{case}: {ended.wrong}" for case, ended in found.items() if ended.wrong] == []


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.parametrize("kind", ["nobody", "silent", "closing"])
def test_a_subscription_gives_up_although_an_event_waits_to_be_taken(kind: str) -> None:
    """The shortest of the deadlines at which it used to wait for ever: silence is told after 3 s."""
    ended = run("ready", kind, 3.5)
    assert ended.wrong == ""


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_watch_ends_when_told_to(number: str) -> None:
    assert run("usbcast watch", "silent", OWN_S, number).wrong == ""

"""The books: each stage is broken on purpose, and they name exactly that stage; what is lost with a reason balances."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.nodes import Account, Served, eventually, quick_profile, serving, small, take_to_end, take_until
from usbcast import Gap
from usbcast_broker.flow import EMPTY, Transfer
from usbcast_broker.sources.simulator import Fault, SimulatorConfig
from usbcast_broker.stream.host_queue import QUEUE_FULL
from usbcast_schemas.ledger import Ledger


class Once:
    """Puts a function in the place of another for one call that does something; the others go through."""

    def __init__(self, owner: Any, name: str, instead: Callable[..., Any]) -> None:
        self._real = getattr(owner, name)
        self._instead = instead
        self.struck = False
        setattr(owner, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not self.struck:
            answer = self._instead(self._real, *arguments, **named)
            self.struck = answer is not ...
            if self.struck:
                return answer
        return self._real(*arguments, **named)


def lose_a_transfer_before_the_queue(served: Served) -> Once:
    def extend(real: Any, items: Any) -> Any:
        return real(items[1:]) if isinstance(items[0], Transfer) else ...

    return Once(served.pipeline._queue, "extend", extend)


def lose_a_transfer_in_the_queue(served: Served) -> Once:
    queue = served.pipeline._queue

    def extend(real: Any, items: Any) -> Any:
        if not isinstance(items[0], Transfer):
            return ...
        with queue._lock:
            queue.ledger.enter(len(items[0].data))
        return real(items[1:])

    return Once(queue, "extend", extend)


def lose_what_was_taken_from_the_queue(served: Served) -> Once:
    def take(real: Any, max_bytes: int) -> Any:
        items = real(max_bytes)
        kept = [item for item in items if not isinstance(item, Transfer)]
        return kept if len(kept) < len(items) else (items or ...)

    return Once(served.pipeline._queue, "take", take)


def lose_a_packet_in_the_framer(served: Served) -> Once:
    def feed(real: Any, data: bytes) -> Any:
        real(data)
        return EMPTY

    return Once(served.pipeline._assembler._framer, "feed", feed)


def lose_a_packet_behind_the_framer(served: Served) -> Once:
    def feed(real: Any, transfer: Transfer) -> Any:
        real(transfer)
        return ()

    return Once(served.pipeline._assembler, "feed", feed)


def lose_a_batch(served: Served) -> Once:
    def flush(real: Any) -> Any:
        real()
        return None

    return Once(served.pipeline._batcher, "flush", flush)


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lose_a_transfer_before_the_queue, ["bytes read from the device is .* but bytes entered at stage host is"]),
        (lose_a_transfer_in_the_queue, ["stage host: .* 112 missing"]),
        (lose_what_was_taken_from_the_queue, ["bytes out of stage host is .* but bytes into stage framing is"]),
        (lose_a_packet_in_the_framer, ["stage framing: .* 112 missing"]),
        (lose_a_packet_behind_the_framer, ["packets out of stage device is .* but packets into stage outlet is"]),
        (lose_a_batch, ["stage outlet: .* missing", "packets out of stage outlet is .* but sequences given is"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_stage_that_loses_without_a_word_is_named(break_it: Callable[[Served], Once], named: list[str]) -> None:
    with serving(rate_hz=500) as served:
        served.wait_published(20)
        (health,) = served.node.health()
        assert list(health.discrepancies) == []
        broken = break_it(served)
        eventually(lambda: broken.struck)
        served.wait_published(served.published + 20)
        (health,) = served.node.health()
        for sentence, pattern in zip(health.discrepancies, named, strict=True):
            assert re.match(pattern, sentence)


def test_an_outlet_that_does_not_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(rate_hz=500) as served:
        served.wait_published(20)
        stored = served.published
        monkeypatch.setattr(served.pipeline.outlet, "store", lambda _: None)

        def sentence() -> str:
            (health,) = served.node.health()
            return next(iter(health.discrepancies), "")

        assert eventually(sentence).startswith("packets out of stage outlet is ")
        assert served.published - stored < 10
        assert sentence().endswith(f" but sequences given is {served.published}")


@pytest.mark.slow
def test_a_subscription_that_loses_without_a_word_is_named() -> None:
    with serving(rate_hz=500) as served, served.subscribe("push") as subscription:
        account = Account()
        take_until(subscription, account, lambda: account.delivered > 20)
        assert subscription.ledger.discrepancy() is None
        core = subscription._receiver._core
        while not core.out:
            subscription._receiver.pump()
        lost = core.out.popleft().batch.packet_count
        for _ in range(5):
            subscription.receive(1)
        said = subscription.ledger.discrepancy()
        assert said is not None
        assert said.startswith("stage subscription: ")
        assert said.endswith(f"{lost} missing")


@pytest.mark.parametrize("via", ["push", "notify", "ring"])
def test_what_the_host_had_no_room_for_is_counted_and_declared_at_its_place(via: str) -> None:
    settings = small(host_queue_size=64 * 1024, ring_size=16 * 1024 * 1024, ring_slots=65536)
    device = {"rate_hz": 20_000, "packets": 30_000, "transfer_size": 1120}
    # Each read is one transfer, whatever the rate: a lost read is then whole packets, and framing loses none itself.
    profile = quick_profile(SimulatorConfig(**device), "sim", "latency_ms = 0")
    with serving(profile=profile, **device, settings=settings, ends=True) as served:
        served.wait_published(500)
        with served.node._publisher._turning:  # whoever frames and publishes is held up
            eventually(lambda: served.pipeline._queue.ledger.lost_total > 100_000)
        account = take_to_end("events", served, via, begin=0, start=0)
        # A machine that is busy with other things may be late for the device too, whose counter then shows that.
        here = [gap for gap in account.gaps if (gap.stage, gap.reason) != ("device", "counter")]
        assert {(gap.stage, gap.reason) for gap in here} == {("host", QUEUE_FULL)}
        lost = sum(gap.count for gap in here)
        assert sum(gap.size_bytes for gap in here) == lost * 112 > 100_000
        assert account.delivered + account.lost_earlier == served.device.produced == 30_000
        (health,) = served.node.health()
        assert list(health.discrepancies) == []
        ledgers = {ledger.stage: Ledger.from_proto(ledger) for ledger in health.ledgers}
        assert ledgers["host"].lost == {QUEUE_FULL: served.pipeline._queue.ledger.lost_total}
        assert ledgers["device"].lost == {"host": lost}
        assert ledgers["outlet"].left == account.delivered


def test_what_the_host_had_no_room_for_at_the_very_end_is_counted_in_packets() -> None:
    settings = small(host_queue_size=64 * 1024)
    with serving(rate_hz=20_000, packets=3000, transfer_size=1120, settings=settings, ends=True) as served:
        served.wait_published(100)
        with served.node._publisher._turning:  # until the device has no more: what comes next is the end
            assert served.device.exhausted.wait(20)
            queue = served.pipeline._queue
            eventually(lambda: queue.ledger.entered == 3000 * 112)
        account = take_to_end("events", served, "push", begin=0, start=0)
        assert isinstance(account.events[-2], Gap), "nothing was delivered behind it"
        assert account.delivered + account.lost_earlier == served.device.produced == 3000
        (health,) = served.node.health()
        assert list(health.discrepancies) == []
        ledgers = {ledger.stage: Ledger.from_proto(ledger) for ledger in health.ledgers}
        assert (ledgers["device"].entered, ledgers["device"].lost) == (3000, {"host": 3000 - account.delivered})


def test_packets_lost_in_the_device_are_in_its_books() -> None:
    faults = (Fault(kind="drop", at_packet=50, count=9), Fault(kind="garbage", at_packet=80, bytes=20))
    with serving(rate_hz=1000, packets=150, faults=faults, ends=True) as served:
        account = take_to_end("events", served, "push", begin=0, start=0)
        (health,) = served.node.health()
        ledgers = {ledger.stage: Ledger.from_proto(ledger) for ledger in health.ledgers}
        assert list(health.discrepancies) == []
        assert (ledgers["device"].entered, ledgers["device"].left) == (150, 141)
        assert ledgers["device"].lost == {"counter": 9}
        assert sum(ledgers["framing"].lost.values()) == 20
        assert [gap for gap in account.gaps if gap.count] == [Gap(50, 49, 9, "device", "counter")]


def test_the_books_balance_at_every_moment() -> None:
    """Asked while packets are under way through every stage."""
    with serving(rate_hz=20_000) as served:
        seen = []
        while served.published < 30_000:
            (health,) = served.node.health()
            assert list(health.discrepancies) == []
            seen.append(next(ledger.left for ledger in health.ledgers if ledger.stage == "outlet"))
        assert len(set(seen)) > 20
        assert seen == sorted(seen)

"""Subscriptions as an application uses them: what may be asked for, how they end, and what they say when nothing comes."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import usbcast
import usbcast.aio
import usbcast.subscription
from tests.support.fake_node import STREAM, FakeNode
from tests.support.nodes import DEADLINE_S, Account, Served, eventually, serving, small, take_until
from tests.support.programs import Program
from usbcast import Batch, End, Event, UsageError
from usbcast.receiving.channels.published import data_endpoint
from usbcast_broker.stream.notification_schedule import NotificationPacer
from usbcast_broker.stream.pipeline import Publish
from usbcast_schemas.batch import Buffer
from usbcast_schemas.contract import CONTRACT, DEFAULT_ENDPOINT
from usbcast_schemas.errors import CommandFailed, NodeUnreachable, RingUnavailable, StreamUnknown
from usbcast_schemas.v1 import usbcast_pb2 as pb

NOWHERE = "tcp://127.0.0.1:9"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(rate_hz=500) as found:
        yield found


@pytest.mark.parametrize(
    ("stream", "options", "sentence"),
    [
        ("IMU", {}, "'IMU' is not a stream name: use 1 to 64 of a-z"),
        ("imu", {"via": "pull"}, "via is 'pull': one of auto, push, notify, ring is allowed"),
        ("imu", {"deliver": "some"}, "deliver is 'some': one of all, latest is allowed"),
        ("imu", {"start": "then"}, "start is 'then': 'now', 'oldest' or a sequence from 0 to 18446744073709551615"),
        ("imu", {"start": -1}, "start is -1: 'now'"),
        ("imu", {"start": 2**64}, "start is 18446744073709551616: 'now', 'oldest' or a sequence from 0 to"),
        ("imu", {"start": True}, "start is True: 'now'"),
        ("imu", {"start": 1.5}, "start is 1.5: 'now'"),
    ],
)
def test_what_cannot_be_asked_for(stream: str, options: dict[str, object], sentence: str) -> None:
    for subscribe in (usbcast.subscribe, usbcast.aio.subscribe):
        with pytest.raises(UsageError) as caught:
            subscribe(stream, NOWHERE, **options)  # type: ignore[arg-type]
        assert str(caught.value).startswith(sentence)


def test_an_address_that_is_none() -> None:
    with usbcast.subscribe("imu", "localhost:5570") as subscription, pytest.raises(UsageError, match="not an endpoint"):
        subscription.ready()


def test_without_a_node_nothing_comes_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usbcast.subscription, "CONNECT_TIMEOUT_S", 0.2)
    with usbcast.subscribe("imu", NOWHERE) as subscription:
        begun = time.monotonic()
        assert not subscription.ready(0.2)
        assert subscription.receive(0.1) is None
        assert list(subscription.events(0.1)) == []
        with pytest.raises(NodeUnreachable, match=f"no node with stream 'imu' answered at {NOWHERE} within 0.2 s"):
            _ = subscription.info
        assert time.monotonic() - begun < 5
        assert (subscription.via, subscription.ledger.entered, subscription.lag_ns) == ("auto", 0, 0)


@pytest.mark.slow
def test_who_iterates_where_no_node_is_is_told_what_is_looked_for_and_how_to_start_it() -> None:
    """Without a word it would look as if the stream were still; so there is one line, and it goes on."""
    program = "import sys, usbcast\nfor batch in usbcast.subscribe('imu', sys.argv[1]): print(batch)"
    with Program([sys.executable, "-c", program, NOWHERE]) as waiting:
        eventually(lambda: waiting.err, "a warning")
        time.sleep(4)  # as long again: it is said once
        assert waiting.running
        assert len(waiting.err) == 1
        assert waiting.stderr.startswith(f"no node with stream 'imu' answered at {NOWHERE} within 3 s: is one running?")
        assert "`usbcast serve PROFILE` starts one" in waiting.stderr
        assert waiting.stderr.endswith("; still looking for it\n")


def test_a_stream_that_the_node_does_not_have(served: Served) -> None:
    with (
        usbcast.subscribe("imu", served.endpoint) as subscription,
        pytest.raises(StreamUnknown, match="this node has no stream 'imu'; it has sim"),
    ):
        subscription.ready()


def test_a_node_of_this_machine_is_found_by_its_stream(served: Served) -> None:
    with usbcast.subscribe("sim") as subscription:
        assert subscription.ready()
        assert subscription.info.node_pid > 0
    assert usbcast.node.locate.locate("other", None) == DEFAULT_ENDPOINT


def test_a_subscription_may_be_there_before_its_node(served: Served) -> None:
    """It connects by itself when the node comes."""
    endpoint = served.endpoint
    served.node.stop("making room")
    with usbcast.subscribe("sim", endpoint) as subscription:
        assert not subscription.ready(0.3)
        with serving(rate_hz=500, settings=small(bind=endpoint)):
            assert subscription.ready()
            assert isinstance(next(iter(subscription)), Batch)


def test_auto_is_the_ring_where_there_is_one(served: Served) -> None:
    with served.subscribe("auto") as subscription:
        assert subscription.ready()
        assert subscription.via == "ring"


def test_auto_is_push_where_the_ring_cannot_be_opened(served: Served) -> None:
    path = Path(served.pipeline.outlet.ring.path)
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    with served.subscribe("auto") as subscription:
        assert subscription.ready()
        assert subscription.via == "push"
    with (
        served.subscribe("ring") as subscription,
        pytest.raises(RingUnavailable, match=r"cannot open the ring .*; use via='push'"),
    ):
        subscription.ready()
    hidden.unlink()


@pytest.mark.parametrize("via", ["auto", "push", "notify"])
def test_from_another_machine_it_goes_by_tcp(served: Served, via: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("receiver", "channels.ring", "channels.published"):
        monkeypatch.setattr(f"usbcast.receiving.{module}.host_id", lambda: "elsewhere", raising=False)
    with served.subscribe(via) as subscription:
        account = Account()
        take_until(subscription, account, lambda: account.delivered > 50)
        assert subscription.via == ("push" if via == "auto" else via)
        assert abs(subscription.lag_ns) < 5e9
    with served.subscribe("ring") as subscription, pytest.raises(RingUnavailable, match="memory of another machine"):
        subscription.ready()


def test_iterating_ends_with_the_stream() -> None:
    with serving(rate_hz=1000, packets=100, ends=True) as served, served.subscribe("auto", start=0) as subscription:
        assert sum(len(batch) for batch in subscription) == 100
        assert list(subscription) == []
        assert list(subscription.events(0.1)) == []


def test_a_break_out_of_the_loop_and_a_new_loop_go_on(served: Served) -> None:
    with served.subscribe("ring", start=0) as subscription:
        first = next(iter(subscription))
        second = next(iter(subscription))
        assert (first.first_sequence, second.first_sequence) == (0, first.last_sequence + 1)


def test_the_lag_is_that_of_the_last_batch(served: Served) -> None:
    with served.subscribe("push", start=0) as subscription:
        account = Account()
        take_until(subscription, account, lambda: account.delivered > 20)
        assert 0 < subscription.lag_ns < 5e9


def test_commands_while_it_streams(served: Served) -> None:
    with served.subscribe("push") as subscription:
        assert subscription.ready()
        assert subscription.command(0x40, 1, index=16, data=b"hello") == b""
        assert subscription.command(0xC0, 1, index=16, length=5) == b"hello"
        assert subscription.write(0x02, b"abc") == 3
        with pytest.raises(CommandFailed, match="has no OUT endpoint 0x01 in use; it has 0x02"):
            subscription.write(0x01, b"abc")
        assert subscription.command(0xC0, 2, length=8) == (3).to_bytes(8, "little")
        with pytest.raises(CommandFailed, match=r"refused|stall|0xee"):
            subscription.command(0xC0, 0xEE, length=8)
        account = Account()
        take_until(subscription, account, lambda: account.delivered > 20)


def test_a_listener_gets_every_event_in_a_thread_of_its_own() -> None:
    with serving(rate_hz=1000, packets=200, ends=True) as served, served.subscribe("auto", start=0) as subscription:
        account = Account(0)
        threads = set()

        def listener(event: Event) -> None:
            threads.add(threading.current_thread().name)
            account.take(event)

        assert subscription.listen(listener).join(20)
        assert threads == {"usbcast-listener"}
        assert account.delivered == 200
        assert isinstance(account.events[-1], End)


def test_a_listener_that_raises_is_stopped_and_its_error_is_told(served: Served) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, Batch):
            raise KeyError("mine")

    with served.subscribe("push") as subscription:
        listening = subscription.listen(listener)
        with pytest.raises(KeyError, match="mine"):
            listening.join(20)


def test_a_listener_is_stopped_by_stop_by_close_and_by_itself(served: Served) -> None:
    seen: list[Event] = []
    with served.subscribe("push") as subscription:
        listening = subscription.listen(seen.append)
        assert not listening.join(0.05)
        eventually(lambda: seen)
        listening.stop()
        count = len(seen)
        assert listening.join(0)
        assert len(seen) == count
    with served.subscribe("push") as subscription:
        subscription.listen(seen.append)
        eventually(lambda: len(seen) > count)
    with served.subscribe("push") as subscription:
        done: list[object] = []

        def once(event: Event) -> None:
            listening.stop()
            done.append(event)

        started = threading.Event()

        def wait_and_call(event: Event) -> None:
            started.wait()
            once(event)

        listening = subscription.listen(wait_and_call)
        started.set()
        assert listening.join(20)
        assert len(done) == 1


def test_many_in_one_event_loop() -> None:
    async def take(served: Served, via: str) -> Account:
        account = Account(0)
        async with usbcast.aio.subscribe(served.stream, served.endpoint, 0, via=via) as subscription:
            async for event in subscription.events(10):
                account.take(event)
        return account

    async def main(served: Served) -> list[Account]:
        return await asyncio.gather(*(take(served, via) for via in ("push", "notify", "ring") * 3))

    with serving(rate_hz=2000, packets=1000, ends=True) as served:
        for account in asyncio.run(main(served)):
            assert account.delivered == 1000


def test_asyncio_offers_the_same(served: Served) -> None:
    async def main() -> None:
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            assert subscription.info is None
            assert await subscription.ready()
            assert subscription.info is not None
            count = 0
            async for batch in subscription:
                count += len(batch)
                if count > 50:
                    break
            assert subscription.via == "ring"
            assert subscription.ledger.left == count
            assert 0 < subscription.lag_ns < 5e9
        async with usbcast.aio.subscribe("imu", NOWHERE) as nothing:
            assert not await nothing.ready(0.1)
            assert await nothing.receive(0.05) is None
            assert [event async for event in nothing.events(0.05)] == []

    asyncio.run(main())


@pytest.mark.parametrize("via", ["push", "notify"])
def test_joining_a_stream_that_is_still_waits_for_no_heartbeat(via: str) -> None:
    with serving(rate_hz=1000, packets=5) as served:
        served.wait_published(5)
        served.pipeline.outlet.pacer = NotificationPacer(heartbeat_ns=3600 * 10**9)
        for start in ("now", "oldest"):
            with served.subscribe(via, start=start) as subscription:
                assert subscription.ready(10)
                if start == "oldest":
                    batches = (event for event in subscription.events(10) if isinstance(event, Batch))
                    assert next(batches).first_sequence == 0


def test_a_flood_of_who_joins_makes_no_flood_of_notifications() -> None:
    with serving(rate_hz=1000, packets=5) as served, served.subscribe("notify") as subscription:
        assert subscription.ready(10)
        published = served.node._publisher
        sent: list[int] = []
        find = published._sender

        def sender(topic: bytes) -> Publish:
            real = find(topic)

            def send(body: Buffer) -> None:
                sent.append(time.monotonic_ns())
                assert real is not None
                real(body)

            return send if real is not None and topic.startswith(b"notify/") else real

        published._sender = sender  # type: ignore[method-assign]
        begun = time.monotonic()
        while time.monotonic() - begun < 0.3:
            published.notify_now(served.pipeline)
        elapsed_ms = (time.monotonic() - begun) * 1000
        assert 10 < len(sent) <= elapsed_ms + 2


def test_a_local_socket_that_this_user_may_not_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(rate_hz=100) as served, served.subscribe("push") as subscription:
        info = subscription.info
        assert data_endpoint(info, served.endpoint).startswith("ipc://")
        monkeypatch.setattr("os.access", lambda *_: False)
        assert data_endpoint(info, served.endpoint).startswith("tcp://")


def test_asyncio_commands_while_it_streams(served: Served) -> None:
    async def main() -> None:
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            assert await subscription.ready()
            assert await subscription.command(0x40, 1, index=16, data=b"hello") == b""
            reads = (subscription.command(0xC0, 1, index=16, length=n) for n in range(1, 6))
            assert await asyncio.gather(*reads) == [b"hello"[:n] for n in range(1, 6)]
            assert await subscription.write(0x02, b"abc") == 3
            with pytest.raises(CommandFailed, match="has no OUT endpoint 0x01 in use; it has 0x02"):
                await subscription.write(0x01, b"abc")
            assert isinstance(await subscription.receive(5), Batch)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_an_asyncio_listener_gets_every_event(kind: str) -> None:
    async def main(served: Served) -> Account:
        account = Account(0)

        async def later(event: Event) -> None:
            await asyncio.sleep(0)
            account.take(event)

        async with usbcast.aio.subscribe("sim", served.endpoint, start=0) as subscription:
            await asyncio.wait_for(subscription.listen(account.take if kind == "plain" else later), 20)
        return account

    with serving(rate_hz=1000, packets=200, ends=True) as served:
        account = asyncio.run(main(served))
        assert account.delivered == 200
        assert isinstance(account.events[-1], End)


def test_an_asyncio_listener_stops_when_it_raises_is_cancelled_or_left_behind(served: Served) -> None:
    seen: list[Event] = []

    def raises(event: Event) -> None:
        raise KeyError("mine")

    async def main() -> None:
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            with pytest.raises(KeyError, match="mine"):
                await asyncio.wait_for(subscription.listen(raises), 20)
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            task = subscription.listen(seen.append)
            while not seen:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            count = len(seen)
            assert await subscription.receive(5) is not None, "the subscription goes on"
            assert len(seen) == count
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            left = subscription.listen(seen.append)
        assert left.done()

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_waits(served: Served) -> None:
    async def main() -> None:
        async with usbcast.aio.subscribe("imu", NOWHERE) as subscription:
            task = asyncio.create_task(subscription.receive())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            assert await subscription.receive(5) is not None

    asyncio.run(main())


def test_a_clock_that_is_set_back_disorders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, back_ns = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: real() - back_ns)
    with serving(rate_hz=1000) as served:
        with served.subscribe("push", start=0) as pushed, served.subscribe("ring", start=0) as mapped:
            accounts = Account(0), Account(0)
            for subscription, account in zip((pushed, mapped), accounts, strict=True):
                take_until(subscription, account, lambda account=account: account.delivered > 100)  # type: ignore[misc]
            back_ns = 3600 * 10**9
            set_back_at = served.published
            for subscription, account in zip((pushed, mapped), accounts, strict=True):
                take_until(
                    subscription,
                    account,
                    lambda account=account: account.delivered > set_back_at + 300,  # type: ignore[misc]
                )
                assert 0 < subscription.lag_ns < 5e9, "lag is told by the clock that is never set back"
            for account in accounts:
                assert account.gaps == []
                assert account.sequences == list(range(account.delivered))
                monotonic = [ns for batch in account.batches for ns in batch.monotonic_ns.tolist()]
                assert monotonic == sorted(monotonic)
                realtime = [ns for batch in account.batches for ns in batch.times_ns.tolist()]
                assert min(realtime[i + 1] - realtime[i] for i in range(len(realtime) - 1)) < -3500e9
                assert len(account.batches[-1].times_ns_dejittered()) == len(account.batches[-1])
        assert list(served.node.health()[0].discrepancies) == []


@pytest.mark.parametrize(
    ("raised", "has_traceback"),
    [(None, False), (ZeroDivisionError("of the listener"), True)],
    ids=["an error of the stream is a sentence", "a defect of the listener is shown with its place"],
)
def test_what_ends_a_listener_is_logged(
    raised: Exception | None, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: Event) -> None:
        if raised is not None:
            raise raised

    with serving(rate_hz=1000) as served, caplog.at_level(logging.ERROR):
        stream = served.stream if raised else "unheard-of"
        error = type(raised) if raised else StreamUnknown
        with usbcast.subscribe(stream, served.endpoint) as subscription, pytest.raises(error):
            subscription.listen(listener).join(DEADLINE_S)
    (record,) = [one for one in caplog.records if "the listener has stopped" in one.message]
    assert bool(record.exc_info) == has_traceback


@pytest.mark.slow
@pytest.mark.parametrize("via", ["push", "notify"])
def test_a_node_that_refuses_reports_for_want_of_the_stream_is_told_as_silence(via: str) -> None:
    """So is a node that comes back without its stream within the three seconds of silence: it answers, and publishes nothing."""

    def without_stream(request: pb.Request) -> list[list[bytes]]:
        reply = pb.Reply(contract=CONTRACT, request_id=request.request_id)
        reply.error.code = pb.ErrorReply.CODE_STREAM_UNKNOWN
        reply.error.message = "this node has no stream"
        return [[reply.SerializeToString()]]

    with FakeNode() as node, usbcast.subscribe(STREAM, node.endpoint, start=0, via=via) as subscription:
        account = Account(0)

        def came(packets: int) -> bool:
            node.notify()
            return account.delivered >= packets

        node.batch()
        take_until(subscription, account, lambda: came(1))
        node.answer = without_stream
        event = subscription.receive(DEADLINE_S)
        assert isinstance(event, usbcast.Silence), f"{event!r} after {node.asked}"
        described = node.asked.count("describe")
        eventually(lambda: subscription.receive(0.05) is None and node.asked.count("describe") > described + 1)
        node.answer = node.honest
        node.batch()
        take_until(subscription, account, lambda: came(2))
        assert account.gaps == []

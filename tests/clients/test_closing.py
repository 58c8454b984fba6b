"""How a subscription ends: closed from anywhere, asked for something afterwards, dropped, and inherited by a forked process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import usbcast
import usbcast.aio
from tests.support.closing import FORMS, RATE_HZ, WAYS, close_often
from tests.support.nodes import Served, eventually, serving, small
from usbcast import Batch, Event, NodeClient, UsageError
from usbcast_schemas.errors import SubscriptionClosed

NOWHERE = "tcp://127.0.0.1:9"
CLOSED = "this subscription to 'sim' is closed: subscribe again to go on receiving"
LISTENING = "the events of this subscription to 'sim' already go to a listener"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(rate_hz=500) as found:
        yield found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_a_reader_whose_subscription_is_closed_ends_at_once_and_cleanly(way: str, form: str) -> None:
    with serving(rate_hz=RATE_HZ) as served:
        told = close_often(served.endpoint, way, form, 8)
    assert (told.ended, told.wrong) == (8, [])
    assert told.worst_s < 10


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_a_reader_ends_cleanly_however_often(way: str, form: str) -> None:
    with serving(rate_hz=RATE_HZ, settings=small(max_connections=60_000)) as served:
        told = close_often(served.endpoint, way, form, 200)
    assert (told.ended, told.wrong) == (200, [])


def test_closing_may_be_done_twice_and_by_two_at_once(served: Served) -> None:
    for _ in range(20):
        subscription = served.subscribe("push")
        assert subscription.ready()
        others = [threading.Thread(target=subscription.close) for _ in range(3)]
        for other in others:
            other.start()
        subscription.close()
        for other in others:
            other.join()
        subscription.close()


def test_closing_in_the_middle_of_ones_own_loop_ends_it(served: Served) -> None:
    subscription = served.subscribe("ring", start=0)
    taken = 0
    for _ in subscription:
        taken += 1
        subscription.close()
    assert taken == 1


def test_closing_in_a_signal_handler_ends_the_loop_that_it_interrupts(served: Served) -> None:
    subscription = served.subscribe("push")
    before = signal.signal(signal.SIGUSR1, lambda *_: subscription.close())
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        for _ in subscription:
            pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(SubscriptionClosed, match=CLOSED):
        subscription.receive()


def test_a_listener_may_close_what_it_listens_to(served: Served) -> None:
    subscription = served.subscribe("push")
    seen: list[Event] = []

    def listener(event: Event) -> None:
        seen.append(event)
        subscription.close()

    listening = subscription.listen(listener)
    assert listening.join(20)
    assert len(seen) == 1


ASKING: dict[str, Callable[[usbcast.Subscription], object]] = {
    "receive": lambda subscription: subscription.receive(),
    "receive for a second": lambda subscription: subscription.receive(1),
    "ready": lambda subscription: subscription.ready(),
    "iterate": lambda subscription: next(iter(subscription)),
    "events": lambda subscription: next(subscription.events(1)),
    "listen": lambda subscription: subscription.listen(print),
}


@pytest.mark.parametrize("connected", [True, False])
def test_whatever_asks_a_closed_subscription_is_told_that_it_is_closed(served: Served, connected: bool) -> None:
    subscription = usbcast.subscribe("sim", served.endpoint if connected else NOWHERE)
    if connected:
        assert subscription.ready()
    subscription.close()
    for ask in ASKING.values():
        with pytest.raises(SubscriptionClosed, match=CLOSED):
            ask(subscription)
    if connected:
        assert subscription.info.stream == "sim", "what was known is still told"
    else:
        with pytest.raises(SubscriptionClosed, match=CLOSED):
            _ = subscription.info
    assert subscription.ledger.discrepancy() is None


def test_asyncio_says_the_same(served: Served) -> None:
    async def main() -> None:
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            assert await subscription.ready()
        await subscription.aclose()
        with pytest.raises(SubscriptionClosed, match=CLOSED):
            await subscription.receive()
        with pytest.raises(SubscriptionClosed, match=CLOSED):
            await subscription.ready()
        with pytest.raises(SubscriptionClosed, match=CLOSED):
            async for _ in subscription:
                pass
        with pytest.raises(SubscriptionClosed, match=CLOSED):
            subscription.listen(print)

    asyncio.run(main())


def test_a_second_listener_is_refused_until_the_first_has_stopped(served: Served) -> None:
    seen: list[Event] = []
    with served.subscribe("push") as subscription:
        listening = subscription.listen(seen.append)
        for ask in (lambda: subscription.listen(print), subscription.receive, lambda: next(iter(subscription))):
            with pytest.raises(UsageError, match=LISTENING):
                ask()
        assert subscription.ready(), "to wait for it takes no events away"
        assert subscription.info.stream == "sim"
        eventually(lambda: seen)
        listening.stop()
        assert subscription.receive(10) is not None
        subscription.listen(seen.append)


def test_asyncio_refuses_a_second_listener_too(served: Served) -> None:
    async def main() -> None:
        async with usbcast.aio.subscribe("sim", served.endpoint) as subscription:
            first = subscription.listen(lambda _: None)
            await asyncio.sleep(0)
            with pytest.raises(UsageError, match=LISTENING):
                subscription.listen(print)
            with pytest.raises(UsageError, match=LISTENING):
                await subscription.receive()
            assert await subscription.ready()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert await subscription.receive(10) is not None

    asyncio.run(main())


def test_an_asyncio_listener_may_close_what_it_listens_to(served: Served) -> None:
    async def main() -> None:
        subscription = usbcast.aio.subscribe("sim", served.endpoint)
        seen: list[Event] = []

        async def listener(event: Event) -> None:
            seen.append(event)
            await subscription.aclose()

        await asyncio.wait_for(subscription.listen(listener), 20)
        assert len(seen) == 1

    asyncio.run(main())


def test_other_tasks_get_their_turn_however_much_there_is_to_read() -> None:
    async def main(served: Served) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(other())
        async with usbcast.aio.subscribe("sim", served.endpoint, start="oldest") as subscription:
            taken = 0
            async for _ in subscription:
                taken += 1
                if taken == 1000:
                    break
        task.cancel()
        assert turns >= 10

    each_alone = small(batch_size=112)
    with serving(rate_hz=RATE_HZ, settings=each_alone) as served:
        served.wait_published(3000)
        asyncio.run(main(served))


@pytest.mark.parametrize("via", ["ring", "push", "notify"])
def test_one_that_is_dropped_leaves_nothing_behind_and_is_complained_of(served: Served, via: str) -> None:
    def drop() -> None:
        assert isinstance(next(iter(served.subscribe(via))), Batch)
        gc.collect()

    for _ in range(5):
        with pytest.warns(ResourceWarning, match="a Subscription to 'sim' was never closed: use `with`"):
            drop()


INHERITED = """
import os, sys, usbcast
stream = usbcast.subscribe("sim", sys.argv[1], via=sys.argv[2])
batches = iter(stream)
next(batches)
node = usbcast.NodeClient(sys.argv[1])
node.describe()
if (child := os.fork()) == 0:
    code = 0
    for ask in (lambda: next(batches), stream.receive, stream.ready, lambda: stream.listen(print), node.describe):
        try:
            ask()
        except usbcast.UsageError as error:
            print(error, flush=True)
        else:
            code = 1
    stream.close()
    os._exit(code)
assert os.waitpid(child, 0)[1] == 0
for _ in range(20):
    batch = next(batches)
    assert not batch.gaps
assert node.describe()
node.close()
stream.close()
print("the parent goes on")
"""


@pytest.mark.parametrize("via", ["ring", "push", "notify"])
def test_a_forked_process_may_not_use_what_it_has_inherited(served: Served, via: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", INHERITED, served.endpoint, via],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("this subscription to 'sim' belongs to process ")
    assert lines[0].endswith("was forked from it: subscribe again here, or start processes with the method 'spawn'")
    assert lines[4].startswith(f"this client of {served.endpoint} belongs to process ")
    assert lines[5] == "the parent goes on"


FORKED_SOCKET = """
import os, signal, sys, threading, zmq
from usbcast_schemas.messages import messages_of
socket = zmq.Context.instance().socket(zmq.SUB)
socket.connect(sys.argv[1])
messages = messages_of(socket)
messages.receive()
if (child := os.fork()) == 0:
    try:
        messages.receive()
    except OSError as error:
        os._exit(0)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
messages.close()
socket.close()
sys.exit(code)
"""


@pytest.mark.skipif(bool(os.environ.get("USBCAST_PURE")), reason="of the native core")
def test_a_socket_that_was_forked_does_not_hold_the_interpreter_for_ever() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED_SOCKET, NOWHERE], timeout=60, check=False)
    assert done.returncode == 0


def test_a_node_client_gives_up_in_time_whatever_else_it_is_told() -> None:
    """Replies to questions that were never asked do not count as an answer."""
    from tests.support.fake_node import FakeNode
    from usbcast_schemas.contract import CONTRACT
    from usbcast_schemas.errors import NodeUnreachable
    from usbcast_schemas.v1 import usbcast_pb2 as pb

    def flood(_: pb.Request) -> list[list[bytes]]:
        return [[pb.Reply(contract=CONTRACT, request_id=99, clock=pb.ClockReply()).SerializeToString()]] * 300

    with FakeNode(flood) as node, NodeClient(node.endpoint, timeout_s=0.3) as client:
        begun_s = time.monotonic()
        with pytest.raises(NodeUnreachable):
            client.describe()
        assert time.monotonic() - begun_s < 10

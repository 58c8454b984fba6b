"""Fan-out: by pyzmq and by the native core the same is sent, in order, and nobody who sends waits for what subscribers cause."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import zmq

from tests.support.nodes import eventually
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_schemas import engine
from usbcast_schemas import fanout as fanout_module
from usbcast_schemas.fanout import MOST_SAID, MOST_WAITING, Fanout, PyzmqFanout, Said, fanout_of, sender_of
from usbcast_schemas.messages import PyzmqMessages
from usbcast_schemas.sockets import HIGH_WATER_MARK, set_up

needs_core = pytest.mark.skipif(engine.native is None, reason="the native core is not in use")
FORMS = [pytest.param(fanout_of, marks=needs_core, id="native"), pytest.param(PyzmqFanout, id="pyzmq")]
Make = Callable[[zmq.Socket[bytes]], Fanout]

Publisher = tuple[zmq.Socket[bytes], Fanout]


@pytest.fixture(params=FORMS)
def publisher(request: pytest.FixtureRequest) -> Iterator[Publisher]:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        set_up(socket, max_message_bytes=1000)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        socket.bind("tcp://127.0.0.1:*")
        fanout = request.param(socket)
        yield socket, fanout
        fanout.close()


@contextlib.contextmanager
def subscriber(publisher: zmq.Socket[bytes], *topics: bytes) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context.instance().socket(zmq.SUB) as socket:
        set_up(socket, max_message_bytes=1_000_000)
        socket.setsockopt(zmq.RCVHWM, 10_000)
        for topic in topics:
            socket.subscribe(topic)
        socket.connect(publisher.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        yield socket


@contextlib.contextmanager
def attended(fanout: Fanout) -> Iterator[list[Said]]:
    """Somebody attends, until the end; what was said."""
    said: list[Said] = []
    bell, stopping = PollableDoorbell(), threading.Event()

    def attend() -> None:
        while not stopping.is_set():
            said.extend(Said(*one) for one in fanout.attend(bell.fileno()))

    thread = threading.Thread(target=attend)
    thread.start()
    try:
        yield said
    finally:
        stopping.set()
        bell.ring()
        thread.join(10)
        bell.close()
        assert not thread.is_alive(), "it does not hear the bell"


def received(socket: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    came = []
    for _ in range(count):
        assert socket.poll(10_000), f"nothing comes after {len(came)}"
        came.append(socket.recv_multipart())
    return came


def test_who_attends_hears_who_has_said_what(publisher: Publisher) -> None:
    socket, fanout = publisher
    with attended(fanout) as said:
        with subscriber(socket, b"a", b"b"), subscriber(socket, b"a"):
            eventually(lambda: sorted(one.what for one in said) == [b"\1a", b"\1a", b"\1b"])
            assert len({one.descriptor for one in said}) == 2
            assert {(one.address or "").removeprefix("::ffff:") for one in said} == {"127.0.0.1"}
            assert {one.user for one in said} <= {None, ""}
        eventually(lambda: sorted(one.what for one in said[3:]) == [b"\0a", b"\0b"], "the last one has gone")
        assert {one.descriptor for one in said[3:]} == {-1}


def test_more_than_is_handed_out_at_a_time(publisher: Publisher) -> None:
    socket, fanout = publisher
    topics = [b"%d" % n for n in range(3 * MOST_SAID)]
    with subscriber(socket, *topics), attended(fanout) as said:
        eventually(lambda: {one.what[1:] for one in said} == set(topics))


def test_what_is_sent_comes_in_order(publisher: Publisher) -> None:
    socket, fanout = publisher
    with attended(fanout) as said, subscriber(socket, b"t") as there:
        eventually(lambda: said)
        fanout.send(memoryview(b"t"), b"")
        send = sender_of([fanout], b"topic")
        for n in range(100):
            send(memoryview(b"%d" % n))
        fanout.send(b"not wanted", b"")
        fanout.send(b"tail", bytes(100_000))
        expected = [[b"t", b""], *([b"topic", b"%d" % n] for n in range(100)), [b"tail", bytes(100_000)]]
        assert received(there, len(expected)) == expected


@pytest.mark.parametrize("make", FORMS)
def test_a_sender_sends_through_several(make: Make) -> None:
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(context.socket(zmq.XPUB)) for _ in range(3)]
        for socket in sockets:
            socket.bind("tcp://127.0.0.1:*")
        fanouts = [make(socket) for socket in sockets]
        there = [stack.enter_context(subscriber(socket, b"t")) for socket in sockets]
        with contextlib.ExitStack() as attending:
            said = [attending.enter_context(attended(fanout)) for fanout in fanouts]
            eventually(lambda: all(said))
            bodies = [b"small", bytes(range(256)) * 100]
            send = sender_of(fanouts, b"t")
            for body in bodies:
                send(body)
            for socket in there:
                assert received(socket, 2) == [[b"t", body] for body in bodies]


def test_where_peers_have_caused_something_it_is_left_to_who_attends(publisher: Publisher) -> None:
    """A call would carry it out first, however long that takes."""
    socket, fanout = publisher
    with subscriber(socket, b"t") as there:
        eventually(lambda: is_readable(socket))  # a peer has come, and libzmq has not been told to look at it
        for n in range(MOST_WAITING + 10):
            fanout.send(b"t", b"%d" % n)
            assert is_readable(socket), "who sends has carried out what a peer has caused"
        assert fanout.dropped == 10
        with attended(fanout) as said:
            eventually(lambda: said)
            fanout.send(b"t", b"last")
            # What waited before the subscription was known to libzmq went to nobody, as it always did.
            while received(there, 1) != [[b"t", b"last"]]:
                pass


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(select.select([socket.fileno()], [], [], 0)[0])


@pytest.mark.slow
def test_who_sends_goes_on_while_hundreds_leave(publisher: Publisher) -> None:
    """Each is a walk over all that the others have subscribed to, seconds of work in all."""
    socket, fanout = publisher
    with zmq.Context() as context, attended(fanout) as said:
        leaving = [context.socket(zmq.SUB) for _ in range(150)]
        for n, peer in enumerate(leaving):
            peer.linger = 0
            for m in range(10):
                peer.subscribe(b"%03d/%02d/" % (n, m) + bytes(60))
            peer.connect(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        eventually(lambda: sum(one.what[:1] == b"\1" for one in said) == 1500, "all subscribe", 60)
        for peer in leaving:
            peer.close()
        longest_s, begun_s = 0.0, time.monotonic()
        while sum(one.what[:1] == b"\0" for one in said) < 1500:
            before_s = time.monotonic()
            assert before_s - begun_s < 120
            fanout.send(b"t", b"")
            longest_s = max(longest_s, time.monotonic() - before_s)
            time.sleep(0.0005)
        took_s = time.monotonic() - begun_s
        assert longest_s < 0.25 * took_s, f"one of {took_s:.2f} s"


@pytest.mark.parametrize("make", FORMS)
def test_who_is_less_than_half_a_queue_behind_loses_nothing(make: Make) -> None:
    """Though libzmq learns only now and then what its peers have taken."""
    context, count, most = zmq.Context.instance(), 30_000, HIGH_WATER_MARK // 2 - 16
    with context.socket(zmq.XPUB) as socket, context.socket(zmq.SUB) as there:
        for one in (socket, there):
            set_up(one, max_message_bytes=1000)
        socket.bind("tcp://127.0.0.1:*")
        there.subscribe(b"")
        there.connect(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        fanout, messages = make(socket), PyzmqMessages(there)
        with attended(fanout) as said:
            eventually(lambda: said)
            taken = 0
            for n in range(count):
                fanout.send(b"t", b"%d" % n)
                while n + 1 - taken > most:
                    frames = messages.receive()
                    if frames is None:
                        assert there.poll(1000), f"{n + 1 - taken} after {taken} are lost"
                        continue
                    assert bytes(frames[1]) == b"%d" % taken
                    taken += 1
        assert fanout.dropped == 0


@needs_core
def test_what_is_closed_is_not_touched() -> None:
    with zmq.Context.instance().socket(zmq.XPUB) as socket:
        fanout = fanout_of(socket)
        send = sender_of([fanout], b"topic")
        fanout.close()
    for use in (partial(fanout.attend, 0), partial(fanout.send, b"a", b"b"), partial(send, b"b")):
        with pytest.raises(ValueError, match="closed"):
            use()


@needs_core
def test_a_socket_that_does_not_take_it_says_why() -> None:
    with zmq.Context.instance().socket(zmq.PAIR) as socket:
        for send in (partial(fanout_of(socket).send, b"nobody"), sender_of([fanout_of(socket)], b"nobody")):
            with pytest.raises(OSError, match="unavailable"):
                send(b"is connected")
    with zmq.Context.instance().socket(zmq.PUSH) as socket, pytest.raises(OSError, match="not supported"):
        fanout_of(socket).attend(0)


@needs_core
def test_it_is_made_as_it_is_meant_to_be() -> None:
    assert engine.native is not None
    with zmq.Context.instance().socket(zmq.XPUB) as socket:
        fanout = engine.native.Fanout(socket.underlying)
        sender = engine.native.Sender((fanout,), b"topic")
        for call, arguments in (
            (fanout.send, (b"one",)),
            (fanout.send, (b"one", "text")),
            (fanout.send, ("text", b"two")),
            (fanout.attend, ("text",)),
            (fanout.__init__, (socket.underlying,)),  # type: ignore[misc]
            (sender, ("text",)),
            (sender.__init__, ((fanout,), b"topic")),  # type: ignore[misc]
            (engine.native.Sender, ((socket,), b"topic")),
            (engine.native.Sender, (fanout, b"topic")),
            (engine.native.Fanout, ("text",)),
        ):
            with pytest.raises(TypeError):
                call(*arguments)  # type: ignore[operator]
        with pytest.raises(ValueError, match="no socket at 0"):
            engine.native.Fanout(0)


def test_without_its_libzmq_pyzmq_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "finds_libzmq", lambda _: False)
    with zmq.Context.instance().socket(zmq.XPUB) as socket:
        assert isinstance(fanout_of(socket), PyzmqFanout)

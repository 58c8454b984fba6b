"""Messages of two frames: by pyzmq and by the native core the same ones come, of real sockets."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import zmq

from usbcast_schemas import messages as messages_module
from usbcast_schemas import native
from usbcast_schemas.messages import IN_PLACE_BYTES, Messages, PyzmqMessages, messages_of
from usbcast_schemas.sockets import HIGH_WATER_MARK, readable, set_up

LARGE = bytes(range(256)) * (IN_PLACE_BYTES // 256)
ENOTSOCK_OF_ZEROMQ = int(zmq.ENOTSOCK)

needs_core = pytest.mark.skipif(native.core is None, reason="the native core is not in use")
FORMS = [pytest.param(messages_of, marks=needs_core, id="native"), pytest.param(PyzmqMessages, id="pyzmq")]
Make = Callable[[zmq.Socket[bytes]], Messages]


@contextlib.contextmanager
def pair(endpoint: str = "tcp://127.0.0.1:*") -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Two sockets that are connected. Inside one process what one has sent has come to the other."""
    with zmq.Context.instance().socket(zmq.PAIR) as one, zmq.Context.instance().socket(zmq.PAIR) as other:
        for socket in (one, other):
            socket.linger = 0
            socket.rcvtimeo = 10_000
        one.bind(endpoint)
        other.connect(one.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        one.send(b"hello")
        assert other.recv() == b"hello"
        yield one, other


def received(messages: Messages, socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(10_000), "nothing comes"
    frames = messages.receive()
    assert frames is not None
    return list(map(bytes, frames))


@needs_core
def test_where_there_is_a_core_it_finds_the_libzmq_that_pyzmq_has() -> None:
    assert native.core is not None
    with zmq.Context.instance().socket(zmq.PAIR) as socket:
        assert isinstance(messages_of(socket), native.core.Messages)
    assert native.core.find_libzmq(os.devnull), "once found it stays so"


@pytest.mark.parametrize("core", [None, native.core])
def test_without_it_pyzmq_does_the_work(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "core", core)
    monkeypatch.setattr(messages_module, "_finds_libzmq", lambda _: False)
    with zmq.Context.instance().socket(zmq.PAIR) as socket:
        assert isinstance(messages_of(socket), PyzmqMessages)


@pytest.mark.parametrize("make", FORMS)
def test_what_one_side_sends_the_other_receives(make: Make) -> None:
    with pair() as (one, other):
        here, there = make(one), make(other)
        assert not readable(other)
        assert there.receive() is None
        assert there.drained
        here.send(b"topic", b"body")
        here.send(b"", b"")
        here.send(memoryview(b"topic"), memoryview(LARGE))
        here.sender(b"of a sender")(memoryview(b"body"))
        came = [received(there, other) for _ in range(4)]
        assert came == [[b"topic", b"body"], [b"", b""], [b"topic", LARGE], [b"of a sender", b"body"]]
        assert not there.drained
        assert there.receive() is None
        assert there.drained
        assert not there.left_over


@pytest.mark.parametrize("make", FORMS)
def test_a_large_frame_stays_where_it_is_as_long_as_it_is_looked_at(make: Make) -> None:
    with pair() as (one, other):
        make(one).send(b"topic", LARGE)
        assert other.poll(10_000)
        frames = make(other).receive()
        assert frames is not None
        body = frames[1]
        assert isinstance(body, memoryview)
        assert body.readonly
        part = body[256:512]
        del frames, body
    gc.collect()
    assert part == bytes(range(256)), "the socket is closed, and the frame is there"


@pytest.mark.parametrize("make", FORMS)
def test_messages_of_other_numbers_of_frames_disturb_nothing_behind_them(make: Make) -> None:
    """By pyzmq a message of one frame takes the next one along, which is then of no use either."""
    with pair("inproc://numbers-of-frames") as (one, other):
        there = make(other)
        one.send_multipart([b"three", b"frames", b"here"])
        one.send(b"lonely")
        make(one).send(b"taken", b"along")
        make(one).send(b"topic", b"again")
        one.send(b"last")
        one.send_multipart([b"five", b"", LARGE, b"4", b"5"])
        three, five = [b"three", b"frames", b"here"], [b"five", b"", LARGE, b"4", b"5"]
        expected = [three, [b"lonely"], [b"taken", b"along"], [b"topic", b"again"], [b"last"], five]
        if make is PyzmqMessages:
            expected = [three, [b"lonely", b"taken", b"along"], [b"topic", b"again"], [b"last", *five]]
        assert [received(there, other) for _ in expected] == expected
        assert there.receive() is None


@pytest.mark.parametrize("make", FORMS)
def test_who_is_less_than_half_a_queue_behind_loses_nothing(make: Make) -> None:
    """Though libzmq learns only now and then, and a socket that only sends even more seldom, what its peers have taken."""
    context, count, most = zmq.Context.instance(), 30_000, HIGH_WATER_MARK // 2 - 16
    with context.socket(zmq.XPUB) as publisher, context.socket(zmq.SUB) as subscriber:
        for socket in (publisher, subscriber):
            set_up(socket, max_message_bytes=1000)
        publisher.bind("tcp://127.0.0.1:*")
        subscriber.subscribe(b"")
        subscriber.connect(publisher.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        assert publisher.poll(10_000), "nobody subscribes"
        assert publisher.recv() == b"\1"
        there, send = make(subscriber), make(publisher).sender(b"t")
        taken = 0
        for n in range(count):
            send(b"%d" % n)
            while n + 1 - taken > most:
                frames = there.receive()
                if frames is None:
                    assert subscriber.poll(1000), f"{n + 1 - taken} after {taken} are lost"
                    continue
                assert bytes(frames[1]) == b"%d" % taken
                taken += 1


@needs_core
def test_what_is_closed_is_not_touched() -> None:
    with pair() as (one, _):
        messages = messages_of(one)
        send = messages.sender(b"topic")
        messages.close()
    for use in (messages.receive, partial(messages.send, b"a", b"b"), partial(send, b"b")):
        with pytest.raises(ValueError, match="closed"):
            use()


@needs_core
def test_a_socket_that_does_not_take_it_says_why() -> None:
    with zmq.Context.instance().socket(zmq.PAIR) as socket, pytest.raises(OSError, match="unavailable"):
        messages_of(socket).send(b"nobody", b"is connected")
    with zmq.Context.instance().socket(zmq.PUSH) as socket, pytest.raises(OSError, match="not supported"):
        messages_of(socket).receive()


@needs_core
def test_it_is_made_as_it_is_meant_to_be() -> None:
    assert native.core is not None
    with zmq.Context.instance().socket(zmq.PAIR) as socket:
        messages = messages_of(socket)
        assert isinstance(messages, native.core.Messages)
        sender = native.core.Sender(messages, b"topic")
        for call, arguments in (
            (messages.send, (b"one",)),
            (messages.send, (b"one", "text")),
            (messages.send, ("text", b"two")),
            (messages.sender, ("text",)),
            (sender, ("text",)),
            (sender.__init__, (messages, b"topic")),  # type: ignore[misc]
            (native.core.Sender, (socket, b"topic")),
            (native.core.Messages, ("text",)),
        ):
            with pytest.raises(TypeError):
                call(*arguments)  # type: ignore[operator]
        with pytest.raises(ValueError, match="no socket at 0"):
            native.core.Messages(0)

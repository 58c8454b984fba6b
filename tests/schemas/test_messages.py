"""Messages of two frames out of a socket: by pyzmq and by the native core the same ones come, of real sockets."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator

import pytest
import zmq

from usbcast_schemas import engine
from usbcast_schemas import messages as messages_module
from usbcast_schemas.messages import IN_PLACE_BYTES, Messages, PyzmqMessages, messages_of
from usbcast_schemas.sockets import readable

LARGE = bytes(range(256)) * (IN_PLACE_BYTES // 256)
ENOTSOCK_OF_ZEROMQ = int(zmq.ENOTSOCK)

needs_core = pytest.mark.skipif(engine.native is None, reason="the native core is not in use")
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
    assert engine.native is not None
    with zmq.Context.instance().socket(zmq.PAIR) as socket:
        assert isinstance(messages_of(socket), engine.native.Messages)
    assert engine.native.find_libzmq(os.devnull), "once found it stays so"


def test_without_it_pyzmq_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "finds_libzmq", lambda _: False)
    with zmq.Context.instance().socket(zmq.PAIR) as socket:
        assert isinstance(messages_of(socket), PyzmqMessages)


@pytest.mark.parametrize("make", FORMS)
def test_what_one_side_sends_the_other_receives(make: Make) -> None:
    with pair() as (one, other):
        there = make(other)
        assert not readable(other)
        assert there.receive() is None
        assert there.drained
        sent = [[b"topic", b"body"], [b"", b""], [b"topic", LARGE]]
        for message in sent:
            one.send_multipart(message)
        assert [received(there, other) for _ in sent] == sent
        assert not there.drained
        assert there.receive() is None
        assert there.drained
        assert not there.left_over


@pytest.mark.parametrize("make", FORMS)
def test_a_large_frame_stays_where_it_is_as_long_as_it_is_looked_at(make: Make) -> None:
    with pair() as (one, other):
        one.send_multipart([b"topic", LARGE])
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
        one.send_multipart([b"taken", b"along"])
        one.send_multipart([b"topic", b"again"])
        one.send(b"last")
        one.send_multipart([b"five", b"", LARGE, b"4", b"5"])
        three, five = [b"three", b"frames", b"here"], [b"five", b"", LARGE, b"4", b"5"]
        expected = [three, [b"lonely"], [b"taken", b"along"], [b"topic", b"again"], [b"last"], five]
        if make is PyzmqMessages:
            expected = [three, [b"lonely", b"taken", b"along"], [b"topic", b"again"], [b"last", *five]]
        assert [received(there, other) for _ in expected] == expected
        assert there.receive() is None


@needs_core
def test_what_is_closed_is_not_touched() -> None:
    with pair() as (one, _):
        messages = messages_of(one)
        messages.close()
    with pytest.raises(ValueError, match="closed"):
        messages.receive()


@needs_core
def test_a_socket_that_gives_nothing_says_why() -> None:
    with zmq.Context.instance().socket(zmq.PUSH) as socket, pytest.raises(OSError, match="not supported"):
        messages_of(socket).receive()


@needs_core
def test_it_is_made_as_it_is_meant_to_be() -> None:
    assert engine.native is not None
    with pytest.raises(TypeError):
        engine.native.Messages("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no socket at 0"):
        engine.native.Messages(0)

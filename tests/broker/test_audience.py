"""Who listens: told what an XPUB socket gives, asked which topics are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from nodes import eventually

from usbcast_broker.audience import MAX_PREFIXES, Audience

IMU, IMU2 = b"data/imu/", b"data/imu2/"


def test_a_topic_is_wanted_while_a_prefix_of_it_is() -> None:
    audience = Audience()
    steps = [
        (b"\x01data/imu", True, True),
        (b"\x01data/imu2/", True, True),
        (b"\x00data/imu", False, True),
        (b"\x01", True, True),
        (b"\x00data/imu2/", True, True),
        (b"\x00", False, False),
        (b"\x00never subscribed to", False, False),
    ]
    for message, imu, imu2 in steps:
        assert audience.tell(message)
        assert (audience.wants(IMU), audience.wants(IMU2)) == (imu, imu2), message


@pytest.mark.parametrize("message", [b"", b"\x02data/", b"GET / HTTP/1.1"])
def test_what_is_no_subscription_is_told(message: bytes) -> None:
    audience = Audience()
    assert not audience.tell(message)
    assert not audience.wants(IMU)


def test_beyond_the_bound_everything_is_wanted() -> None:
    audience = Audience()
    for n in range(MAX_PREFIXES):
        audience.tell(b"\x01%d" % n)
    assert not audience.wants(IMU)
    audience.tell(b"\x01another")
    assert audience.wants(IMU)
    assert len(audience._prefixes) == MAX_PREFIXES


@pytest.fixture
def sockets() -> Iterator[tuple[zmq.Socket[bytes], list[zmq.Socket[bytes]]]]:
    with zmq.Context() as context:
        publisher = context.socket(zmq.XPUB)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        subscribers = [context.socket(zmq.SUB) for _ in range(2)]
        for subscriber in subscribers:
            subscriber.connect(f"tcp://127.0.0.1:{port}")
        yield publisher, subscribers
        for socket in (publisher, *subscribers):
            socket.close(linger=0)


def test_of_real_subscribers_the_first_and_the_last_count(
    sockets: tuple[zmq.Socket[bytes], list[zmq.Socket[bytes]]],
) -> None:
    publisher, (one, other) = sockets
    audience = Audience()

    def wanted() -> bool:
        while publisher.poll(20):
            assert audience.tell(publisher.recv())
        return audience.wants(IMU)

    assert not wanted()
    one.subscribe(IMU)
    assert eventually(wanted)
    other.subscribe(IMU)

    def reached() -> bool:
        publisher.send(IMU)
        return bool(other.poll(20))

    assert eventually(reached)
    one.close(linger=0)
    assert wanted(), "one of two has gone"
    assert wanted()
    other.close(linger=0)
    assert eventually(lambda: not wanted()), "a subscriber that is gone wants nothing"

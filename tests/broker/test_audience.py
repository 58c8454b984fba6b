"""Who listens: told what an XPUB socket gives, asked which topics are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from tests.support.nodes import eventually
from usbcast_broker.serving.interest import MAX_PREFIXES, TopicInterest, Topics

IMU, IMU2 = b"data/imu/", b"data/imu2/"


def test_a_topic_is_wanted_while_a_prefix_of_it_is() -> None:
    interest = TopicInterest()
    steps = [
        (b"\x01data/imu", True, True, True),
        (b"\x01data/imu", False, True, True),
        (b"\x01data/imu2/", True, True, True),
        (b"\x00data/imu", True, False, True),
        (b"\x01", True, True, True),
        (b"\x00data/imu2/", True, True, True),
        (b"\x00", True, False, False),
        (b"\x00never subscribed to", False, False, False),
    ]
    for message, changed, imu, imu2 in steps:
        assert interest.on_subscription(message) == changed, message
        assert (interest.wants(IMU), interest.wants(IMU2)) == (imu, imu2), message


@pytest.mark.parametrize("message", [b"", b"\x02data/", b"GET / HTTP/1.1"])
def test_what_is_no_subscription_changes_nothing(message: bytes) -> None:
    interest = TopicInterest()
    assert not interest.on_subscription(message)
    assert not interest.wants(IMU)


def test_beyond_the_bound_everything_is_wanted() -> None:
    interest = TopicInterest()
    for n in range(MAX_PREFIXES):
        interest.on_subscription(b"\x01%d" % n)
    assert not interest.wants(IMU)
    interest.on_subscription(b"\x01another")
    assert interest.wants(IMU)
    assert len(interest._prefixes) == MAX_PREFIXES


def test_a_subscription_is_of_use_if_it_fits_a_topic_of_a_stream() -> None:
    topics = Topics([IMU, b"notify/imu/", b"tail/imu/", IMU2])
    fits = [b"", b"d", b"data/", IMU[:-1], IMU, IMU2, b"notify/imu/", b"tail"]
    fits_not = [b"\0", b"data/imu3/", IMU + b"x", b"dat\xff", b"zzz", b"a" * 900, b"\xff"]
    assert [topics.have(prefix) for prefix in fits + fits_not] == [True] * len(fits) + [False] * len(fits_not)
    assert not Topics([]).have(b"")


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
    interest = TopicInterest()

    def wanted() -> bool:
        while publisher.poll(20):
            interest.on_subscription(publisher.recv())
        return interest.wants(IMU)

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

"""The publisher's two kinds of threads: what one leaves behind, the other does in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from usbcast_broker.access.authenticator import Authenticator
from usbcast_broker.access.refusals import Refusals
from usbcast_broker.serving.publisher import Publisher
from usbcast_broker.stream.notification_schedule import NotificationPacer
from usbcast_broker.stream.outlet import Description, Outlet
from usbcast_broker.stream.pipeline import Stream
from usbcast_schemas.engine.protocols import Send

WITHIN_S = 20.0
AN_HOUR_NS = 3600 * 10**9


class WatchedOutlet(Outlet):
    """Tells when its fast path is opened, the publisher's lock being held."""

    opened: Callable[[], None] = staticmethod(lambda: None)

    def open_fast_path(self, bell_at_ns: int, send: Send | None) -> None:
        super().open_fast_path(bell_at_ns, send)
        self.opened()


class SilentStream:
    """A stream without packets, whose heartbeat is an hour away. It counts its turns."""

    over = False
    problem = ""
    waiting_bytes = 0
    patience_bytes = 0
    due_at_ns = None

    def __init__(self, directory: Path) -> None:
        self.outlet = WatchedOutlet(Description("imu"), directory)
        self.outlet.opened = self._opened
        self.outlet.pacer = NotificationPacer(heartbeat_ns=AN_HOUR_NS)
        self.turned = threading.Event()
        self.opened = lambda: None
        """Called when the first turn has opened the fast path, the publisher's lock being held."""

    def process(self, _publish: object) -> bool:
        self.turned.set()
        return False

    def _opened(self) -> None:
        if self.turned.is_set():
            self.opened()


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[SilentStream]:
    made = SilentStream(tmp_path)
    yield made
    made.outlet.ring.close()


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    context: zmq.Context[Any] = zmq.Context()
    authenticator = Authenticator(context, None, Refusals(), 10)
    authenticator.start()
    made = Publisher(context, authenticator)
    yield made
    made.stop()
    authenticator.stop()
    context.term()


def test_what_a_feed_leaves_behind_while_the_publisher_ends_its_turn_does_not_wait_for_a_heartbeat(
    stream: SilentStream, publisher: Publisher, tmp_path: Path
) -> None:
    """The fast path is open again, a batch goes through that somebody else is to send, and the lock is still taken."""

    def brings_a_batch() -> None:
        stream.opened = lambda: None
        stream.turned.clear()
        feed = threading.Thread(target=publisher.on_data, args=(stream,))
        feed.start()
        feed.join()

    stream.opened = brings_a_batch
    publisher.start([cast(Stream, stream)], [[f"ipc://{tmp_path}/data"]])
    assert stream.turned.wait(WITHIN_S)

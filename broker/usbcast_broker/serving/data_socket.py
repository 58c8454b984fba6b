"""A data socket: an XPUB, its fan-out, and the thread that carries out what its subscribers cause.

An XPUB is a PUB that also reports subscriptions. Its thread is the only one that receives from it, and it may spend as long as
libzmq needs to keep the tree of subscriptions; the threads that publish send past it (usbcast_schemas/fanout.py). When interest
in a topic begins or ends, the thread updates `interest` first and calls `changed` afterwards, so that whoever looks because of
the call finds the new state.

libzmq keeps subscriptions in a tree with a node for each of their bytes, and walks all of it for each subscriber that leaves.
So the tree holds only topics that exist: a client that subscribes to anything else is disconnected at the first such
subscription, and everything that a subscriber may send is small (docs/decisions/0082).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import zmq

from usbcast_broker.access.authenticator import Authenticator
from usbcast_broker.access.binding import bind_first
from usbcast_broker.doorbell import PollableDoorbell
from usbcast_broker.serving.interest import SUBSCRIBED, TopicInterest, Topics
from usbcast_schemas.fanout import Fanout, Said, fanout_of
from usbcast_schemas.sockets import set_up

MAX_SUBSCRIPTION_BYTES = 128
"""Of a message to a node without keys: a topic has at most 72 bytes, and a handshake more than that."""

MAX_KEYED_SUBSCRIPTION_BYTES = 400
"""With keys a part of the handshake has some 280 bytes, and a subscription 33 more than its topic."""

UNREAD_SUBSCRIPTIONS = 4
"""Of a subscriber, that have come and are not in the tree yet. (With 1 and CURVE libzmq 4.3.5 takes none at all.)"""

RECEIVE_BUFFER_BYTES = 4096
"""For what a subscriber on the network sends and has not been read yet."""

MAX_SAID = 1_000
"""Subscriptions and their ends of one connection, in its life."""


class DataSocket:
    """Made and closed by one thread; `fanout` and `interest` may be used by any, as they say themselves."""

    fanout: Fanout

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        authenticator: Authenticator,
        which: str,
        topics: Callable[[], Topics],
        changed: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`topics` are those that exist now.

        Its thread calls `changed` when the audience has changed, and `failed` when it can do no more.
        """
        self.interest = TopicInterest()
        self._context = context
        self._authenticator = authenticator
        self._which = which
        self._topics = topics
        self._changed = changed
        self._failed = failed
        self._bell = PollableDoorbell()
        self._stopping = False
        self._socket: zmq.Socket[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"usbcast-{which.replace(' ', '-')}", daemon=True)

    def bind(self, endpoints: Sequence[str]) -> str:
        """Bind to the first of `endpoints` that is free, and begin; return it as bound. Raises EndpointTaken."""
        socket = self._socket = self._context.socket(zmq.XPUB)
        keyed = self._authenticator.own is not None
        set_up(socket, max_message_bytes=MAX_KEYED_SUBSCRIPTION_BYTES if keyed else MAX_SUBSCRIPTION_BYTES)
        socket.setsockopt(zmq.RCVHWM, UNREAD_SUBSCRIPTIONS)
        socket.setsockopt(zmq.RCVBUF, RECEIVE_BUFFER_BYTES)
        socket.setsockopt(
            zmq.XPUB_VERBOSE, 1
        )  # else nothing is said of who subscribes to what others have subscribed to
        self._authenticator.guard(socket, self._which)
        bound = bind_first(socket, endpoints)
        self.fanout = fanout_of(socket)
        self._thread.start()
        return bound

    def look(self) -> None:
        """Have its thread look whether somebody has subscribed."""
        self._bell.ring()

    def close(self) -> None:
        """Return when the thread is gone and the socket closed. Nobody may send by then."""
        self._stopping = True
        self._bell.ring()
        if self._thread.ident is not None:
            self._thread.join()
            self.fanout.close()
        if self._socket is not None:
            self._authenticator.release(self._socket)
            # What has been handed to ZeroMQ is sent, if somebody takes it soon.
            self._socket.close(linger=200)
        self._bell.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                said = self.fanout.attend(self._bell.fileno())
                self._bell.quiet()
                changes = [self._hear(Said(*one)) for one in said]
                if any(changes):
                    self._changed()
        except BaseException as error:
            self._failed(error)
            raise

    def _hear(self, said: Said) -> bool:
        """Whether this changed the audience."""
        if said.descriptor < 0:
            return self.interest.on_subscription(said.what)  # libzmq itself: the last one of its kind has gone
        if said.what[:1] == SUBSCRIBED and not self._topics().have(said.what[1:]):
            self._authenticator.asked_for_nothing(self._which, said)
            return False
        if said.what[:1] > SUBSCRIBED or self._authenticator.said(self._which, said.descriptor) > MAX_SAID:
            self._authenticator.talked(self._which, said)
            return False
        return self.interest.on_subscription(said.what)

"""Receiving by a SUB socket: batches pushed on the data topic, or notifications alone."""

from __future__ import annotations

import os
import time

import zmq

from usbcast.node.credentials import Credentials
from usbcast.node.handshake import Handshakes
from usbcast.receiving.channels import Sink
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.batch import decode_batch
from usbcast_schemas.contract import data_topic, notify_topic, tail_topic
from usbcast_schemas.engine.protocols import StreamReader
from usbcast_schemas.engine.pure_reader import ClosedReader
from usbcast_schemas.engine.readers import message_reader
from usbcast_schemas.errors import PeerError, UsageError, WireError
from usbcast_schemas.messages import messages_of
from usbcast_schemas.places import host_id
from usbcast_schemas.sockets import as_reached, connect, readable, set_up, split_tcp
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import MAX_DATA_BYTES, decode_notification, decode_published

TURN_MESSAGES = 1000
"""Of what makes nothing to take, as rubbish, any number may come; so many, and whoever waits looks at the time again."""


class PublishedChannel:
    """via="push" subscribes to data and to notifications once it rests (a lost tail is noticed by them), via="notify" to all."""

    can_fetch = True
    over = False

    def __init__(
        self,
        info: pb.StreamInfo,
        reached_by: str,
        via: str,
        waiter: Waiter,
        keys: Credentials | None,
        *,
        latest: bool = False,
        heard_ns: int | None = None,
    ) -> None:
        """`heard_ns`: when the channel that this one replaces heard something last."""
        endpoint = data_endpoint(info, reached_by)
        self.via = via
        self.source_silent_ns = 0
        self._heard_ns = time.monotonic_ns() if heard_ns is None else heard_ns
        self._news = 0
        self._rests = True
        self._known_number = 0
        self._latest = latest
        self._waiter = waiter
        self._data = data_topic(info.stream)
        # Who gets the data need not be woken to be told of it.
        told = tail_topic if via == "push" and info.has_tail else notify_topic
        self._notify = told(info.stream)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        set_up(self._socket, max_message_bytes=MAX_DATA_BYTES)
        self._messages = messages_of(self._socket)
        self.reader: StreamReader = message_reader(self._messages, self._data) if via == "push" else ClosedReader()
        # In this order, so that who has heard a notification is sent every batch from then on.
        if via == "push":
            self._socket.subscribe(self._data)
        self._socket.subscribe(self._notify)
        try:
            self._handshakes = Handshakes(self._socket, endpoint, reached_by, keys)
        except BaseException:
            self._socket.close()
            raise
        try:
            connect(self._socket, endpoint)
        except UsageError as error:
            self._handshakes.close()
            self._socket.close()
            raise WireError(f"the node at {reached_by} publishes at an unusable address: {error}") from None
        self._waiter.add(self._socket.fileno())
        self._waiter.add(self._handshakes.fileno())

    def pump(self, sink: Sink) -> None:
        messages = self._messages
        woken = messages.drained
        messages.drained = not messages.left_over and not woken and not readable(self._socket)
        for _ in range(TURN_MESSAGES):
            if messages.drained or sink.full:
                return
            frames = messages.receive()
            if frames is None:
                return
            self._heard_ns = time.monotonic_ns()
            try:
                topic, body = decode_published(frames)
                if topic == self._data:
                    self._news += 1
                    self._rests = False
                    sink.live(decode_batch(body))
                    if woken and not self._latest:
                        return  # it goes to the application before the notification behind it is looked at
                elif topic == self._notify:
                    news = decode_notification(body)
                    self.source_silent_ns = news.source_silent_ns
                    self._rests = True
                    if self.via == "notify" and news.next_number != self._known_number:
                        self._news += 1
                        self._known_number = news.next_number
                    sink.known(news.epoch, news.next_sequence, news.next_number, ended=news.ended)
                else:
                    raise WireError(f"a message came on the topic {topic[:100]!r}, which was not subscribed to")
            except PeerError as error:
                sink.malformed(error)

    @property
    def heard_ns(self) -> int:
        return max(self._heard_ns, self.reader.taken_ns)

    @property
    def news(self) -> int:
        return self._news + self.reader.taken

    @property
    def rests(self) -> bool:
        return self._rests and self.reader.taken_ns <= self._heard_ns

    @property
    def has_more(self) -> bool:
        self._messages.drained = not self._messages.left_over and not readable(self._socket)
        return not self._messages.drained

    def check(self) -> None:
        self._handshakes.check()

    @property
    def rest_s(self) -> float:
        return self._handshakes.rest_s

    def may_sleep(self) -> bool:
        return self._messages.drained and self._handshakes.may_sleep()

    def close(self) -> None:
        self._waiter.remove(self._handshakes.fileno())
        self._waiter.remove(self._socket.fileno())
        self._handshakes.close()
        self._messages.close()
        self._socket.close()


def data_endpoint(info: pb.StreamInfo, reached_by: str) -> str:
    """The best address of the data: a local socket on the same machine, else the host by which the node was reached."""
    if info.host_id == host_id():
        for endpoint in info.data_endpoints:
            # Another user's is there, but in a directory that this one may not enter.
            if endpoint.startswith("ipc://") and os.access(endpoint.removeprefix("ipc://"), os.W_OK):
                return endpoint
    try:
        for endpoint in info.data_endpoints:
            if split_tcp(endpoint):
                return as_reached(endpoint, reached_by)
    except UsageError as error:
        raise WireError(f"the node at {reached_by} publishes at an unusable address: {error}") from None
    if not info.data_endpoints:
        raise WireError(f"the node at {reached_by} describes stream {info.stream!r} without an address for its data")
    return info.data_endpoints[0]

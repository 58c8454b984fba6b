"""A node played by a test: it answers and publishes what the test likes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType

import zmq

from usbcast_schemas.batch import Arrivals, encode_batch
from usbcast_schemas.contract import CONTRACT, data_topic, notify_topic
from usbcast_schemas.places import host_id
from usbcast_schemas.v1 import usbcast_pb2 as pb

STREAM = "fake"
EPOCH = 0xFA4E

Answer = Callable[[pb.Request], list[list[bytes]]]


class FakeNode:
    """Two sockets and a thread. `answer` makes the messages that a request gets; None: those of an honest node."""

    def __init__(self, answer: Answer | None = None, *, remote: bool = True) -> None:
        self.answer = answer or self.honest
        self.asked: list[str] = []
        self.made: list[bytes] = []
        self.next_sequence = 0
        self._remote = remote
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._pub = self._context.socket(zmq.PUB)
        self._ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (self._router, self._pub)]
        self.endpoint = f"tcp://127.0.0.1:{self._ports[0]}"
        self._publishing = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fake node")
        self._thread.start()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping = True
        self._thread.join()
        self._router.close(linger=0)
        self._pub.close(linger=0)
        self._context.term()

    def publish(self, *frames: bytes) -> None:
        with self._publishing:
            self._pub.send_multipart(frames)

    def notify(self) -> None:
        """A heartbeat."""
        told = pb.Notification(
            contract=CONTRACT, epoch=EPOCH, next_sequence=self.next_sequence, next_number=len(self.made)
        )
        self.publish(notify_topic(STREAM), told.SerializeToString())

    def batch(self, count: int = 1, *, publish: bool = True) -> None:
        """The next batch."""
        raw = encode_batch(
            epoch=EPOCH, number=len(self.made), first_sequence=self.next_sequence, packet_count=count, packet_size=4,
            payload=[(self.next_sequence + i).to_bytes(4, "little") for i in range(count)],
            arrivals=Arrivals((count,), (0,), (0,)),
        )  # fmt: skip
        self.made.append(raw)
        self.next_sequence += count
        if publish:
            self.publish(data_topic(STREAM), raw)

    def info(self) -> pb.StreamInfo:
        return pb.StreamInfo(
            contract=CONTRACT,
            stream=STREAM,
            epoch=EPOCH,
            packet_size=4,
            data_endpoints=[f"tcp://127.0.0.1:{self._ports[1]}"],
            host_id="elsewhere" if self._remote else host_id(),
            next_sequence=self.next_sequence,
            next_number=len(self.made),
            node_pid=os.getpid(),
        )

    def honest(self, request: pb.Request) -> list[list[bytes]]:
        """What a node answers that holds everything."""
        kind = request.WhichOneof("body")
        reply = pb.Reply(contract=CONTRACT, request_id=request.request_id)
        if kind == "describe":
            reply.described.streams.append(self.info())
            return [[reply.SerializeToString()]]
        if kind == "fetch":
            made = self.made[request.fetch.from_number :]
            fetched = pb.FetchReply(
                batch_count=len(made),
                epoch=EPOCH,
                next_sequence=self.next_sequence,
                next_number=len(self.made),
                complete=True,
            )
            reply.fetched.CopyFrom(fetched)
            return [[reply.SerializeToString(), *made]]
        return []

    def _run(self) -> None:
        while not self._stopping:
            if not self._router.poll(10):
                continue
            identity, *frames = self._router.recv_multipart()
            request = pb.Request.FromString(frames[0])
            self.asked.append(request.WhichOneof("body") or "")
            for message in self.answer(request):
                self._router.send_multipart([identity, *message])

"""Raw pyzmq PUB/SUB with opaque bytes: what usbcast's push way stands on."""

from __future__ import annotations

from functools import partial

import zmq

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import Task

TOPIC = b"data/bench/"


class ZmqPublisher(SendingPublisher):
    def __init__(self, task: Task, *, transport: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.bind(f"ipc://{task.directory}/zmq" if transport == "ipc" else "tcp://127.0.0.1:*")
        self.address = self._socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]

    def send(self, block: bytes) -> None:
        self._socket.send_multipart((TOPIC, block), zmq.DONTWAIT)

    def close(self) -> None:
        self._context.destroy(linger=0)


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.subscribe(TOPIC)
    socket.connect(task.address)
    while not take(socket.recv_multipart()[1]):
        pass
    context.destroy(linger=0)


FLOW = "drops at the high-water mark (1,000 messages), without a word"
PEERS = {
    "pyzmq-ipc": Peer("raw pyzmq, ipc", partial(ZmqPublisher, transport="ipc"), subscribe, FLOW),
    "pyzmq-tcp": Peer("raw pyzmq, tcp", partial(ZmqPublisher, transport="tcp"), subscribe, FLOW),
}

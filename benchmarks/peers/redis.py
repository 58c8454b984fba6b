"""Redis PUBLISH/SUBSCRIBE: each publication waits for the server's answer, as its client does."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import Task

CHANNEL = "bench"


def server(task: Task) -> Sequence[str]:
    return [
        "redis-server", "--bind", "127.0.0.1", "--port", str(task.port), "--save", "", "--appendonly", "no",
        "--dir", task.directory, "--client-output-buffer-limit", "pubsub", "512mb", "256mb", "60",
    ]  # fmt: skip


class RedisPublisher(SendingPublisher):
    def __init__(self, task: Task) -> None:
        self._client = redis.Redis(port=task.port)

    def send(self, block: bytes) -> None:
        self._client.publish(CHANNEL, block)

    def close(self) -> None:
        self._client.close()


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    subscription = redis.Redis(port=task.port).pubsub(ignore_subscribe_messages=True)
    subscription.subscribe(CHANNEL)
    for message in subscription.listen():
        if take(message["data"]):
            return


PEERS = {
    "redis": Peer("Redis", RedisPublisher, subscribe, "its server cuts off a subscriber 512 MB behind", server=server)
}

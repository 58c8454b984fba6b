"""NATS core: nats-py on asyncio on both sides, nats-server between them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import nats

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import Task

SUBJECT = "bench.data"
PENDING_BYTES = 256 * 1024 * 1024


def server(task: Task) -> Sequence[str]:
    return ["nats-server", "--addr", "127.0.0.1", "--port", str(task.port)]


class NatsPublisher(SendingPublisher):
    def __init__(self, task: Task) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._do(nats.connect(f"nats://127.0.0.1:{task.port}", flusher_queue_size=task.window * 4))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def send(self, block: bytes) -> None:
        self._do(self._publish(block))

    async def _publish(self, block: bytes) -> None:
        await self._client.publish(SUBJECT, block)
        await asyncio.sleep(0)  # lets the client's flusher write

    def close(self) -> None:
        self._do(self._client.close())


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    asyncio.run(_subscribe(task, take))


async def _subscribe(task: Task, take: Take) -> None:
    client = await nats.connect(f"nats://127.0.0.1:{task.port}")
    subscription = await client.subscribe(SUBJECT, pending_msgs_limit=1_000_000, pending_bytes_limit=PENDING_BYTES)
    async for message in subscription.messages:
        if take(message.data):
            break
    await client.close()


PEERS = {
    "nats": Peer("NATS", NatsPublisher, subscribe, "its server cuts off a slow subscriber after 10 s", server=server)
}

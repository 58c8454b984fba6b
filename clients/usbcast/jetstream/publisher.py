"""Publishing without waiting: each message has a number, and what the server answers comes back with it.

The library's `publish_async` (2.16) loses the answer where that is an error, so the answers are taken here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from usbcast.jetstream.connection import Connection

NO_RESPONDERS = "503"
_NOT_BEHIND_THE_LAST = (10070, 10071)


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's answer to one message."""

    number: int
    """Number of the message, in the order of publishing."""
    sequence: int = 0
    """Sequence under which it is stored; 0 if it is not."""
    duplicate: bool = False
    refusal: str = ""
    """Why it is not stored; empty if it is."""


class Publisher:
    """Over one connection; `answered` is called in the event loop, in no certain order."""

    def __init__(self, connection: Connection, store: str, answered: Callable[[Answer], None]) -> None:
        self._connection = connection
        self._store = store
        self._answered = answered
        self._inbox = connection.client.new_inbox()

    async def begin(self) -> None:
        await self._connection.client.subscribe(f"{self._inbox}.*", cb=self._take)

    async def publish(self, number: int, subject: str, body: bytes, headers: dict[str, str]) -> None:
        await self._connection.client.publish(subject, body, reply=f"{self._inbox}.{number}", headers=headers)

    async def _take(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        server = self._connection.server
        if message.headers is not None and message.headers.get("Status") == NO_RESPONDERS:
            refusal = f"the servers of {server} have no leader for {self._store} at the moment"
            self._answered(Answer(number, refusal=refusal))
            return
        said = json.loads(message.data)
        error = said.get("error")
        if error is None:
            self._answered(Answer(number, int(said["seq"]), bool(said.get("duplicate"))))
        elif error.get("err_code") in _NOT_BEHIND_THE_LAST:
            refusal = (
                f"the server {server} holds more of {self._store} than expected: another forwarder stores this stream too, "
                "or a message that seemed lost has arrived"
            )
            self._answered(Answer(number, refusal=refusal))
        else:
            refusal = f"the server {server} refuses to store in {self._store}: {error.get('description')}"
            self._answered(Answer(number, refusal=refusal))

"""One connection to one of the NATS servers. Every failure becomes one sentence that names the server.

The connection never reconnects by itself: after an outage nothing may be sent that was meant for the time before, so its
user asks the server again how far the stream has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, Error, NoRespondersError
from nats.js.errors import APIError, ServiceUnavailableError

from usbcast.node.endpoints import Address, public
from usbcast_schemas.errors import NodeUnreachable, ServerRefused, UsageError

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0
PING_S = 2.0
"""Two that are not answered, and the connection is given up."""

NO_JETSTREAM, NO_JETSTREAM_ACCOUNT, NO_LEADER = 10076, 10039, 10008
HEARINGS = 4
"""A server that refuses a login says so and hangs up, and the one may overtake the other."""

_BAD_LOGIN = ("authorization", "authentication", "credentials", "nkey", "jwt")

T = TypeVar("T")


class Connection:
    """`ask` over it; `closed` is set when it is gone. Used in one event loop."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.server = public(url)
        self.js = client.jetstream(timeout=ANSWER_TIMEOUT_S)
        self.closed = asyncio.Event()
        self.complaint = ""
        """The server's last error message that answers no request, for instance a missing permission."""

    async def ask(self, answer: Awaitable[T], doing: str) -> T:
        """Wait for an answer of the server. Raises NodeUnreachable, ServerRefused; APIError where it is one to look into."""
        asking = asyncio.ensure_future(answer)
        closing = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({asking, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise self.lost(doing)
            return asking.result()
        except (TimeoutError, APIError, NoRespondersError, Error, OSError) as error:
            raise self.explained(error, doing) from None
        finally:
            closing.cancel()
            asking.cancel()
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # it has been heard

    def explained(self, error: Exception, doing: str) -> Exception:
        """The sentence for what a request came to."""
        if isinstance(error, NoRespondersError | ServiceUnavailableError) or (
            isinstance(error, APIError) and error.err_code in (NO_JETSTREAM, NO_JETSTREAM_ACCOUNT, NO_LEADER)
        ):
            if not self._has_jetstream or (isinstance(error, APIError) and error.err_code == NO_JETSTREAM_ACCOUNT):
                return ServerRefused(
                    f"the server {self.server} offers no JetStream to this user: start it with `-js`, "
                    "or put jetstream {} into its configuration"
                )
            return NodeUnreachable(f"the servers of {self.server} have no JetStream leader at the moment, for {doing}")
        if isinstance(error, APIError):
            return error
        if isinstance(error, ConnectionClosedError):
            return self.lost(doing)
        if self.complaint:
            return ServerRefused(f"the server {self.server} refuses {doing}: {self.complaint}")
        return NodeUnreachable(f"the server {self.server} did not answer within {ANSWER_TIMEOUT_S:g} s, for {doing}")

    def lost(self, doing: str) -> NodeUnreachable:
        return NodeUnreachable(f"the connection to the server {self.server} was lost during {doing}")

    @property
    def max_payload_bytes(self) -> int:
        return self.client.max_payload

    @property
    def _has_jetstream(self) -> bool:
        return bool(self.client._server_info.get("jetstream"))  # it has no public name


class Servers:
    """The servers of a cluster, as given and as they tell of each other; the next connection begins with the next one."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._known = list(address.servers)
        self._next = 0

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection to the first server that answers. Raises NodeUnreachable, ServerRefused, UsageError."""
        failed: dict[str, Exception] = {}
        for n in range(len(self._known)):
            url = self._known[(self._next + n) % len(self._known)]
            try:
                made = await _connect(url, self.address)
            except NodeUnreachable as error:
                failed[url] = error
                continue
            self._next = (self._next + n + 1) % len(self._known)
            self._learn(made.client)
            try:
                yield made
            finally:
                await _hang_up(made.client)
            return
        raise (
            failed[self._known[self._next % len(self._known)]]
            if len(failed) == 1
            else NodeUnreachable(
                f"none of the servers {', '.join(map(public, failed))} answers: {next(iter(failed.values()))}"
            )
        )

    def _learn(self, client: Client) -> None:
        """Others of the cluster, which the server told of; the login is that of the address."""
        scheme, _, rest = self.address.servers[0].partition("://")
        login = rest.rpartition("@")[0]
        there = {server.rpartition("@")[2].rpartition("://")[2] for server in self._known}
        for found in client.discovered_servers:
            if found.netloc.rpartition("@")[2] not in there:
                self._known.append(f"{scheme}://{f'{login}@' if login else ''}{found.netloc.rpartition('@')[2]}")


class _HungUp(NodeUnreachable):
    """The server cut the connection without a word that was heard."""


async def _connect(url: str, address: Address) -> Connection:
    """A connection; asked for again where the server hung up, as what it said before may have been lost in that."""
    for _ in range(HEARINGS - 1):
        try:
            return await _connect_once(url, address)
        except _HungUp:
            await asyncio.sleep(0.05)
    return await _connect_once(url, address)


async def _connect_once(url: str, address: Address) -> Connection:
    client = Client()
    heard: list[Exception] = []
    connections: list[Connection] = []

    async def on_error(error: Exception) -> None:
        heard.append(error)
        if connections and "permission" in str(error).lower():
            connections[0].complaint = str(error).removeprefix("nats: ")

    async def on_closed() -> None:
        if connections:
            connections[0].closed.set()

    # As a dictionary, because the library takes fractions of seconds and its types do not say so.
    options: dict[str, Any] = {
        "reconnect_time_wait": 0.01,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "ping_interval": PING_S,
    }
    if address.creds:
        if not Path(address.creds).is_file():
            raise UsageError(f"the credentials {address.creds!r} are not a file: give the path of a .creds file")
        options["user_credentials"] = address.creds
    if address.ca:
        options["tls"] = _trusting(address.ca)
    try:
        await client.connect(
            servers=[url],
            name="usbcast",
            error_cb=on_error,
            closed_cb=on_closed,
            disconnected_cb=on_closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            max_outstanding_pings=2,
            **options,
        )
    except asyncio.CancelledError:
        await _hang_up(client)
        raise
    except (TimeoutError, Error, OSError, ValueError) as error:
        await _hang_up(client)
        # That a login is refused explains more than how the connection ended then.
        refused = [said for said in (*heard, error) if _is_bad_login(said)]
        raise _explained((refused or heard or [error])[-1], url, address) from None
    connections.append(Connection(client, url))
    return connections[0]


async def _hang_up(client: Client) -> None:
    """Close the connection, within CONNECT_TIMEOUT_S, even if this task is cancelled meanwhile.

    The library closes nothing when it is cancelled: the socket would stay open until the garbage collector comes by.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + CONNECT_TIMEOUT_S
    closing = asyncio.ensure_future(client.close())
    cancelled: asyncio.CancelledError | None = None
    while not closing.done() and loop.time() < deadline_s:
        try:
            await asyncio.wait({closing}, timeout=deadline_s - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
    if not closing.cancel():
        with contextlib.suppress(Error, OSError, asyncio.CancelledError):
            closing.result()
    if cancelled is not None:
        raise cancelled


def _trusting(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise UsageError(f"cannot read the certificates {ca!r}: {error.strerror or error}") from None


def _is_bad_login(error: Exception) -> bool:
    return any(word in str(error).lower() for word in _BAD_LOGIN)


def _explained(error: Exception, url: str, address: Address) -> Exception:
    said = str(error).removeprefix("nats: ").strip("'\" ")
    server = public(url)
    if _is_bad_login(error):
        how = f"the credentials {address.creds!r}" if address.creds else "user and password in the address, or --creds"
        return ServerRefused(f"the server {server} rejected the login ({said}): check {how}")
    if isinstance(error, ssl.SSLError):
        return ServerRefused(
            f"TLS with the server {server} failed: {getattr(error, 'verify_message', '') or error.reason}; "
            "?ca=FILE in the address names the certificates to trust"
        )
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or said
    else:
        why = said or f"no answer within {CONNECT_TIMEOUT_S:g} s"
    sentence = f"no NATS server answers at {server}: {why}; is one running there?"
    return _HungUp(sentence) if isinstance(error, ConnectionResetError) else NodeUnreachable(sentence)

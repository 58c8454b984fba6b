"""The JetStream streams themselves: made if absent, respected if there, and asked how far they have come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nats.js.api import DiscardPolicy, RawStreamMsg, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from usbcast.jetstream.connection import Connection
from usbcast.jetstream.messages import StoredGap, position_after, read, read_info
from usbcast.jetstream.names import Names, stream_of
from usbcast.receiving.continuity import Position
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.errors import PeerError, ServerRefused, StreamUnknown
from usbcast_schemas.v1 import usbcast_pb2 as pb

DEFAULT_KEEP_S = 7 * 86400.0
DEFAULT_KEEP_BYTES = 10 * 2**30
DUPLICATES_S = 120.0
"""Time for which the server remembers message ids; later duplicates are refused by the expected sequence."""

MOST_DESCRIPTIONS = 10_000
NEWEST_AMONG = 100
MOST_FOREIGN = 1_000
"""Most foreign messages stepped over to find the last one of usbcast."""
_NAME_IN_USE, _STORAGE_EXCEEDED, _NO_PEERS = 10058, (10023, 10028, 10047), (10005, 10074, 10052)


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of a new JetStream stream; None where the user gave none."""

    keep_s: float | None = None
    keep_bytes: int | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class StoreState:
    """Progress of a JetStream stream."""

    first_sequence: int
    last_sequence: int
    created: str
    position: Position | None
    """Behind the last message of usbcast; None if none is left."""
    ended: bool
    """True if that message is the end of its epoch."""
    foreign: int = 0
    """Number of foreign messages behind it that were not seen before."""
    why_foreign: str = ""
    """Why the last of them is not accepted."""


@dataclass(frozen=True, slots=True)
class Found:
    """A stored message and its place."""

    sequence: int
    """Sequence on the server."""
    begins: int
    """The packets' sequence at which it begins."""
    position: Position
    """Behind it."""


class Store:
    """The stored messages of one stream, over one connection. Raises NodeUnreachable, ServerRefused."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self.connection = connection
        self.names = names
        self._js = connection.js
        self._foreign = (0, 0)
        """The messages from one sequence up to the other are known not to be of usbcast."""

    async def ensure(self, wanted: Retention, differs: Callable[[str], None]) -> int:
        """Make the streams that are not there; return how large a message may be. `differs` hears what is not as wanted."""
        names = self.names
        keep_s = DEFAULT_KEEP_S if wanted.keep_s is None else wanted.keep_s
        made = StreamConfig(
            name=names.store,
            description=f"usbcast stream {names.stream}: batches and gaps, in order",
            subjects=names.stored,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            max_age=keep_s,
            max_bytes=DEFAULT_KEEP_BYTES if wanted.keep_bytes is None else wanted.keep_bytes,
            num_replicas=wanted.replicas or 1,
            duplicate_window=min(DUPLICATES_S, keep_s),
        )
        there = await self._there_or_made(made)
        self._check(there)
        for sentence in _differences(there, wanted):
            differs(f"{names.store} exists already and {sentence}; it is left so (`nats stream edit` changes it)")
        described = StreamConfig(
            name=names.descriptions,
            description="usbcast: the last description of each epoch of every stream",
            subjects=[names.all_info],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            max_msgs=MOST_DESCRIPTIONS,
            max_msgs_per_subject=1,
            num_replicas=there.num_replicas or 1,
        )
        await self._there_or_made(described)
        limits = [self.connection.max_payload_bytes, there.max_msg_size or -1]
        return min(limit for limit in limits if limit > 0)

    async def standing(self) -> StoreState:
        """Return the stream's progress as the server knows it. Raises StreamUnknown if the server does not have it."""
        names = self.names
        try:
            info = await self.connection.ask(self._js.stream_info(names.store), f"the state of {names.store}")
        except NotFoundError:
            known = await self.streams()
            raise StreamUnknown(
                f"the server {self.connection.server} has no stream {names.stream!r} below {names.prefix!r}: "
                + (f"it has {', '.join(known)}" if known else "it has none yet")
            ) from None
        if not info.state.messages:
            return StoreState(info.state.first_seq, info.state.last_seq, str(info.created), None, ended=False)
        last, foreign, why = await self._last_readable(info.state.first_seq, info.state.last_seq)
        position = position_after(last) if last is not None else None
        ended = isinstance(last, EncodedBatch) and last.end is not None
        return StoreState(info.state.first_seq, info.state.last_seq, str(info.created), position, ended, foreign, why)

    async def _last_readable(self, first: int, last: int) -> tuple[EncodedBatch | StoredGap | None, int, str]:
        """The last message of usbcast; how many foreign ones behind it are new, and what is wrong with the last of them."""
        at, foreign, why = last, 0, ""
        found: EncodedBatch | StoredGap | None = None
        while at >= first:
            if self._foreign[0] <= at <= self._foreign[1]:
                at = self._foreign[0] - 1
                continue
            message = await (self._last(at) if at == last else self._message(seq=at))
            if message is not None:
                at = message.seq or at
                try:
                    found = read(message.subject or "", message.data or b"")
                    break
                except PeerError as error:
                    foreign, why = foreign + 1, why or str(error)
            elif at == last:
                break  # none is left
            if foreign >= MOST_FOREIGN:
                names = self.names
                raise ServerRefused(
                    f"the last {foreign:,} messages of {names.store} on {self.connection.server} are not usbcast's ({why}): "
                    f"let no other program publish to {' and '.join(names.stored)}, and purge {names.store}"
                )
            at -= 1
        self._foreign = (at + 1, last)
        return found, foreign, why

    async def _last(self, sequence: int) -> RawStreamMsg | None:
        """Return the last message, at `sequence`; the one before it if that was removed; None if none is left.

        Ask for one subject at a time: asked for the last of several, nats-server 2.9 may say that there is none.
        """
        last = await self._message(seq=sequence)
        if last is not None:
            return last
        found = [message for subject in self.names.stored if (message := await self._message(subject=subject))]
        return max(found, key=lambda message: message.seq or 0, default=None)

    async def newest(self, standing: StoreState) -> int:
        """The sequence of the last batch that holds a packet, among the last 100 messages; else of the last message."""
        least = max(standing.first_sequence, standing.last_sequence - NEWEST_AMONG + 1)
        for sequence in range(standing.last_sequence, least - 1, -1):
            message = await self._message(seq=sequence)
            try:
                item = read(message.subject or "", message.data or b"") if message is not None else None
            except PeerError:
                continue
            if isinstance(item, EncodedBatch) and item.packet_count:
                return sequence
        return standing.last_sequence

    async def _message(self, *, seq: int | None = None, subject: str | None = None) -> RawStreamMsg | None:
        store = self.names.store
        try:
            return await self.connection.ask(self._js.get_msg(store, seq=seq, subject=subject), f"a message of {store}")
        except NotFoundError:
            return None

    async def after(self, sequence: int) -> Found | None:
        """Return the first message at or behind `sequence`; None if there is none."""
        names = self.names
        while True:
            try:
                message = await self.connection.ask(
                    self._js.get_msg(names.store, seq=sequence, subject=f"{names.prefix}.{names.stream}.*", next=True),
                    f"a message of {names.store}",
                )
            except NotFoundError:
                return None
            sequence = message.seq or sequence
            try:
                item = read(message.subject or "", message.data or b"")
            except PeerError:
                sequence += 1
                continue
            begins = item.first_sequence if isinstance(item, EncodedBatch) else item.gap.first
            return Found(sequence, begins, position_after(item))

    async def description(self, epoch: int) -> pb.StreamInfo | None:
        """Return the last description of the stream in `epoch`. Raises PeerError if it is not a description."""
        names = self.names
        try:
            message = await self.connection.ask(
                self._js.get_msg(names.descriptions, subject=names.info(epoch)), "a description"
            )
        except NotFoundError:
            return None
        return read_info(message.data or b"")

    async def streams(self) -> list[str]:
        """The names of all streams that were described below the prefix."""
        names = self.names
        try:
            info = await self.connection.ask(
                self._js.stream_info(names.descriptions, subjects_filter=names.all_info), "the list of streams"
            )
        except NotFoundError:
            return []
        return sorted({stream_of(subject) for subject in info.state.subjects or {}})

    async def _there_or_made(self, wanted: StreamConfig) -> StreamConfig:
        name = wanted.name or ""
        try:
            return (await self.connection.ask(self._js.stream_info(name), f"the state of {name}")).config
        except NotFoundError:
            pass
        try:
            return (await self.connection.ask(self._js.add_stream(wanted), f"making {name}")).config
        except APIError as error:
            if error.err_code == _NAME_IN_USE:  # somebody else made it meanwhile
                return (await self.connection.ask(self._js.stream_info(name), f"the state of {name}")).config
            raise self._refused(name, wanted, error) from None

    def _refused(self, name: str, wanted: StreamConfig, error: APIError) -> ServerRefused:
        hint = ""
        if error.err_code in _STORAGE_EXCEEDED:
            hint = "; ask for less with --keep-bytes"
        elif error.err_code in _NO_PEERS:
            hint = f"; --replicas {wanted.num_replicas} needs as many servers in the cluster"
        return ServerRefused(f"the server {self.connection.server} cannot create {name}: {error.description}{hint}")

    def _check(self, there: StreamConfig) -> None:
        """Raise ServerRefused if nothing can be stored there in order and kept until it is read."""
        names = self.names
        wrong = ""
        if there.mirror or there.sealed:
            wrong = "it is a mirror or sealed"
        elif set(there.subjects or ()) != set(names.stored):
            wrong = f"its subjects are {', '.join(there.subjects or ())} instead of {', '.join(names.stored)}"
        elif there.retention not in (None, RetentionPolicy.LIMITS):
            wrong = f"its retention is {there.retention!s} instead of limits"
        elif there.no_ack:
            wrong = "it does not acknowledge"
        elif there.max_msgs_per_subject not in (-1, 0):
            wrong = f"it keeps {there.max_msgs_per_subject} messages per subject"
        if wrong:
            raise ServerRefused(
                f"the server {self.connection.server} has {names.store} with another configuration: {wrong}; "
                f"remove it, or give another prefix in the address (nats://HOST/PREFIX)"
            )


def _differences(there: StreamConfig, wanted: Retention) -> list[str]:
    found = []
    if wanted.keep_s is not None and abs((there.max_age or 0) - wanted.keep_s) > 0.001:
        keeps = f"for {there.max_age:g} s" if there.max_age else "for ever"
        found.append(f"keeps messages {keeps}, not for {wanted.keep_s:g} s")
    if wanted.keep_bytes is not None and there.max_bytes != wanted.keep_bytes:
        keeps = f"{there.max_bytes:,} bytes" if (there.max_bytes or -1) > 0 else "an unlimited size"
        found.append(f"keeps {keeps}, not {wanted.keep_bytes:,} bytes")
    if wanted.replicas is not None and (there.num_replicas or 1) != wanted.replicas:
        found.append(f"has {there.num_replicas} replicas, not {wanted.replicas}")
    return found

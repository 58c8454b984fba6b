"""The receiver of a stream that is stored on a server: the same events as from a node, out of the same continuity core."""

from __future__ import annotations

import logging
import time

from usbcast.clock.clock_watch import ClockWatch
from usbcast.clock.offset import ClockOffset
from usbcast.events import Silence
from usbcast.jetstream.messages import StoredGap
from usbcast.jetstream.names import Names
from usbcast.jetstream.store_reader import Begun, Failed, Item, Stored, StoreReader
from usbcast.node.credentials import Credentials
from usbcast.node.endpoints import Address
from usbcast.receiving.continuity import Continuity, Position
from usbcast.receiving.event_builder import Event, EventBuilder, Record
from usbcast.receiving.waiting import Waiter
from usbcast_schemas.batch import EncodedBatch
from usbcast_schemas.contract import SILENCE_S
from usbcast_schemas.errors import NodeUnreachable, PeerError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.places import host_id
from usbcast_schemas.v1 import usbcast_pb2 as pb

log = logging.getLogger(__name__)

REMOVED = "removed by the server's retention"
OUT_BATCHES = 64
TURN_ITEMS = 1000
"""Of the newest alone, more may come while they are taken; the application gets its turn."""

_SILENCE_NS = int(SILENCE_S * 1e9)


class StoreReceiver:
    """A `Receiver` of what a NATS server stores. Used by one thread; another one brings what is stored."""

    via = "nats"

    def __init__(self, stream: str, address: Address, start: str | int | Position, deliver: str) -> None:
        self.stream = stream
        self.keys: Credentials | None = None
        self.info: pb.StreamInfo | None = None
        self.waiter = Waiter()
        self._address = address
        self._start = start
        self._latest = deliver == "latest"
        self._core = Continuity(latest=self._latest, can_fetch=False, gone=(REMOVED, "store"))
        if isinstance(start, Position):
            self._core.start(start.epoch, start.next_sequence, start.next_number)
        self._clock = ClockWatch(stream)
        """Knows this host's clock only: the reading host cannot be asked through a server."""
        self._event_builder = EventBuilder(self._core, self._clock)
        self._joined = self._silent = self._named_malformed = False
        self._next: Item | None = None
        self._end: EncodedBatch | None = None
        """The end of an epoch, until it is known whether anything follows in the store."""
        self._store_reader = StoreReader(address, Names(address.prefix, stream), start, latest=self._latest)
        self.waiter.add(self._store_reader.wake_fd)
        self._store_reader.start()

    def pump(self) -> bool:
        """Take what has come; return whether `take` has something. Raises StreamUnknown, ServerRefused."""
        self._store_reader.awake()
        for _ in range(TURN_ITEMS):
            if len(self._core.out) >= OUT_BATCHES and not self._latest:
                break
            item = self._next or self._store_reader.take()
            self._next = None
            if item is None:
                break
            if isinstance(item, pb.StreamInfo) and self._core.out:
                self._next = item  # what waits is to be decoded by what was said of it
                break
            self._apply(item)
        self._watch(time.monotonic_ns())
        return bool(self._event_builder)

    def take(self) -> Event | None:
        """The next event, if there is one."""
        return self._event_builder.next_event()

    def take_record(self) -> Record | None:
        """As `take`, but batches as they were published. One of the two is used, not both."""
        return self._event_builder.next_record()

    @property
    def lag_ns(self) -> int:
        return self._event_builder.lag_ns

    @property
    def clock(self) -> ClockOffset | None:
        """Zero on the reading host itself, else None."""
        return self._clock.offset()

    @property
    def joined(self) -> bool:
        """Whether all that comes from now on will be delivered or declared."""
        return self._joined

    @property
    def silent(self) -> bool:
        return self._silent

    def wait(self, most_s: float) -> None:
        """There is always something else to be looked at."""

    def park_s(self) -> float:
        """There is always something else to be looked at."""
        return 0.0

    def may_sleep(self) -> bool:
        """Whether nothing has come meanwhile, so that waiting on `waiter` is safe."""
        return self._store_reader.may_sleep()

    def rest_s(self) -> float:
        """How long nothing is due, if nothing comes."""
        if self._silent:
            return SILENCE_S
        return max(0.0, (self._store_reader.heard_ns + _SILENCE_NS - time.monotonic_ns()) / 1e9)

    def ledger(self) -> Ledger:
        """The books of this subscription as of now."""
        books = self._event_builder.ledger()
        books.counters["consumer made anew"] = self._store_reader.made_anew
        return books

    def unreachable(self, timeout_s: float) -> NodeUnreachable:
        """Return the error to raise when nothing was heard within `timeout_s`."""
        why = self._store_reader.trouble or f"the server at {self._address} does not answer"
        return NodeUnreachable(f"stream {self.stream!r} could not be read within {timeout_s:g} s: {why}")

    def close(self) -> None:
        """Let go of everything."""
        self._clock.close()
        self.waiter.remove(self._store_reader.wake_fd)
        self._store_reader.close()
        self.waiter.close()

    def _apply(self, item: Item) -> None:
        match item:
            case PeerError():
                self._malformed(item)
            case Stored(received, PeerError() as error):
                self._malformed(error)
                if not received.pending:
                    self._release_end(is_over=True)
            case Stored(received, (EncodedBatch() | StoredGap()) as stored):
                self._release_end(is_over=False)
                if received.pending and isinstance(stored, EncodedBatch) and stored.end is not None:
                    self._end = stored
                else:
                    self._take_stored(stored)
            case Begun(epoch, sequence, number):
                self._joined = True
                if epoch is not None:
                    self._core.start(epoch, sequence, number)
            case Failed(error):
                self._next = item
                raise error
            case pb.StreamInfo():
                self.info = item
                self._event_builder.describe(item)
                if (reader := item.reader_host_id or item.host_id) == host_id():
                    self._clock.follow("", reader)
            case pb.Notification() if item.epoch == self._core.epoch:
                # Of another epoch, it would run ahead of the batches that are still to come of this one.
                self._core.known(item.epoch, item.next_sequence, item.next_number)

    def _release_end(self, *, is_over: bool) -> None:
        """Take the end that waited: it is history if a message of usbcast stands behind it in the store, as a restart does."""
        batch, self._end = self._end, None
        if batch is not None:
            batch.end = batch.end if is_over else None
            self._take_stored(batch)

    def _take_stored(self, stored: EncodedBatch | StoredGap) -> None:
        if self._core.epoch is None:
            self._join(stored.epoch)
        if isinstance(stored, StoredGap):
            self._core.declared(stored.epoch, stored.gap, stored.next_number)
        else:
            self._core.live(stored)

    def _join(self, epoch: int) -> None:
        start = self._start
        if isinstance(start, int):
            self._core.start(epoch, start, None if start else 0)
        else:
            self._core.start(epoch, None)

    def _watch(self, now_ns: int) -> None:
        heard_ns = self._store_reader.heard_ns
        if now_ns - heard_ns < _SILENCE_NS or not self._store_reader.empty:
            self._silent = False
        elif not self._silent:
            self._silent = True
            self._event_builder.say(Silence(now_ns - heard_ns))

    def _malformed(self, error: Exception) -> None:
        self._core.unreadable()
        self._event_builder.books.count("malformed")
        if not self._named_malformed:
            self._named_malformed = True
            log.warning(
                "stream %s: the server at %s delivered a message that is not usbcast's; it is skipped: %s",
                self.stream,
                self._address,
                error,
            )

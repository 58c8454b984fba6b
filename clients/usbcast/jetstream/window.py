"""Messages sent and not yet acknowledged: bounded, in order, with the forwarder's ledger.

Each message says which sequence of the JetStream stream it expects to come behind. So if one is lost on the way, those
behind it are refused and nothing is ever stored out of order, however many are under way.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from usbcast.jetstream.messages import Outgoing
from usbcast.receiving.continuity import Position
from usbcast_schemas.ledger import Ledger

MOST_MESSAGES = 256
MOST_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class _Sent:
    message: Outgoing
    sequence: int
    """Sequence that it will have on the server."""
    sent_ns: int
    acked: bool = False


class Window:
    """Used by one thread. After an outage, `begin` says what the server has, and puts back what it has not."""

    def __init__(self, most_messages: int = MOST_MESSAGES, most_bytes: int = MOST_BYTES) -> None:
        self.ledger = Ledger("forwarder", "packets")
        self.position: Position | None = None
        """Behind the last message that is stored for certain, and all before it."""
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._sent: deque[_Sent] = deque()
        self._bytes = 0
        self._next_sequence = 1

    @property
    def room(self) -> bool:
        return len(self._sent) < self._most_messages and self._bytes < self._most_bytes

    @property
    def empty(self) -> bool:
        return not self._sent

    @property
    def oldest_sent_ns(self) -> int | None:
        """Time at which the oldest unacknowledged message was sent."""
        return self._sent[0].sent_ns if self._sent else None

    def begin(self, stored: Position | None, last_sequence: int) -> None:
        """The server holds all up to `stored`, its sequence `last_sequence`; what was under way beyond it is put back."""
        stored_until = next((n for n, sent in enumerate(self._sent, 1) if sent.message.after == stored), 0)
        if not stored_until and self.position not in (None, stored):
            self.ledger.count("went back")
        for n, sent in enumerate(self._sent):
            if sent.acked:
                continue
            if n < stored_until:
                self._store(sent.message)
            else:
                amount = _amount(sent.message)
                self.ledger.entered -= amount
                self.ledger.held -= amount
                self.ledger.count("sent again")
        self._sent.clear()
        self._bytes = 0
        self.position = stored
        self._next_sequence = last_sequence + 1

    def add(self, message: Outgoing, now_ns: int) -> int:
        """`message` is being sent; return the sequence it must get."""
        sequence = self._next_sequence
        self._next_sequence += 1
        self._sent.append(_Sent(message, sequence, now_ns))
        self._bytes += len(message.body)
        amount = _amount(message)
        self.ledger.enter(amount)
        self.ledger.held += amount
        return sequence

    def acknowledged(self, sequence: int, *, duplicate: bool) -> Outgoing | None:
        """The server has stored the message that was to get `sequence`; return it, None if it is not under way."""
        if not self._sent or not 0 <= (at := sequence - self._sent[0].sequence) < len(self._sent):
            return None
        sent = self._sent[at]
        if not sent.acked:
            sent.acked = True
            self._store(sent.message)
            if duplicate:
                self.ledger.count("was there already")
        while self._sent and self._sent[0].acked:
            done = self._sent.popleft()
            self._bytes -= len(done.message.body)
            self.position = done.message.after
        return sent.message

    def _store(self, message: Outgoing) -> None:
        self.ledger.held -= _amount(message)
        self.ledger.leave(message.packets)
        self.ledger.count("batches" if message.gap is None else "gaps")
        if message.gap is not None and message.gap.count:
            self.ledger.lose(f"{message.gap.stage}: {message.gap.reason}", message.gap.count)


def _amount(message: Outgoing) -> int:
    return message.packets + (message.gap.count if message.gap is not None else 0)

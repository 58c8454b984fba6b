"""Rate limit of each connection: requests per second, bytes fetched, and the processor time of its answers.

Requests and bytes are a token bucket. A client that goes on after it was told to wait runs into debt, and at a bound is cut; for
some seconds new connections of the same party then begin with little, so that connecting again is no way around it.

Processor time delays and does not refuse: a connection that has used more than its share is answered later (`turns.py`).

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

MAX_ACCOUNTS = 4096
"""Connections whose spending is remembered; beyond it that of the one heard least recently is forgotten."""

BYTES_PER_REQUEST = 128 * 1024
"""Bytes fetched that count as one more request: 2000 requests per second are 250 MB/s."""

HALF_LIFE_NS = 500_000_000
"""Processor time that was spent for a connection counts half after so long."""

MAX_PENALTIES = 1000
PENALTY_NS = 10_000_000_000
PENALISED_TOKENS, PENALISED_DEBT = 50, 200


class Verdict(Enum):
    """What the service does with a request."""

    GRANTED = "granted"
    WAIT = "wait"
    """Answer that it is to ask again later."""
    CUT = "cut"
    """End the connection: it was told, and went on."""
    IGNORED = "ignored"
    """The connection is being cut: drop the request."""


@dataclass(slots=True)
class _Account:
    tokens: float
    debt: float
    at_ns: int
    cut: bool = False
    forgotten_ns: float = -math.inf
    """Time at which the decayed work of this connection has fallen to 1 ns."""


class RateLimiter:
    """Pure; used by one thread. `rate_per_s` requests a second, and as many at once."""

    def __init__(self, rate_per_s: int) -> None:
        self._rate = rate_per_s
        self._accounts: OrderedDict[bytes, _Account] = OrderedDict()
        self._penalties: OrderedDict[str, int] = OrderedDict()

    def spend(self, connection: bytes, party: str, now_ns: int) -> Verdict:
        """A request came by `connection`, which belongs to `party`: a key, or an address."""
        account = self._accounts.get(connection)
        if account is None:
            account = self._accounts[connection] = self._open(party, now_ns)
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(connection)
        if account.cut:
            return Verdict.IGNORED
        account.tokens = min(self._rate, account.tokens + (now_ns - account.at_ns) * self._rate / 1e9) - 1
        account.at_ns = now_ns
        if account.tokens >= 0:
            return Verdict.GRANTED
        if account.tokens >= -account.debt:
            return Verdict.WAIT
        account.cut = True
        self._penalise(party, now_ns)
        return Verdict.CUT

    def charge(self, connection: bytes, size_bytes: int) -> None:
        """The answer has this size: what is large costs like many requests."""
        account = self._accounts.get(connection)
        if account is not None:
            account.tokens -= size_bytes // BYTES_PER_REQUEST

    def worked(self, connection: bytes, work_ns: int, now_ns: int) -> None:
        """An answer took this much processor time."""
        account = self._accounts.get(connection)
        if account is not None:
            counts_ns = 2 ** ((account.forgotten_ns - now_ns) / HALF_LIFE_NS) + work_ns
            account.forgotten_ns = now_ns + HALF_LIFE_NS * math.log2(max(1.0, counts_ns))

    def forgotten_ns(self, connection: bytes) -> float:
        """Return the time at which the decayed work for `connection` falls to 1 ns: the more work, the later."""
        account = self._accounts.get(connection)
        return account.forgotten_ns if account is not None else -math.inf

    def _open(self, party: str, now_ns: int) -> _Account:
        if self._penalties.get(party, 0) > now_ns:
            return _Account(min(self._rate, PENALISED_TOKENS), PENALISED_DEBT, now_ns)
        return _Account(self._rate, self._rate, now_ns)

    def _penalise(self, party: str, now_ns: int) -> None:
        self._penalties[party] = now_ns + PENALTY_NS
        self._penalties.move_to_end(party)
        if len(self._penalties) > MAX_PENALTIES:
            self._penalties.popitem(last=False)

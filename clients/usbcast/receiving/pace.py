"""How much is asked for at once and how long an answer is waited for, learnt from how the link fares.

An answer to a fetch comes whole or not at all. On a link of 1 Mbit/s the 4 MiB that a fetch may bring take half a minute, in
which nobody can tell a slow answer from none; asked for again, it would come twice and be late both times. So a fetch asks for
what the link carries in about a second, and who was not answered waits longer the next time.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

MOST_BYTES = 4 * 1024 * 1024
LEAST_BYTES = 16 * 1024
FIRST_BYTES = 256 * 1024
QUICK_NS, SLOW_NS = 1_000_000_000, 2_000_000_000
"""An answer sooner than the one lets the next be twice as large; one later than the other, half as large."""


class Patience:
    """How long to wait for an answer: from `first_ns`, doubled whenever none came, to `most_ns`."""

    def __init__(self, first_ns: int, most_ns: int) -> None:
        self.wait_ns = first_ns
        self._first_ns = first_ns
        self._most_ns = most_ns

    def answered(self) -> None:
        self.wait_ns = self._first_ns

    def unanswered(self) -> None:
        self.wait_ns = min(2 * self.wait_ns, self._most_ns)


class FetchPace:
    """How many bytes the next fetch asks for."""

    def __init__(self) -> None:
        self.budget_bytes = FIRST_BYTES

    def answered(self, took_ns: int, size_bytes: int) -> None:
        """An answer of so many bytes came after so long."""
        if took_ns > SLOW_NS:
            self._ask_for(self.budget_bytes // 2)
        elif took_ns < QUICK_NS and 2 * size_bytes >= self.budget_bytes:  # a small answer says little
            self._ask_for(self.budget_bytes * 2)

    def unanswered(self) -> None:
        self._ask_for(self.budget_bytes // 4)

    def _ask_for(self, size_bytes: int) -> None:
        self.budget_bytes = min(max(size_bytes, LEAST_BYTES), MOST_BYTES)

"""Refusals: what a node did not let in, or did not answer, counted by reason, and each peer named once in the log."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

log = logging.getLogger(__name__)

MAX_NAMED = 1000
"""So many peers are remembered as named; beyond it the oldest is forgotten, and may be named again."""


class Refusals:
    """Used by any thread. Reasons are few and come from the code, never from a peer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._named: OrderedDict[tuple[str, str], None] = OrderedDict()

    def count(self, reason: str) -> None:
        with self._lock:
            self._counts[reason] = self._counts.get(reason, 0) + 1

    def refuse(self, reason: str, peer: str, sentence: str) -> None:
        """Count, and say `sentence` in the log unless this peer has been named for this reason already."""
        self.count(reason)
        with self._lock:
            known = (peer, reason) in self._named
            self._named[peer, reason] = None
            self._named.move_to_end((peer, reason))
            if len(self._named) > MAX_NAMED:
                self._named.popitem(last=False)
        if not known:
            log.warning("refused %s: %s", peer, sentence)

    def by_reason(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

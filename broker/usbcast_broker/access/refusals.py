"""Refusals: what a node did not let in, or did not answer, counted by reason, and each peer named once in the log."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

log = logging.getLogger(__name__)

MAX_NAMED = 1000
"""Number of peers remembered; beyond it the oldest is forgotten, and may be logged again."""


class Refusals:
    """Used by any thread. Reasons are few and come from the code, never from a peer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()

    def count(self, reason: str) -> None:
        with self._lock:
            self._counts[reason] = self._counts.get(reason, 0) + 1

    def refuse(self, reason: str, peer: str, sentence: str, *, tolerated: int = 0) -> None:
        """Count; say `sentence` in the log once for this peer and reason, when it has happened more than `tolerated` times."""
        self.count(reason)
        with self._lock:
            times = self._seen[peer, reason] = self._seen.get((peer, reason), 0) + 1
            self._seen.move_to_end((peer, reason))
            if len(self._seen) > MAX_NAMED:
                self._seen.popitem(last=False)
        if times == tolerated + 1:
            log.warning("refused %s: %s", peer, sentence)

    def by_reason(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

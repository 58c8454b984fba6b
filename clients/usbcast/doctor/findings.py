"""Findings of an examination: one line for each hop.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result for one hop: whether it works, and a sentence that says, after a failure, what to do."""

    hop: str
    outcome: Outcome
    says: str


def ok(hop: str, says: str) -> Finding:
    return Finding(hop, "ok", says)


def failed(hop: str, says: str) -> Finding:
    return Finding(hop, "failed", says)


def skipped(hop: str, says: str) -> Finding:
    return Finding(hop, "skipped", says)

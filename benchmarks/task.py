"""What one process of a run is told: one frozen dataclass, passed as JSON on its command line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

PACKET_BYTES = 112
"""The packet of the first case."""

WINDOW_BYTES = 16 * 1024 * 1024
WINDOW_BLOCKS = 256
"""No publisher is further ahead of its slowest subscriber than these: see `docs/performance.md`, "Flow control"."""


@dataclass(frozen=True)
class Task:
    """One run of one peer, as each of its processes needs it."""

    peer: str
    directory: str = ""
    """Of this run; in shared memory where there is any."""
    block_packets: int = 1
    """Packets that are handed to the publisher at once."""
    kind: str = "fast"
    """fast: as fast as the window allows; paced: each block when it is due; idle: nothing at all."""
    seconds: float = 1.0
    blocks: int = 0
    """Of the fast kind: end after so many, whatever time it takes."""
    rate_hz: float = 0.0
    """Of the paced kind: blocks a second."""
    subscribers: int = 1
    index: int = 0
    """Which of the subscribers this one is."""
    slow_s: float = 0.0
    """What each delivery costs the subscribers but the first."""
    address: str = ""
    """Where the publisher is, as it said itself."""
    port: int = 0
    """A free one."""

    @property
    def block_bytes(self) -> int:
        return self.block_packets * PACKET_BYTES

    @property
    def window(self) -> int:
        """Blocks that may be under way."""
        return max(2, min(WINDOW_BLOCKS, WINDOW_BYTES // self.block_bytes))

    def but(self, **changes: object) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

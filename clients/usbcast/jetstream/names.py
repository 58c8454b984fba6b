"""Names on the server: the streams of JetStream, their subjects, and the headers of messages.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbcast_schemas.contract import MAJOR, MINOR

CONTRACT_HEADER = "Usbcast-Contract"
CONTRACT_VERSION = f"{MAJOR}.{MINOR}"


@dataclass(frozen=True, slots=True)
class Names:
    """Names that belong to one stream, below one prefix."""

    prefix: str
    stream: str

    @property
    def store(self) -> str:
        """The JetStream stream that keeps batches and gaps, in one order."""
        return f"{self.prefix}-{self.stream}"

    @property
    def descriptions(self) -> str:
        """The JetStream stream that keeps the last StreamInfo of each epoch, of all streams. No stream has capitals."""
        return f"{self.prefix}-INFO"

    @property
    def batch(self) -> str:
        return f"{self.prefix}.{self.stream}.batch"

    @property
    def gap(self) -> str:
        return f"{self.prefix}.{self.stream}.gap"

    @property
    def notify(self) -> str:
        """Subject of a notification each second, which is not stored: the forwarder is alive, and how far the server has come."""
        return f"{self.prefix}.{self.stream}.notify"

    def info(self, epoch: int | None = None) -> str:
        return f"{self.prefix}.{self.stream}.info.{'*' if epoch is None else f'{epoch:016x}'}"

    @property
    def all_info(self) -> str:
        return f"{self.prefix}.*.info.*"

    @property
    def stored(self) -> list[str]:
        return [self.batch, self.gap]


def stream_of(info_subject: str) -> str:
    """The stream that a subject of a StreamInfo is about."""
    return info_subject.split(".")[1]

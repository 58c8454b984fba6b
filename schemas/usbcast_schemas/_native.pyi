from collections.abc import Sequence
from typing import Protocol

from usbcast_schemas.batch import Arrivals, Buffer, EncodedBatch

class _Transfer(Protocol):
    data: bytes
    realtime_ns: int
    monotonic_ns: int

def encode_run(
    transfers: Sequence[_Transfer],
    begin: int,
    most_bytes: int,
    joined_bytes: int,
    contract: int,
    epoch: int,
    number: int,
    first_sequence: int,
    packet_size: int,
    /,
) -> tuple[tuple[Buffer, ...], int, int]: ...

class Ring:
    def __init__(self, memory: object, slots: int, data_bytes: int, /) -> None: ...
    def write(self, parts: tuple[Buffer, ...], number: int, first_sequence: int, packet_count: int, /) -> bool: ...
    def take(
        self, slot: int, most_bytes: int, major: int, batch: type[EncodedBatch], arrivals: type[Arrivals], /
    ) -> EncodedBatch | bytes | None: ...
    def close(self) -> None: ...

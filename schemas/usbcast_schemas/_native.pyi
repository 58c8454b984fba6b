from typing import Any, TypeVar, overload

from usbcast_schemas.batch import Arrivals, Buffer, EncodedBatch

T = TypeVar("T")

def decode(raw: bytes, major: int, batch: type[EncodedBatch], arrivals: type[Arrivals], /) -> EncodedBatch | None: ...

class Ring:
    next_number: int
    next_sequence: int
    def __init__(self, memory: object, slots: int, data_bytes: int, wake_fd: int = -1, /) -> None: ...
    def write(self, parts: tuple[Buffer, ...], number: int, first_sequence: int, packet_count: int, /) -> None: ...
    def write_run(
        self,
        items: list[Any],
        transfer: type,
        most_bytes: int,
        contract: int,
        epoch: int,
        number: int,
        first_sequence: int,
        packet_size: int,
        /,
    ) -> tuple[int, int, int] | None: ...
    def written(self, count: int, /) -> list[memoryview]: ...
    def take(
        self, most_bytes: int, major: int, batch: type[EncodedBatch], arrivals: type[Arrivals], slot: int, /
    ) -> EncodedBatch | bytes | None: ...
    def will_sleep(self, head: int, /) -> bool: ...
    def linger(self, head: int, most_ns: int, /) -> bool: ...
    def close(self) -> None: ...

class Follower:
    is_open: bool
    refused: bool
    dozed: bool
    def __init__(
        self,
        ring: Ring | None,
        most_bytes: int,
        major: int,
        batch: type[EncodedBatch],
        arrivals: type[Arrivals],
        owner: object | None,
        /,
    ) -> None: ...
    def open(
        self,
        slot: int,
        epoch: int,
        number: int,
        first_sequence: int,
        until_ns: int,
        doze_until_ns: int,
        /,
    ) -> bool: ...
    @overload
    def next(self) -> EncodedBatch | None: ...
    @overload
    def next(self, batch: type[T], meaning: object, /) -> T | None: ...
    @overload
    def accept(self, raw: Buffer, /) -> EncodedBatch | None: ...
    @overload
    def accept(self, raw: Buffer, batch: type[T], meaning: object, /) -> T | None: ...
    def wait(self, epoll: int, most_s: float, batch: type[T], meaning: object, /) -> T | None: ...
    def doze(self) -> float: ...
    def close(self) -> tuple[int, int, int, int, int, int, Any] | None: ...

class ShortWay:
    def __init__(self, ring: Ring, transfer: type, contract: int, epoch: int, /) -> None: ...
    def open(
        self,
        most_bytes: int,
        packet_size: int,
        number: int,
        first_sequence: int,
        close_ns: int,
        next_ns: int,
        until_ns: int,
        /,
    ) -> None: ...
    def put(self, items: list[Any], /) -> int: ...
    def unsent(self, most: int, /) -> list[memoryview]: ...
    def close(self) -> None: ...
    def settle(self) -> tuple[int, int, int, int, int] | None: ...

from typing import Any

from usbcast_schemas.batch import Arrivals, Buffer, EncodedBatch

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
    def take(
        self, most_bytes: int, major: int, batch: type[EncodedBatch], arrivals: type[Arrivals], slot: int, /
    ) -> EncodedBatch | bytes | None: ...
    def take_run(
        self,
        most_bytes: int,
        major: int,
        batch: type[EncodedBatch],
        arrivals: type[Arrivals],
        owner: object | None,
        slot: int,
        until: int,
        run_bytes: int,
        epoch: int,
        number: int,
        first_sequence: int,
        /,
    ) -> list[EncodedBatch]: ...
    def will_sleep(self, head: int, /) -> bool: ...
    def linger(self, head: int, most_ns: int, /) -> bool: ...
    def close(self) -> None: ...

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
    def close(self) -> None: ...
    def settle(self) -> tuple[int, int, int, int, int] | None: ...

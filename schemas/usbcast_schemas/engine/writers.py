"""The writer of a ring: by the native core, where there is one and the ring has no checksums, else in Python."""

from __future__ import annotations

from collections.abc import Callable

from usbcast_schemas import engine
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.engine import pure_writer  # not its class: `ring`, which it needs, imports this module
from usbcast_schemas.engine.protocols import Put, RingMemory, Settled, StreamWriter, Transfer, too_large


def stream_writer(memory: RingMemory) -> StreamWriter:
    """Return the writer of the engine that was chosen at import; of a ring with checksums always that in Python."""
    return pure(memory) if memory.checksums else _in_order(memory)


def pure(memory: RingMemory) -> StreamWriter:
    """Return the writer in Python."""
    return pure_writer.PureStreamWriter(memory)


def native_writer(memory: RingMemory) -> StreamWriter:
    """Return that of the native core, which has to be there."""
    assert engine.native is not None
    ring = engine.native.Ring(memory.map, memory.slots, memory.data_bytes, memory.wake_fd)
    ring.next_sequence, ring.next_number = memory.next_sequence, memory.next_number
    return engine.native.StreamWriter(
        ring,
        contract=CONTRACT,
        epoch=memory.epoch,
        transfer=Transfer,
        outcomes=tuple(Put),
        settled=Settled,
        too_large=too_large,
    )


_in_order: Callable[[RingMemory], StreamWriter] = engine.chosen(pure, lambda _: native_writer)

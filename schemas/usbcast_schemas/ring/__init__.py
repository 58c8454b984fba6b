"""The ring: a bounded store of encoded batches in shared memory; the newest overwrite the oldest and writers never wait.

One file per epoch of a stream. Layout (docs/wire.md): a header page, a slot table, a data area in which each batch is
contiguous. Every index is an 8-byte aligned native word, stored in one piece: `memoryview.cast("Q")` does that, unaligned
or byte-swapped struct packing was seen to tear.

Order of the writer: advance the tail past what will be overwritten, copy the bytes, fill the slot, advance the head, look at
the waiting flag. Order of a reader: see the slot below the head, copy, then see that the tail has not passed it. Where the
machine may show stores in another order than they were made (anything but x86), slots carry a CRC-32 as well. Where slots
carry none, the native core does the same work, if there is one.
"""

from usbcast_schemas.ring.files import sweep
from usbcast_schemas.ring.layout import HEADER_BYTES, SLOT_BYTES, STORES_ARE_ORDERED, Slot
from usbcast_schemas.ring.reader import BatchInPlace, RingReader
from usbcast_schemas.ring.writer import DEFAULT_DATA_BYTES, DEFAULT_SLOTS, RingWriter

__all__ = [
    "DEFAULT_DATA_BYTES",
    "DEFAULT_SLOTS",
    "HEADER_BYTES",
    "SLOT_BYTES",
    "STORES_ARE_ORDERED",
    "BatchInPlace",
    "RingReader",
    "RingWriter",
    "Slot",
    "sweep",
]

"""What comes in malformed: one table for every way in. Each stands in the place of batch 1, which held packet 1."""

from __future__ import annotations

from usbcast_schemas.batch import MAX_BATCH_BYTES, Arrivals, encode_batch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.v1 import usbcast_pb2 as pb

PACKET_BYTES = 4


def packet(sequence: int) -> bytes:
    return sequence.to_bytes(PACKET_BYTES, "little")


def good(epoch: int, number: int) -> bytes:
    """Batch `number`, of one packet of that sequence."""
    return encode_batch(
        epoch=epoch, number=number, first_sequence=number, packet_count=1, packet_size=PACKET_BYTES,
        payload=[packet(number)], arrivals=Arrivals((1,), (0,), (0,)),
    )  # fmt: skip


def changed(epoch: int, **changes: object) -> bytes:
    """Batch 1, but for what is changed."""
    message = pb.PacketBatch.FromString(good(epoch, 1))
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message.SerializeToString()


BATCHES = {
    "nothing": lambda _: b"",
    "random bytes": lambda _: b"\xff\xfe\xfd",
    "text": lambda _: b"GET / HTTP/1.1\r\n\r\n",
    "the first half": lambda epoch: good(epoch, 1)[:30],
    "no version": lambda epoch: good(epoch, 1)[5:],
    "another version": lambda epoch: changed(epoch, contract=2 << 16),
    "no version at all": lambda epoch: changed(epoch, contract=0),
    "figures that contradict each other": lambda epoch: changed(epoch, packet_count=3),
    "arrivals of other packets": lambda epoch: changed(epoch, arrival_packets=[7]),
    "more packets than may be": lambda epoch: changed(epoch, packet_count=2**32 - 1),
    "an end offset behind the end": lambda epoch: changed(epoch, packet_size=0, packet_ends=[5]),
    "the last number": lambda epoch: changed(epoch, number=2**64 - 1),
    "the last sequence": lambda epoch: changed(epoch, first_sequence=2**64 - 1),
    "holes behind it": lambda epoch: changed(epoch, holes=[pb.LostRange(first_sequence=5, count=2**64 - 1)]),
    "half a million losses": lambda epoch: good(epoch, 1)[:-6] + b"\x5a\x00" * 500_000 + good(epoch, 1)[-6:],
    "half a million events of another layout": lambda epoch: b"\xf8\x01\0" + b"\x62\x00" * 500_000 + good(epoch, 1),
    "bytes that are no text": lambda epoch: good(epoch, 1)[:-6] + b"\x5a\x04\x12\x02\xff\xfe" + good(epoch, 1)[-6:],
    "more bytes than may be": lambda _: b"\x0d" + CONTRACT.to_bytes(4, "little") + bytes(MAX_BATCH_BYTES),
}
"""By name, what makes the bytes, given the stream's epoch."""

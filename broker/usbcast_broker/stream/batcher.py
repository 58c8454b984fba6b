"""The batcher: numbers packets and batches, and encodes each batch once.

An idle stream sends at once; under load, what has accumulated goes as one batch. What happened to the device, and what was
lost, stands before the first packet of a batch, so a batch is cut there. Times are handed in.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from bisect import bisect_right

from usbcast_broker.flow import DeviceEvent, DeviceIdentity, Lost, Packets, StreamItem
from usbcast_schemas.batch import MAX_PACKETS, MAX_REMARKS, Arrivals, Encoded, encode_parts, join_if_small
from usbcast_schemas.v1 import usbcast_pb2 as pb

DEFAULT_MAX_BYTES = 96 * 1024
"""Past 448 kB glibc maps every buffer afresh, which costs twenty times as much; near 100 kB nothing is gained any more."""


class Batcher:
    """Makes the batches of one epoch. Single-threaded.

    >>> batcher = Batcher(epoch=1)
    >>> batcher.add(Packets(b"ab", 2, 1), realtime_ns=0, monotonic_ns=0)
    []
    >>> batcher.flush().packet_count
    2
    """

    def __init__(self, epoch: int, *, max_bytes: int = DEFAULT_MAX_BYTES, max_age_ns: int = 0) -> None:
        self.epoch = epoch
        self.next_sequence = 0
        """The sequence that the next packet handed in will get."""
        self.next_number = 0
        self.held_packets = 0
        self._max_bytes = max_bytes
        self._max_age_ns = max_age_ns
        self._since_ns = 0
        self._begin()

    def _begin(self) -> None:
        self._payload: list[bytes | memoryview] = []
        self._size = 0
        self._packet_size = 0
        self._ends: list[int] = []
        self._arrival_packets: list[int] = []
        self._arrival_realtime_ns: list[int] = []
        self._arrival_monotonic_ns: list[int] = []
        self._losses: list[pb.Loss] = []
        self._events: list[pb.DeviceEvent] = []

    def add(self, item: StreamItem, *, realtime_ns: int, monotonic_ns: int) -> list[Encoded]:
        """Take one item; return the batches that it completed."""
        if not isinstance(item, Packets):
            done = self._cut() if self.held_packets or len(self._losses) + len(self._events) >= MAX_REMARKS else []
            if not self._losses and not self._events:
                self._since_ns = monotonic_ns
            if isinstance(item, Lost):
                self._losses.append(_loss(item))
            else:
                self._events.append(_event(item))
            return done
        if not self.held_packets and not self._losses and not self._events:
            self._since_ns = monotonic_ns
        done = []
        for part in self._split(item):
            # A piece that would overfill the batch begins the next one; held bytes stay below the bound.
            if self.held_packets and (
                self._size + len(part.payload) > self._max_bytes
                or self.held_packets + part.count > MAX_PACKETS
                or part.packet_size != self._packet_size
            ):
                done += self._cut()
            self._take(part, realtime_ns, monotonic_ns)
        return done

    @property
    def holds_back(self) -> bool:
        """Whether packets would have to wait here, or something does already."""
        return bool(self._max_age_ns or self.held_packets or self._losses or self._events)

    def max_payload_bytes(self, packet_size: int) -> int:
        """The payload of the largest batch of packets of one size."""
        return min(self._max_bytes, MAX_PACKETS * packet_size)

    def skip(self, batches: int, packets: int) -> None:
        """Leave out the numbers and sequences of batches that bypassed the batcher."""
        self.next_number += batches
        self.next_sequence += packets

    def due(self, monotonic_ns: int) -> bool:
        """Whether what is held has reached its age."""
        return self.pending and monotonic_ns - self._since_ns >= self._max_age_ns

    @property
    def pending(self) -> bool:
        return bool(self.held_packets or self._losses or self._events)

    @property
    def due_at_ns(self) -> int:
        """When what is held reaches its age, on the monotonic clock."""
        return self._since_ns + self._max_age_ns

    def flush(self) -> Encoded | None:
        """Make a batch of what is held, if anything is."""
        return self._cut()[0] if self.pending else None

    def end(self, reason: str, realtime_ns: int) -> list[Encoded]:
        """The last batches of the epoch; the very last one says that it is over."""
        done = self._cut() if self.pending else []
        end = pb.StreamEnd(reason=reason, packets=self.next_sequence, realtime_ns=realtime_ns)
        return done + self._cut(end)

    def _take(self, part: Packets, realtime_ns: int, monotonic_ns: int) -> None:
        if not part.packet_size:
            self._ends.extend([self._size + end for end in part.ends])
        self._payload.append(part.payload)
        self._packet_size = part.packet_size
        self._size += len(part.payload)
        self.held_packets += part.count
        self.next_sequence += part.count
        if self._arrival_monotonic_ns and self._arrival_monotonic_ns[-1] == monotonic_ns:
            self._arrival_packets[-1] += part.count
            return
        self._arrival_packets.append(part.count)
        self._arrival_realtime_ns.append(realtime_ns)
        self._arrival_monotonic_ns.append(monotonic_ns)

    def _split(self, item: Packets) -> list[Packets]:
        """`item` in pieces that each fit into a batch (a packet larger than a batch is a piece of its own)."""
        if len(item.payload) <= self._max_bytes and item.count <= MAX_PACKETS:
            return [item]
        view = memoryview(item.payload)
        size = item.packet_size
        pieces = []
        first = 0
        while first < item.count:
            if size:
                last = min(item.count, first + max(1, min(self._max_bytes // size, MAX_PACKETS)))
                pieces.append(Packets(view[first * size : last * size], last - first, size))
            else:
                start = item.ends[first - 1] if first else 0
                last = max(first + 1, min(bisect_right(item.ends, start + self._max_bytes), first + MAX_PACKETS))
                ends = tuple(end - start for end in item.ends[first:last])
                pieces.append(Packets(view[start : item.ends[last - 1]], last - first, 0, ends))
            first = last
        return pieces

    def _cut(self, end: pb.StreamEnd | None = None) -> list[Encoded]:
        count = self.held_packets
        first = self.next_sequence - count
        parts = encode_parts(
            epoch=self.epoch,
            number=self.next_number,
            first_sequence=first,
            packet_count=count,
            packet_size=self._packet_size,
            payload=self._payload,
            packet_ends=self._ends,
            arrivals=Arrivals(self._arrival_packets, self._arrival_realtime_ns, self._arrival_monotonic_ns),
            losses=self._losses,
            events=self._events,
            end=end,
        )
        pieces = join_if_small(parts, len(self._payload), self._size)
        encoded = Encoded.in_parts(pieces, self.next_number, first, count)
        self.next_number += 1
        self.held_packets = 0
        self._begin()
        return [encoded]


def device_info(identity: DeviceIdentity) -> pb.DeviceInfo:
    return pb.DeviceInfo(
        vendor_id=identity.vendor_id,
        product_id=identity.product_id,
        serial=identity.serial,
        manufacturer=identity.manufacturer,
        product=identity.product,
        bus_path=identity.bus_path,
    )


def _event(event: DeviceEvent) -> pb.DeviceEvent:
    return pb.DeviceEvent(
        kind=event.kind,
        realtime_ns=event.realtime_ns,
        monotonic_ns=event.monotonic_ns,
        detail=event.detail,
        device=device_info(event.device) if event.device else None,
        clock_step_ns=event.clock_step_ns or None,
    )


def _loss(lost: Lost) -> pb.Loss:
    return pb.Loss(
        stage=lost.stage, reason=lost.reason, packets=lost.packets, bytes=lost.size_bytes, at_least=lost.at_least
    )

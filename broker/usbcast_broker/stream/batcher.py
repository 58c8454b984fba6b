"""The batcher: numbers packets and batches, and encodes each batch once.

An idle stream sends at once; under load, what has accumulated goes as one batch. What happened to the device, and what was
lost, stands before the first packet of a batch, so a batch is cut there. Times are handed in, and so is the ring that
`write_run` fills.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from usbcast_broker.flow import DeviceEvent, DeviceIdentity, HostItem, Lost, Packets, StreamItem, Transfer
from usbcast_schemas.batch import MAX_PACKETS, MAX_REMARKS, Arrivals, Buffer, encode_parts
from usbcast_schemas.ring import RingWriter
from usbcast_schemas.v1 import usbcast_pb2 as pb

DEFAULT_MAX_BYTES = 96 * 1024
"""Past 448 kB glibc maps every buffer afresh, which costs twenty times as much; near 100 kB nothing is gained any more."""

JOINED_BYTES = 4096
"""Pieces that are smaller than this on average cost less to join than to copy into the ring one by one."""


class Encoded:
    """One batch, ready for ring, sockets and files. Made in parts, which only those join who need them in one piece."""

    __slots__ = ("first_sequence", "number", "packet_count", "parts", "size_bytes")

    def __init__(self, raw: Buffer, number: int, first_sequence: int, packet_count: int) -> None:
        self.parts: tuple[Buffer, ...] = (raw,)
        self.size_bytes = len(raw)
        self.number = number
        self.first_sequence = first_sequence
        self.packet_count = packet_count

    @property
    def raw(self) -> Buffer:
        """The batch in one piece."""
        if len(self.parts) > 1:
            self.parts = (b"".join(self.parts),)
        return self.parts[0]


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

    def add_run(self, transfers: list[Transfer], packet_size: int) -> list[Encoded]:
        """As `add` of each of `transfers`, which hold whole packets of `packet_size` bytes; the cost of each is a fraction."""
        most_bytes = self.most_bytes(packet_size)
        if len(transfers) == 1 and not self._max_age_ns and not self.pending and len(transfers[0].data) <= most_bytes:
            return [self._alone(transfers[0], packet_size)]
        pieces = [transfer.data for transfer in transfers]
        ends = list(accumulate(map(len, pieces)))
        done: list[Encoded] = []
        at = taken = 0
        while at < len(pieces):
            if not self.pending:
                self._since_ns = transfers[at].monotonic_ns
            room = taken + most_bytes - self._size if packet_size == self._packet_size or not self.held_packets else 0
            until = bisect_right(ends, room, at)
            if until == at:
                if self.held_packets:
                    done += self._cut()
                else:  # larger than a batch
                    one = transfers[at]
                    done += self.add(
                        Packets(one.data, len(one.data) // packet_size, packet_size),
                        realtime_ns=one.realtime_ns,
                        monotonic_ns=one.monotonic_ns,
                    )
                    at, taken = at + 1, ends[at]
                continue
            run = transfers[at:until] if until - at < len(transfers) else transfers
            size = ends[until - 1] - taken
            self._payload += pieces[at:until]
            self._packet_size = packet_size
            self._size += size
            self.held_packets += size // packet_size
            self.next_sequence += size // packet_size
            self._arrival_packets += [len(transfer.data) // packet_size for transfer in run]
            self._arrival_realtime_ns += [transfer.realtime_ns for transfer in run]
            self._arrival_monotonic_ns += [transfer.monotonic_ns for transfer in run]
            at, taken = until, ends[until - 1]
        return done

    def write_run(self, ring: RingWriter, items: list[HostItem], packet_size: int) -> tuple[int, int, int] | None:
        """As `add_run` and a `flush`, with the batches written into `ring` right away: how many, their packets, their bytes.

        None, with nothing done, where the ring can't; or where something is held, or waited for.
        """
        if self.holds_back:
            return None
        most_bytes = self.most_bytes(packet_size)
        written = ring.write_run(
            items, Transfer, most_bytes, self.epoch, self.next_number, self.next_sequence, packet_size
        )
        if written is not None:
            self.written(written[0], written[1])
        return written

    @property
    def holds_back(self) -> bool:
        """Whether what comes has to wait, or something does already."""
        return bool(self._max_age_ns or self.held_packets or self._losses or self._events)

    def most_bytes(self, packet_size: int) -> int:
        """The payload of the largest batch of packets of one size."""
        return self._max_bytes if self._max_bytes < MAX_PACKETS * packet_size else MAX_PACKETS * packet_size

    def written(self, batches: int, packets: int) -> None:
        """So many batches were made of the stream by somebody else, numbered from here on."""
        self.next_number += batches
        self.next_sequence += packets

    def _alone(self, transfer: Transfer, packet_size: int) -> Encoded:
        """A batch of one transfer, with nothing to wait for: what an idle stream sends."""
        count = len(transfer.data) // packet_size
        parts = encode_parts(
            epoch=self.epoch,
            number=self.next_number,
            first_sequence=self.next_sequence,
            packet_count=count,
            packet_size=packet_size,
            payload=(transfer.data,),
            arrivals=Arrivals((count,), (transfer.realtime_ns,), (transfer.monotonic_ns,)),
        )
        first = self.next_sequence
        self.next_sequence += count
        return self._encoded(parts, 1, len(transfer.data), first, count)

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
        encoded = self._encoded(parts, len(self._payload), self._size, first, count)
        self.held_packets = 0
        self._begin()
        return [encoded]

    def _encoded(self, parts: list[Buffer], pieces: int, size_bytes: int, first: int, count: int) -> Encoded:
        """The next batch, of `parts` that end in so many pieces of payload of so many bytes together."""
        if size_bytes < JOINED_BYTES * max(1, pieces):
            encoded = Encoded(b"".join(parts), self.next_number, first, count)
        else:
            head = b"".join(parts[:-pieces])
            encoded = Encoded(head, self.next_number, first, count)
            encoded.parts = (head, *parts[-pieces:])
            encoded.size_bytes = len(head) + size_bytes
        self.next_number += 1
        return encoded


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

"""Assemble one stream's packets from transfers: strip status bytes, frame, follow the device's counter; with both ledgers.

Bytes thrown away become one Lost per reason and one event, when the next packet comes, or after a second. Where the counter
then shows packets missing, as many are put down to those bytes as had room in them; the rest was lost in the device. Where
no counter can show it (there is none, or the stream begins or ends there) and packets are of one size, the host lost as many
as had room in what it lost and the pieces around that.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from usbcast_broker.flow import DeviceEvent, Discarded, Framed, Lost, Packets, StreamItem, Transfer
from usbcast_broker.framing.counter import CounterTracker
from usbcast_broker.framing.methods import make_framer
from usbcast_broker.framing.stripper import StatusStripper
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.profile import Profile
from usbcast_schemas.v1 import usbcast_pb2 as pb

DETACHED: Final = "detached"
OVERFLOWED: Final = "overflowed"
TRANSFERS_LOST: Final = "transfers before it were lost"
ENDED: Final = "the stream ended in mid-packet"

VAIN_NS: Final = 2_000_000_000
HELD_IN_VAIN_NS: Final = 10_000_000_000
"""Bytes that have come for so long without a packet are a problem; the second, if none of them was thrown away yet."""

RUN_NS: Final = 1_000_000_000
"""Bytes thrown away are told of after so long even if no packet comes."""


class Assembler:
    """Owned by one thread. `framing` and `device` are the books of its stages, in bytes and in packets."""

    def __init__(self, profile: Profile) -> None:
        self.framing = Ledger("framing", "bytes")
        self.device = Ledger("device", "packets")
        self._stripper = StatusStripper(profile.transfer.strip_prefix, profile.transfer.strip_every)
        self._stripped = profile.transfer.strip_prefix > 0
        self._framer = make_framer(profile.framing)
        self._tracker = (
            CounterTracker(profile.counter, profile.stream.rate_hz, self.device.counters) if profile.counter else None
        )
        self.packet_size = profile.packet_size
        """0 if they vary."""
        # Thrown away and not told yet, by reason, and when the first of it came.
        self._run: dict[str, int] = {}
        self._run_realtime_ns = 0
        self._run_monotonic_ns = 0
        self._seen_realtime_ns = 0
        self._seen_monotonic_ns = 0
        # Come since the last packet, and when the first and the last of it came.
        self._vain_bytes = 0
        self._vain_thrown_away = False
        self._vain_since_ns = 0
        self._vain_until_ns = 0
        # Missing since the last packet, told or not.
        self._gap_bytes = 0
        self._gap_stage: pb.Stage = pb.STAGE_FRAMING
        self._gap_reason = ""

    def feed(self, transfer: Transfer) -> tuple[StreamItem, ...]:
        """Return the items that the transfer completed, in order."""
        data, stripped = self._stripper.strip(transfer.data)
        self.framing.enter(len(transfer.data))
        self.framing.overhead += stripped
        framed = self._framer.feed(data)
        items = self._take(framed, transfer.realtime_ns, transfer.monotonic_ns)
        if framed.packet_bytes:
            self._vain_bytes = 0
        else:
            self._add_vain(len(data) - framed.overhead_bytes, bool(framed.items), transfer.monotonic_ns)
        if self._run and transfer.monotonic_ns - self._run_monotonic_ns >= RUN_NS:
            items += self._told()
        return tuple(items)

    @property
    def problem(self) -> str:
        """One sentence if bytes arrive without a single valid packet; empty while packets arrive, or nothing does."""
        span_ns = self._vain_until_ns - self._vain_since_ns
        least_ns = VAIN_NS if self._vain_thrown_away else HELD_IN_VAIN_NS
        if not self._vain_bytes or self._vain_bytes < 2 * self.packet_size or span_ns < least_ns:
            return ""
        return (
            f"{self._vain_bytes:,} bytes came from the device in {span_ns / 1e9:.0f} s, and not one packet: compare [framing] in "
            "the profile (sizes, patterns, checksum) with the data, which `usbcast serve PROFILE --probe` shows"
        )

    @property
    def bypass_size(self) -> int:
        """Packet size if transfers of whole packets may bypass framing; else 0.

        They may if packets are of one size, without checksum and counter, and nothing is pending. `record_bypassed` counts them.
        """
        size = self._framer.bypass_size
        if not size or self._stripped or self._tracker is not None or self._run or self._gap_bytes:
            return 0
        return size

    def record_bypassed(self, size_bytes: int, packets: int, realtime_ns: int, monotonic_ns: int) -> None:
        """Count packets that bypassed framing; the times are those of the last transfer."""
        self._seen_realtime_ns, self._seen_monotonic_ns = realtime_ns, monotonic_ns
        self._vain_bytes = 0
        framing, device = self.framing, self.device
        framing.entered += size_bytes
        framing.left += size_bytes
        device.entered += packets
        device.left += packets

    def _add_vain(self, size_bytes: int, thrown_away: bool, monotonic_ns: int) -> None:
        """Count bytes that arrived and completed no packet."""
        if size_bytes <= 0:
            return
        if not self._vain_bytes:
            self._vain_since_ns, self._vain_thrown_away = monotonic_ns, False
        self._vain_bytes += size_bytes
        self._vain_thrown_away |= thrown_away
        self._vain_until_ns = monotonic_ns

    def device_event(self, event: DeviceEvent) -> tuple[StreamItem, ...]:
        """Something happened to the device: the event, after what it made of a partial packet."""
        items: list[StreamItem] = []
        if event.kind in (pb.DeviceEvent.KIND_DETACHED, pb.DeviceEvent.KIND_OVERFLOWED):
            detached = event.kind == pb.DeviceEvent.KIND_DETACHED
            framed = self._framer.reset(DETACHED if detached else OVERFLOWED)
            items = self._take(framed, event.realtime_ns, event.monotonic_ns)
            if detached:
                self._vain_bytes = 0
                items += self._told()
                for lost in self._sized():
                    items.append(lost)
                    if self._tracker is not None:
                        self._tracker.skip(lost.packets)
                self._close_gap()
                if self._tracker is not None:
                    self._tracker.restart()
        elif event.kind == pb.DeviceEvent.KIND_REPLACED and self._tracker is not None:
            self._tracker.forget()
        return (*items, *self._told(), event)

    def lost(self, lost: Lost) -> tuple[StreamItem, ...]:
        """Bytes of the stream never came here: what that makes of a partial packet, and the loss itself."""
        # Of transfers with status bytes, the bytes lost do not tell how much of the stream itself is missing.
        missing_bytes = 0 if self._stripped else lost.size_bytes
        framed = self._framer.reset(TRANSFERS_LOST, missing_bytes)
        items = self._take(framed, self._seen_realtime_ns, self._seen_monotonic_ns)
        self._gap_bytes += lost.size_bytes
        self._gap_stage, self._gap_reason = lost.stage, lost.reason
        return (*items, *self._told(), lost)

    def finish(self, realtime_ns: int, monotonic_ns: int) -> tuple[StreamItem, ...]:
        """Throw away what is still held, because nothing more will come; return the losses."""
        return (*self._take(self._framer.reset(ENDED), realtime_ns, monotonic_ns), *self._told(), *self._sized())

    def _take(self, framed: Framed, realtime_ns: int, monotonic_ns: int) -> list[StreamItem]:
        self._seen_realtime_ns, self._seen_monotonic_ns = realtime_ns, monotonic_ns
        self.framing.overhead += framed.overhead_bytes
        self.framing.leave(framed.packet_bytes)
        self.framing.held = self._framer.held_bytes
        items: list[StreamItem] = []
        for item in framed.items:
            if isinstance(item, Discarded):
                self._discard(item, realtime_ns, monotonic_ns)
            else:
                items += self._packets(item, monotonic_ns)
        return items

    def _discard(self, item: Discarded, realtime_ns: int, monotonic_ns: int) -> None:
        self.framing.lose(item.reason, item.size_bytes)
        if not self._run:
            self._run_realtime_ns, self._run_monotonic_ns = realtime_ns, monotonic_ns
        self._run[item.reason] = self._run.get(item.reason, 0) + item.size_bytes
        self._gap_bytes += item.size_bytes
        self._gap_reason = self._gap_reason or item.reason

    def _packets(self, packets: Packets, monotonic_ns: int) -> list[StreamItem]:
        self.device.enter(packets.count)
        self.device.leave(packets.count)
        counted = self._tracker is not None and self._tracker.following
        parts = self._tracker.track(packets, monotonic_ns) if self._tracker is not None else (packets,)
        items: list[StreamItem] = []
        if isinstance(parts[0], Lost):
            items += self._settled(parts[0])
            parts = parts[1:]
        else:
            items += self._told() if counted else [*self._told(), *self._sized()]
        for part in parts:
            if isinstance(part, Lost):
                self._lose(part.reason, part.packets)
        self._close_gap()
        items += parts
        return items

    def _settled(self, jump: Lost) -> list[StreamItem]:
        """A jump of the counter, shared out: what had room in the missing bytes was lost there, the rest in the device."""
        items = self._told()
        size = self.packet_size
        room = (self._gap_bytes + size // 2) // size if size else jump.packets * bool(self._gap_bytes)
        here = min(room, jump.packets)
        rest = jump.packets - here
        if here:
            self._lose(_stage_name(self._gap_stage), here)
            at_least = jump.at_least and not rest
            told = items[0] if items else None
            if isinstance(told, Lost) and self._gap_stage == pb.STAGE_FRAMING:
                items[0] = replace(told, packets=here, at_least=at_least)
            else:
                items.append(Lost(self._gap_stage, self._gap_reason, packets=here, at_least=at_least))
        if rest or not jump.packets:  # one of unknown size is told as well
            self._lose(jump.reason, rest)
            items.append(replace(jump, packets=rest))
        return items

    def _sized(self) -> list[Lost]:
        """The packets that the host lost, by their size, at a place where no counter tells. Garbage stays bytes."""
        size = self.packet_size
        if self._gap_stage == pb.STAGE_FRAMING or self._stripped or not size or self._gap_bytes < size:
            return []
        packets = self._gap_bytes // size
        self._lose(_stage_name(self._gap_stage), packets)
        return [Lost(self._gap_stage, self._gap_reason, packets=packets)]

    def _lose(self, reason: str, packets: int) -> None:
        if packets:
            self.device.enter(packets)
            self.device.lose(reason, packets)

    def _told(self) -> list[StreamItem]:
        """Return what was thrown away since the last call, as items of the stream."""
        if not self._run:
            return []
        items: list[StreamItem] = [Lost(pb.STAGE_FRAMING, reason, size_bytes=n) for reason, n in self._run.items()]
        detail = f"{sum(self._run.values())} bytes thrown away: {', '.join(self._run)}"
        kind = pb.DeviceEvent.KIND_RESYNCHRONISED
        items.append(DeviceEvent(kind, self._run_realtime_ns, self._run_monotonic_ns, detail))
        self.framing.count("resynchronised")
        self._run.clear()
        return items

    def _close_gap(self) -> None:
        self._gap_bytes, self._gap_stage, self._gap_reason = 0, pb.STAGE_FRAMING, ""


def _stage_name(stage: pb.Stage) -> str:
    return pb.Stage.Name(stage).removeprefix("STAGE_").lower()

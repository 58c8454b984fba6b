"""What a subscription yields beside batches. All frozen; sequences are of packets, times are nanoseconds.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from usbcast_schemas.v1 import usbcast_pb2 as pb

_KINDS = {number: name.removeprefix("KIND_").lower() for name, number in pb.DeviceEvent.Kind.items()}
"""A kind of a later version is told as that which says nothing, with its sentence."""

STAGES = {
    pb.STAGE_UNSPECIFIED: "unknown",
    pb.STAGE_DEVICE: "device",
    pb.STAGE_HOST: "host",
    pb.STAGE_FRAMING: "framing",
    pb.STAGE_OUTLET: "outlet",
    pb.STAGE_RING: "ring",
    pb.STAGE_SUBSCRIPTION: "subscription",
    pb.STAGE_BRIDGE: "bridge",
    pb.STAGE_STORE: "store",
}


def stage_of(number: pb.Stage) -> str:
    """The name of a stage; one of a later version is not known."""
    return STAGES.get(number, "unknown")


@dataclass(frozen=True, slots=True)
class Gap:
    """Packets that this consumer will never get; at stage "ring" also the device events between them.

    From stage "ring" on, `first` to `last` are their sequences, both included. What was lost earlier never had sequences:
    then `first` is that of the packet behind the loss, `last` is `first - 1`, and `count` packets are missing between them
    (0 where only `size_bytes` is known; more than `count`, perhaps, where `at_least`: 0 and `at_least` is an unknown number).
    """

    first: int
    last: int
    count: int
    stage: str
    reason: str
    size_bytes: int = 0
    at_least: bool = False
    on_purpose: bool = False
    """True if a bridge left them out because it was told to: nothing is lost."""
    epoch: int = field(default=0, compare=False)
    """Whose packets and sequences these are; in the `gaps` of the first batch of an epoch also those of the one before it.

    It does not count when two gaps are compared.
    """


@dataclass(frozen=True, slots=True)
class Restart:
    """The stream began a new epoch, numbering from 0; with the last that was known of the old one."""

    old_epoch: int
    new_epoch: int
    delivered_until: int
    """One past the last sequence of the old epoch that was delivered or declared lost."""
    known_until: int
    """One past the last sequence that the old epoch is known to have reached."""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something that happened to the device, in order with its packets."""

    kind: str
    """attached, detached, stalled, resynchronised, overflowed, failed, replaced, clock_stepped, or unspecified if newer."""
    realtime_ns: int
    monotonic_ns: int
    detail: str
    serial: str = ""
    bus_path: str = ""
    clock_step_ns: int = 0
    """Of clock_stepped: by how much the reading host's realtime clock was set."""


@dataclass(frozen=True, slots=True)
class Silence:
    """No message and no heartbeat for `duration_ns`: the node or the network is down, or the node hangs. Reconnecting goes on."""

    duration_ns: int
    upstream: bool = False
    """True if the node is a bridge that answers, but hears nothing from its own upstream."""


@dataclass(frozen=True, slots=True)
class End:
    """End of the stream; nothing follows in this epoch."""

    reason: str
    packets: int
    """How many packets the epoch had."""


def gap_of_loss(loss: pb.Loss, at_sequence: int, epoch: int) -> Gap:
    """A loss from before numbering that a batch, which begins at `at_sequence`, tells of."""
    return Gap(
        at_sequence,
        at_sequence - 1,
        loss.packets,
        stage_of(loss.stage),
        loss.reason,
        loss.bytes,
        loss.at_least,
        epoch=epoch,
    )


def gap_of_hole(hole: pb.LostRange, first: int, epoch: int) -> Gap:
    """The part from `first` on of a hole that a batch tells of."""
    until = hole.first_sequence + hole.count
    return Gap(
        first, until - 1, until - first, stage_of(hole.stage), hole.reason, on_purpose=hole.on_purpose, epoch=epoch
    )


def device_event(message: pb.DeviceEvent) -> DeviceEvent:
    kind = _KINDS.get(message.kind, "unspecified")
    device = message.device
    return DeviceEvent(
        kind,
        message.realtime_ns,
        message.monotonic_ns,
        message.detail,
        device.serial,
        device.bus_path,
        message.clock_step_ns,
    )

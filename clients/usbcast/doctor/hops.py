"""The examination of one node, hop by hop in the order in which they depend on one another.

name, port, handshake, key, contract, stream, data port, first message; then those beside the way: ring, device, clock, books.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from usbcast.clock.clock_watch import ClockWatch
from usbcast.doctor.findings import Finding, failed, ok, skipped
from usbcast.doctor.reaching import connect, mechanism, resolve
from usbcast.node.credentials import Credentials, credentials
from usbcast.node.requests import NodeClient
from usbcast.receiving.channels.published import data_endpoint
from usbcast.receiving.receiver import NodeReceiver
from usbcast.subscription import Subscription
from usbcast_schemas.contract import MAJOR, MINOR, check_stream_name
from usbcast_schemas.errors import (
    AccessRefused,
    KeysError,
    NodeUnreachable,
    RemoteError,
    RingUnavailable,
    StreamUnknown,
    UsageError,
    UsbcastError,
    VersionMismatch,
)
from usbcast_schemas.places import host_id
from usbcast_schemas.v1 import usbcast_pb2 as pb

HOPS = (
    "name", "port", "handshake", "key", "contract", "stream", "data port", "first message", "ring", "device", "clock", "books",
)  # fmt: skip
FIRST_MESSAGE_S = 4.0
"""Three heartbeats, and one for the way."""

_CLOCK_S = 3.0
_FAR_OFF_NS = 1_000_000_000


def examine(endpoint: str, stream: str | None, keys: str | None) -> Iterator[Finding]:
    """Yield a finding for each of HOPS as soon as it is known. Raises UsageError if `endpoint` is not an address."""
    node = _Examination(endpoint, stream, keys)
    broken = ""
    for hop in HOPS:
        if broken:
            yield skipped(hop, f"depends on what failed: {broken}")
            continue
        finding = node.look(hop)
        yield finding
        if finding.outcome == "failed" and hop in _NEEDED:
            broken = hop


_NEEDED = ("name", "port", "handshake", "key", "contract", "stream")
"""Without these, nothing of what follows can be asked."""


class _Examination:
    """Facts learnt so far about one node."""

    def __init__(self, endpoint: str, stream: str | None, keys: str | None) -> None:
        self._endpoint = endpoint
        self._wanted = stream
        self._keys = keys
        self._credentials: Credentials | None = None
        self._mechanism = ""
        self._described: list[pb.StreamInfo] = []
        self._problem: UsbcastError | None = None
        self._info = pb.StreamInfo()
        self._data_failed = False

    def look(self, hop: str) -> Finding:
        """Examine one hop; those before it that it needs are known to work."""
        look: Callable[[str], Finding] = getattr(self, "_" + hop.replace(" ", "_"))
        try:
            return look(hop)
        except (RemoteError, KeysError, RingUnavailable, VersionMismatch) as error:
            return failed(hop, str(error))

    def _name(self, hop: str) -> Finding:
        if self._endpoint.startswith("ipc://"):
            return skipped(hop, "a local socket has no host name")
        return ok(hop, ", ".join(resolve(self._endpoint)))

    def _port(self, hop: str) -> Finding:
        begin = time.monotonic()
        connect(self._endpoint).close()
        return ok(hop, f"{self._endpoint} accepts connections, after {(time.monotonic() - begin) * 1e3:.1f} ms")

    def _handshake(self, hop: str) -> Finding:
        with connect(self._endpoint) as connection:
            self._mechanism = mechanism(connection, self._endpoint)
        return ok(hop, "ZMTP, " + ("with keys (CURVE)" if self._mechanism == "CURVE" else "without keys"))

    def _key(self, hop: str) -> Finding:
        """Check that the node accepts our key; the same request lists its streams."""
        try:
            self._credentials = credentials(self._keys)
            with NodeClient(self._endpoint, keys=self._credentials) as node:
                self._described = node.describe()
        except (AccessRefused, KeysError) as error:
            return failed(hop, str(error))
        except UsbcastError as error:
            self._problem = error
        if self._credentials is None:
            return skipped(hop, "the node requires no key")
        shown = f"presented {self._credentials.own.name}"
        return skipped(hop, f"{shown}; no answer yet") if self._problem else ok(hop, f"{shown}, and was let in")

    def _contract(self, hop: str) -> Finding:
        if isinstance(self._problem, NodeUnreachable):
            return failed(
                hop,
                f"{self._endpoint} speaks ZMTP but does not answer: it is another ZeroMQ program, "
                "or a node that hangs (restart it; its log says more)",
            )
        if self._problem is not None:
            return failed(hop, str(self._problem))
        if not self._described:
            return ok(hop, f"a usbcast node; this side speaks {MAJOR}.{MINOR}")
        info = self._described[0]
        return ok(
            hop, f"{info.contract >> 16}.{info.contract & 0xFFFF}, of usbcast {info.node_version}; here {MAJOR}.{MINOR}"
        )

    def _stream(self, hop: str) -> Finding:
        names = sorted(info.stream for info in self._described)
        if not names:
            return failed(hop, "the node has no stream yet: it is waiting for its device, or for its upstream")
        for name in names:
            try:
                check_stream_name(name)
            except UsageError as error:
                return failed(hop, f"the node describes a stream with an invalid name: {error}")
        wanted = self._wanted or names[0]
        if wanted not in names:
            raise StreamUnknown(f"this node has no stream {wanted!r}; it has {', '.join(names)}")
        self._info = next(info for info in self._described if info.stream == wanted)
        return ok(hop, wanted if len(names) == 1 else f"{wanted}, of {', '.join(names)}")

    def _data_port(self, hop: str) -> Finding:
        try:
            endpoint = data_endpoint(self._info, self._endpoint)
            with connect(endpoint) as connection:
                mechanism(connection, endpoint)
        except UsbcastError as error:
            self._data_failed = True
            return failed(
                hop,
                f"requests are answered at {self._endpoint}, but the data port cannot be reached: {error}. If a firewall lets "
                "through the one port and not the other, open the data port, or choose it with --publish",
            )
        return ok(hop, endpoint)

    def _first_message(self, hop: str) -> Finding:
        if self._data_failed:
            return skipped(hop, "depends on what failed: data port")
        if self._info.ended:
            return skipped(hop, "the stream has ended: nothing more comes")
        return self._receive(hop, "push")

    def _ring(self, hop: str) -> Finding:
        if self._info.host_id != host_id():
            return skipped(hop, "the node is on another machine, or in another container: batches are sent instead")
        if self._info.ended:
            return skipped(hop, "the stream has ended")
        return self._receive(hop, "ring")

    def _receive(self, hop: str, via: str) -> Finding:
        begin = time.monotonic()
        receiver = NodeReceiver(self._info.stream, self._endpoint, "now", "all", via, self._credentials)
        with Subscription(receiver, self._endpoint) as subscription:
            if not subscription.ready(FIRST_MESSAGE_S):
                return failed(
                    hop,
                    f"connected by {via}, but neither data nor a heartbeat came within {FIRST_MESSAGE_S:g} s: the node hangs, or "
                    "its messages are lost on the way; `usbcast health` shows whether it publishes",
                )
        return ok(hop, f"by {via}, after {(time.monotonic() - begin) * 1e3:.0f} ms")

    def _device(self, hop: str) -> Finding:
        device = self._info.device
        named = f"{device.vendor_id:04x}:{device.product_id:04x} {device.product} {device.serial}".strip()
        if self._info.ended:
            return skipped(hop, "the stream has ended")
        why = self._health().problem
        if self._info.attached and why:
            return failed(hop, f"{named} is attached, but {why}")
        if self._info.attached:
            return ok(hop, f"{named} is attached" if device.ByteSize() else "the source of the stream is there")
        return failed(
            hop, f"not attached{f': {why}' if why else ''}; `usbcast devices` on the node's machine shows who holds it"
        )

    def _clock(self, hop: str) -> Finding:
        reader = self._info.reader_host_id or self._info.host_id
        if reader == host_id():
            return ok(hop, "the same as here: the device is read on this machine")
        watch = ClockWatch(self._info.stream, self._credentials)
        try:
            watch.follow(self._endpoint, reader)
            deadline = time.monotonic() + _CLOCK_S
            while (known := watch.offset()) is None and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            watch.close()
        if known is None:
            return failed(
                hop, f"no answer within {_CLOCK_S:g} s about the clock of the host that reads the device; try again"
            )
        said = f"{known.offset_ns / 1e9:+.6f} s relative to this host, ± {known.uncertainty_ns / 1e6:.3f} ms"
        if abs(known.offset_ns) > _FAR_OFF_NS:
            said += "; that is far off, so times_ns will look wrong here: run NTP on both hosts, or use times_local_ns"
        return ok(hop, said)

    def _books(self, hop: str) -> Finding:
        health = self._health()
        if health.discrepancies:
            return failed(hop, f"do not balance; this is a bug in usbcast, please report it: {health.discrepancies[0]}")
        lost = {f"{ledger.stage}: {why}": n for ledger in health.ledgers for why, n in ledger.lost.items() if n}
        told = ", ".join(f"{n:,} {why}" for why, n in lost.items())
        return ok(
            hop, f"balanced; lost before it was published: {told}" if told else "balanced; nothing lost at the node"
        )

    def _health(self) -> pb.StreamHealth:
        with NodeClient(self._endpoint, keys=self._credentials) as node:
            streams = node.health().streams
        return next((one for one in streams if one.stream == self._info.stream), pb.StreamHealth())


__all__ = ["HOPS", "examine"]

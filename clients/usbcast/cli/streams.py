"""`usbcast list` and `usbcast info`: which streams there are, and all that is known of one."""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from google.protobuf import json_format

from usbcast.cli.lan import show_lan
from usbcast.cli.options import AsJson, Endpoint, Keys
from usbcast.cli.output import complain, console, device_text, emit, table
from usbcast.node.discovery import is_lan
from usbcast.node.endpoints import is_stored
from usbcast.node.locate import endpoints, locate
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import AccessRefused, NodeUnreachable, RemoteError
from usbcast_schemas.lan import SCHEME
from usbcast_schemas.registry import local_nodes
from usbcast_schemas.v1 import usbcast_pb2 as pb

if TYPE_CHECKING:
    from usbcast.jetstream.listing import Stored


def list_streams(
    endpoint: Endpoint = None,
    lan: Annotated[
        bool,
        typer.Option("--lan", help="Nodes announced on the LAN; --endpoint lan:eth0 looks on this interface alone."),
    ] = False,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """List the streams of the nodes on this machine, of the one at ENDPOINT, or of those on the LAN."""
    if lan or is_lan(endpoint):
        show_lan(endpoint or SCHEME, keys, as_json)
        return
    if is_stored(endpoint):
        _list_stored(endpoint or "", as_json)
        return
    found: list[tuple[str, pb.StreamInfo]] = []
    silent: list[RemoteError] = []
    for address in endpoints(endpoint):
        try:
            with NodeClient(address, keys=keys) as node:
                found += [(address, info) for info in node.describe()]
        except (NodeUnreachable, AccessRefused) as error:
            silent.append(error)
    if not found and silent:
        raise silent[0]
    for sentence in silent:
        complain(str(sentence), "")
    if as_json:
        emit({"streams": [_plain(info, address) for address, info in found]})
        return
    console.print(
        table(
            "Streams",
            ("stream", "endpoint", "device", "state", "packets", "held", "rate/s", "size"),
            [
                (
                    info.stream,
                    address,
                    info.device.serial or f"{info.device.vendor_id:04x}:{info.device.product_id:04x}",
                    _state(info),
                    info.next_sequence,
                    info.next_sequence - info.oldest_sequence,
                    info.nominal_rate_hz or "-",
                    info.packet_size or "varying",
                )
                for address, info in found
            ],
        )
    )


def info(
    stream: Annotated[str, typer.Argument(metavar="STREAM|FILE", help="Name of a stream, or a recording.")],
    endpoint: Endpoint = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Show all that a node says of one stream: device, profile, fields, addresses, ring. Or what a recording holds."""
    if _means_recording(stream, endpoint):
        from usbcast.cli.recordings import show_recording

        show_recording(Path(stream), as_json)
        return
    if is_stored(endpoint):
        _show_stored(endpoint or "", stream, as_json)
        return
    address = locate(stream, endpoint)
    with NodeClient(address, keys=keys) as node:
        described = node.describe_stream(stream)
    if as_json:
        emit(_plain(described, address))
        return
    rows = [
        ("epoch", f"{described.epoch:016x}"),
        ("node", f"{address} (usbcast {described.node_version}, process {described.node_pid})"),
        ("data", ", ".join(described.data_endpoints)),
        ("device", device_text(described.device)),
        ("state", _state(described)),
        ("profile", described.profile_name),
        ("packets", f"{described.next_sequence:,}, from {described.oldest_sequence:,} on still in the ring"),
        ("packet size", f"{described.packet_size} bytes" if described.packet_size else "varying"),
        ("nominal rate", f"{described.nominal_rate_hz:g} packets/s" if described.nominal_rate_hz else "unknown"),
        ("ring", f"{described.ring.path} ({described.ring_bytes / 2**20:g} MiB)"),
    ]
    if described.clock_steps:
        rows.append(
            ("clock", f"set {described.clock_steps:,} times while it was read: times before and after do not compare")
        )
    console.print(table(f"Stream {described.stream}", ("", ""), rows))
    _show_fields(described)


def _means_recording(name: str, endpoint: str | None) -> bool:
    """A path is a recording; a plain name is one if files of it are here, unless a node of this machine has such a stream."""
    if os.sep in name or name.endswith((".mcap", ".part")):
        return True
    if endpoint is not None or any(name in node.streams for node in local_nodes()):
        return False
    if not any(Path().glob(f"{escape(name)}*")):
        return False
    from usbcast.recording.files import is_recording

    return is_recording(Path(name))


def _show_fields(described: pb.StreamInfo) -> None:
    if described.fields:
        console.print(
            table(
                "Fields",
                ("name", "type", "offset", "unit"),
                [
                    (f.name, f.type + (" big-endian" if f.big_endian else ""), f.offset, f.unit)
                    for f in described.fields
                ],
            )
        )


def _list_stored(endpoint: str, as_json: bool) -> None:
    from usbcast.jetstream.listing import stored

    found = stored(endpoint)
    if as_json:
        emit({"streams": [_stored_as_plain(one) for one in found]})
        return
    rows = [
        (
            one.info.stream,
            one.server,
            one.info.device.serial or f"{one.info.device.vendor_id:04x}:{one.info.device.product_id:04x}",
            "ended" if one.info.ended else "-",
            one.info.next_sequence,
            one.info.next_sequence - one.info.oldest_sequence,
            one.info.nominal_rate_hz or "-",
            one.size_bytes,
        )
        for one in found
    ]
    columns = ("stream", "server", "device", "state", "packets", "stored", "rate/s", "bytes")
    console.print(table("Stored streams", columns, rows))


def _show_stored(endpoint: str, stream: str, as_json: bool) -> None:
    from usbcast.jetstream.listing import stored

    (one,) = stored(endpoint, stream)
    if as_json:
        emit(_stored_as_plain(one))
        return
    described = one.info
    rows = [
        ("epoch", f"{described.epoch:016x}"),
        ("server", f"{one.server}, as {one.store}"),
        ("stored", f"{one.messages:,} messages, {one.size_bytes:,} bytes, {one.replicas} times"),
        ("keeps", f"{one.keep_s / 86400:g} days" if one.keep_s else "without a limit of age"),
        ("device", device_text(described.device)),
        ("profile", described.profile_name),
        ("packets", f"{described.next_sequence:,}, from {described.oldest_sequence:,} on still stored"),
        ("packet size", f"{described.packet_size} bytes" if described.packet_size else "varying"),
        ("nominal rate", f"{described.nominal_rate_hz:g} packets/s" if described.nominal_rate_hz else "unknown"),
    ]
    console.print(table(f"Stream {described.stream}", ("", ""), rows))
    _show_fields(described)


def _stored_as_plain(one: Stored) -> dict[str, Any]:
    return {
        **_plain(one.info, one.server),
        "store": one.store,
        "messages": one.messages,
        "size_bytes": one.size_bytes,
        "replicas": one.replicas,
        "keep_s": one.keep_s,
    }


def _plain(info: pb.StreamInfo, address: str) -> dict[str, Any]:
    plain: dict[str, Any] = json_format.MessageToDict(info, preserving_proto_field_name=True)
    for name in ("next_sequence", "oldest_sequence", "next_number", "ring_bytes", "started_realtime_ns"):
        plain[name] = getattr(info, name)
    plain["epoch"] = f"{info.epoch:016x}"
    plain["endpoint"] = address
    return plain


def _state(info: pb.StreamInfo) -> str:
    if info.ended:
        return "ended"
    if info.source_silent_ns:
        return f"{info.source} silent for {info.source_silent_ns / 1e9:.0f} s"
    return "attached" if info.attached else "detached"

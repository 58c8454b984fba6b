"""`usbcast info FILE`: the contents of a recording."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from usbcast.cli.output import console, device_text, emit, table
from usbcast.clock.offset import ClockOffset
from usbcast.recording.reader import Recording, open_recording


def show_recording(path: Path, as_json: bool) -> None:
    """Streams, times, counts, gaps, device, profile. Reads the whole recording."""
    recording = open_recording(path)
    ledger = recording.books()
    if as_json:
        emit(_plain(recording))
        return
    console.print(
        table(
            f"recording {recording.segments[0].head.recording}",
            ("", ""),
            [
                ("files", f"{len(recording.segments)}, {recording.size_bytes / 1e6:,.1f} MB"),
                ("from", _time(recording.start_ns)),
                ("until", _time(recording.end_ns)),
                ("ledger", "balanced" if ledger.balanced else "not balanced: see `usbcast verify`"),
            ],
        )
    )
    rows = [
        (
            epoch.stream,
            f"{epoch.epoch:016x}",
            _time(epoch.start_ns),
            (epoch.end_ns - epoch.start_ns) / 1e9,
            epoch.recorded,
            sum(epoch.lost.values()) + sum(epoch.lost_earlier.values()),
            epoch.missing,
            epoch.events,
        )
        for epoch in ledger.epochs.values()
    ]
    console.print(
        table("", ("stream", "epoch", "from", "seconds", "packets", "lost", "missing", "device events"), rows)
    )
    described = []
    for name in recording.streams:
        info = recording.info(name)
        fields = ", ".join(f"{f.name} [{f.unit}]" if f.unit else f.name for f in info.fields)
        rate = f"{info.nominal_rate_hz:g}" if info.nominal_rate_hz else "-"
        described.append(
            (name, device_text(info.device), info.profile_name, info.packet_size or "varying", rate, fields)
        )
    console.print(table("", ("stream", "device", "profile", "size", "rate/s", "fields"), described))
    for epoch in ledger.epochs.values():
        if epoch.clock_steps:
            console.print(
                f"  {epoch.stream}: the clock of the host that reads the device was set {epoch.clock_steps:,} times: "
                "times before and after are not of one clock (`usbcast verify` says where)",
                soft_wrap=True,
            )
    for stream, known in sorted(ledger.clocks.items()):
        console.print(f"  {stream}: {_clock_text(known)}", soft_wrap=True)


def _plain(recording: Recording) -> dict[str, Any]:
    ledger = recording.books()
    return {
        "recording": recording.segments[0].head.recording,
        "files": [str(segment.path) for segment in recording.segments],
        "size_bytes": recording.size_bytes,
        "start_ns": recording.start_ns,
        "end_ns": recording.end_ns,
        "epochs": [epoch.to_json() for epoch in ledger.epochs.values()],
        "notes": ledger.notes,
        "clocks": {stream: asdict(known) for stream, known in ledger.clocks.items()},
        "balanced": ledger.balanced,
        "streams": {
            name: json_format.MessageToDict(recording.info(name), preserving_proto_field_name=True)
            for name in recording.streams
        },
    }


def _clock_text(known: ClockOffset) -> str:
    if not known.uncertainty_ns:
        return "recorded on the host that reads the device: one clock"
    return (
        f"the clock of the host that reads the device was ahead of the recording host's by {known.offset_ns / 1e9:+.6f} s, "
        f"± {known.uncertainty_ns / 1e6:.3f} ms, at {_time(known.at_ns)}"
    )


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC") if ns else "-"

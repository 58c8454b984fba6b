"""Options of `usbcast record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Streams = Annotated[
    list[str] | None, typer.Argument(metavar="STREAM...", help="Names of streams, or patterns such as 'imu*'.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="BASE",
        help="Files are BASE-00000.mcap and so on; in a directory, or without it, they are named by stream and time.",
    ),
]
Start = Annotated[str, typer.Option("--start", help="now, or oldest: all that the ring still holds.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue the recording at BASE, without a hole if the ring still has what came since."
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Start even if a stream is not there yet.")]
Compression = Annotated[str, typer.Option("--compression", help="zstd, lz4 or none.")]
Sync = Annotated[
    float,
    typer.Option("--sync", min=0.01, max=60, help="Seconds after which received data is confirmed to be on the disk."),
]
SegmentSize = Annotated[str, typer.Option("--segment-size", metavar="SIZE", help="Size of one file.")]
SegmentDuration = Annotated[float, typer.Option("--segment-duration", min=0.1, help="Seconds in one file.")]
KeepFiles = Annotated[
    int | None, typer.Option("--keep", min=1, help="Keep at most this many files; delete the oldest.")
]
KeepSize = Annotated[
    str | None, typer.Option("--keep-size", metavar="SIZE", help="Keep at most this much; delete the oldest files.")
]
MinFree = Annotated[
    str, typer.Option("--min-free", metavar="SIZE", help="Pause while the disk has less than this left.")
]
Packets = Annotated[int | None, typer.Option("--packets", min=1, help="Stop after this many packets.")]
Duration = Annotated[float | None, typer.Option("--duration", min=0.1, help="Stop after this many seconds.")]
Until = Annotated[
    str | None, typer.Option("--until", help="Stop at this time (ISO 8601), or at the `end` of all streams.")
]
Pre = Annotated[
    float | None, typer.Option("--pre", min=0, help="Wait for a trigger; begin this many seconds before it.")
]
Post = Annotated[float | None, typer.Option("--post", min=0, help="Go on for this many seconds after a trigger.")]
Trigger = Annotated[bool, typer.Option("--trigger", help="Trigger the recorder that waits (at BASE, if given).")]

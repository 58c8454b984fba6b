"""`usbcast convert`: a recording in the forms of other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from usbcast.cli.options import AsJson
from usbcast.cli.output import complain, console, emit
from usbcast.cli.verify import progress_bar


def convert(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files, a directory, or the BASE of a recording.")
    ],
    form: Annotated[
        str,
        typer.Option("--to", help="parquet, arrow, csv, or mcap: one decoded message per packet, as viewers plot it."),
    ] = "parquet",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="BASE", help="Files are BASE-STREAM.parquet and so on.")
    ] = None,
    stream: Annotated[list[str] | None, typer.Option("--stream", help="Only this stream; may be repeated.")] = None,
    times: Annotated[str, typer.Option("--times", help="arrival, or dejittered by the nominal rate.")] = "arrival",
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert what FILE... holds, one table per stream. Says what is missing between the packets."""
    from usbcast.recording.convert import ConvertOptions
    from usbcast.recording.convert import convert as run
    from usbcast.recording.reader import open_recording

    recording = open_recording([str(path) for path in files])
    first = recording.segments[0].path
    base = output or first.with_name(re.sub(r"(-\d{5})?\.mcap(\.part)?$", "", first.name))
    chosen = tuple(dict.fromkeys(stream or recording.streams))
    total_bytes = sum(chunk.size_bytes for s in recording.segments for chunk in s.chunks) * len(chosen)
    with progress_bar(total_bytes, f"converting to {form}", quiet=as_json) as bar:
        task = bar.task_ids[0]
        options = ConvertOptions(form, times, force)
        made = run(recording, base, chosen, options, lambda size_bytes: bar.advance(task, size_bytes))
    for path, damage in dict.fromkeys(recording.damages):
        complain(f"{path}, at byte {damage.offset:,}: {damage.what}")
    for done in made:
        if as_json:
            emit(done.to_json())
        else:
            missing = f"; {done.lost:,} lost in {done.gaps} gaps" if done.gaps else "; nothing is missing between them"
            console.print(f"{done.path}: {done.packets:,} packets{missing}", soft_wrap=True)
    if recording.damages:
        raise typer.Exit(1)

"""`usbcast convert`: a recording in the forms of other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usbcast.cli.options import AsJson
from usbcast.cli.output import console, emit, errors


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
    as_json: AsJson = False,
) -> None:
    """Convert what FILE... holds, one table per stream. Says what is missing between the packets."""
    from usbcast.recording.convert import ConvertOptions
    from usbcast.recording.convert import convert as run
    from usbcast.recording.reader import open_recording

    recording = open_recording([str(path) for path in files])
    first = recording.segments[0].path
    base = output or first.with_name(re.sub(r"(-\d{5})?\.mcap(\.part)?$", "", first.name))
    total = sum(epoch.recorded for epoch in recording.books().epochs.values())
    bar = Progress(
        TextColumn("converting to {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=errors, transient=True, disable=as_json or not errors.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(form, total=total)
        made = run(recording, base, tuple(stream or ()), ConvertOptions(form, times), lambda n: bar.advance(task, n))
    for path, damage in dict.fromkeys(recording.damages):
        errors.print(
            f"usbcast: {path}, at byte {damage.offset:,}: {damage.what}", style="red", markup=False, soft_wrap=True
        )
    for done in made:
        if as_json:
            emit(done.to_json())
        else:
            missing = f"; {done.lost:,} lost in {done.gaps} gaps" if done.gaps else "; nothing is missing between them"
            console.print(
                f"{done.path}: {done.packets:,} packets{missing}", markup=False, highlight=False, soft_wrap=True
            )
    if recording.damages:
        raise typer.Exit(1)

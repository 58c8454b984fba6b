"""`usbcast verify` and `usbcast recover`: is all there that should be, and if not, save what can be saved."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from usbcast.cli.options import AsJson
from usbcast.cli.output import complain, console, emit, errors, table

if TYPE_CHECKING:
    from usbcast.recording.verify import Verified

SHOWN = 20


def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files, directories, or the BASE of a recording's segments.")
    ],
    as_json: AsJson = False,
) -> None:
    """Balance the ledger of recordings over all their segments; exit with 1 unless nothing is missing unsaid."""
    from usbcast.recording.files import resolve
    from usbcast.recording.verify import verify as run

    paths = resolve(files)
    with progress_bar(sum(path.stat().st_size for path in paths), "verifying", quiet=as_json) as bar:
        task = bar.task_ids[0]
        found = run(paths, lambda size_bytes: bar.advance(task, size_bytes))
    balanced = all(verified.balanced for verified in found)
    if as_json:
        emit({"recordings": [verified.to_json() for verified in found], "balanced": balanced})
    else:
        for verified in found:
            _show(verified)
    if not balanced:
        raise typer.Exit(1)


def recover(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files that were cut off or damaged.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to this file; default: the recording's proper name."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make cut and damaged files whole: every complete batch stays, what is gone is declared in the file.

    Exits with 1 if nothing could be saved of one of them.
    """
    from usbcast.recording.claim import Claim, base_of
    from usbcast.recording.files import resolve
    from usbcast.recording.recover import recover as run
    from usbcast_schemas.errors import UsageError

    paths = resolve(files)
    if output is not None and len(paths) > 1:
        raise UsageError(f"--output names one file, and there are {len(paths)} to recover")
    in_vain = False
    for path in paths:
        # Of what is mended in its place nobody may be writing.
        claimed = Claim(base_of(path)) if output is None else contextlib.nullcontext()
        with claimed, progress_bar(path.stat().st_size, f"recovering {path.name}", quiet=as_json) as bar:
            made = run(path, output, partial(_stand_at, bar))
        in_vain |= made.in_vain
        if as_json:
            emit(made.to_json())
        elif made.was_whole:
            console.print(f"{path} is whole: nothing to do", soft_wrap=True)
        else:
            saved = f"{made.packets:,} packets in {made.batches:,} batches saved"
            console.print(f"{made.path}: {saved}, {made.lost:,} declared lost", soft_wrap=True)
        for sentence in made.unknown if not as_json else ():
            complain(sentence)
        if made.in_vain and not as_json:
            complain(f"nothing that was recorded could be saved of {path}")
    if in_vain:
        raise typer.Exit(1)


def progress_bar(total_bytes: int, what: str, *, quiet: bool) -> Progress:
    """A bar on stderr that counts bytes; its one task is the first."""
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=errors, transient=True, disable=quiet or not errors.is_terminal,
    )  # fmt: skip
    bar.add_task(what, total=total_bytes)
    return bar


def _stand_at(bar: Progress, size_bytes: int) -> None:
    bar.update(bar.task_ids[0], completed=size_bytes)


def _show(verified: Verified) -> None:
    ledger = verified.ledger
    rows = []
    for epoch in ledger.epochs.values():
        rows.append(
            (
                epoch.stream,
                f"{epoch.epoch:016x}",
                _time(epoch.start_ns),
                epoch.span,
                epoch.recorded,
                sum(epoch.lost.values()),
                epoch.missing,
                epoch.balanced,
            )
        )
    columns = ("stream", "epoch", "from (UTC)", "packets", "recorded", "declared lost", "missing", "balanced")
    console.print(table(f"recording {verified.recording}: {len(verified.files)} files", columns, rows))
    for epoch in ledger.epochs.values():
        for what, counts in (
            ("lost at", epoch.lost),
            ("not carried, by choice:", epoch.left_out),
            ("lost before they were numbered, at", epoch.lost_earlier),
        ):
            for reason, count in sorted(counts.items()):
                console.print(f"  {epoch.stream}: {count:,} {what} {reason}", soft_wrap=True)
    for note in ledger.notes[:SHOWN]:
        console.print(f"  {note}", soft_wrap=True)
    if len(ledger.notes) > SHOWN:
        console.print(f"  and {len(ledger.notes) - SHOWN} more (--json has all)")
    for problem in ledger.problems[:SHOWN]:
        console.print(f"  NOT BALANCED: {problem}", style="red", soft_wrap=True)
    if ledger.problem_count > SHOWN:
        console.print(f"  and {ledger.problem_count - SHOWN} more", style="red")
    if verified.balanced:
        console.print("  the ledger balances: recorded + declared lost = the range", style="green")


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S") if ns else "-"

"""`usbcast record`: streams into files, unattended, for as long as it takes."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group

from usbcast.cli.live import LiveView
from usbcast.cli.nonwaiting import nonwaiting
from usbcast.cli.options import AsJson, Endpoint, Keys, Via
from usbcast.cli.output import complain, console, emit, table
from usbcast.cli.rates import Rate
from usbcast.cli.record_options import (
    Compression,
    Duration,
    KeepFiles,
    KeepSize,
    MinFree,
    Output,
    Packets,
    Post,
    Pre,
    Resume,
    SegmentDuration,
    SegmentSize,
    Start,
    Streams,
    Sync,
    Trigger,
    Until,
    Wait,
)
from usbcast.cli.signals import Overdue, overdue
from usbcast_schemas.errors import UsageError

if TYPE_CHECKING:
    from usbcast.recording.policy import Limits
    from usbcast.recording.recorder import Recorder, RecordOptions
    from usbcast.recording.recorder import Start as Beginning

FIGURES_S = 1.0


def record(
    streams: Streams = None,
    output: Output = None,
    endpoint: Endpoint = None,
    start: Start = "now",
    via: Via = "auto",
    resume: Resume = False,
    wait: Wait = False,
    compression: Compression = "zstd",
    sync_s: Sync = 0.5,
    segment_size: SegmentSize = "1GiB",
    segment_s: SegmentDuration = 3600.0,
    keep: KeepFiles = None,
    keep_size: KeepSize = None,
    min_free: MinFree = "64MiB",
    packets: Packets = None,
    duration_s: Duration = None,
    until: Until = None,
    pre_s: Pre = None,
    post_s: Post = None,
    trigger: Trigger = False,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Record STREAM... until Ctrl-C, SIGTERM or a limit. The files say themselves what is missing: see `usbcast verify`."""
    from usbcast.recording.policy import Keep, Rotation
    from usbcast.recording.recorder import RecordOptions
    from usbcast.recording.resume import fresh, resumed
    from usbcast.recording.segment import COMPRESSIONS
    from usbcast.recording.store import StoreOptions
    from usbcast.recording.supervisor import trigger as pull

    if trigger:
        _say_triggered(pull(output), as_json)
        return
    if not streams:
        raise UsageError("say what to record: names of streams, or patterns; `usbcast list` shows what there is")
    if start not in ("now", "oldest"):
        raise UsageError(f"--start is {start!r}: now or oldest is allowed")
    if compression not in COMPRESSIONS:
        raise UsageError(f"--compression is {compression!r}: {', '.join(COMPRESSIONS)} are allowed")
    if resume and output is None:
        raise UsageError("--resume needs --output, which says what to go on with")
    base = _base(output, streams, resume=resume)
    store = StoreOptions(
        base=base,
        compression=compression,
        sync_s=sync_s,
        rotation=Rotation(_size("--segment-size", segment_size), segment_s),
        keep=Keep(keep, _size("--keep-size", keep_size) if keep_size else None),
        min_free_bytes=_size("--min-free", min_free),
    )
    options = RecordOptions(
        tuple(dict.fromkeys(streams)),
        store,
        endpoint,
        start,
        via,
        _limits(packets, duration_s, until),
        wait,
        pre_s,
        post_s,
        keys,
    )
    _run(options, resumed(base, compression) if resume else fresh(base), as_json)


def _run(options: RecordOptions, begin: Beginning, as_json: bool) -> None:
    """Record until a limit or a signal; then say what is in which files."""
    from usbcast.recording.recorder import Recorder
    from usbcast.recording.supervisor import Registered

    progress = _Progress(as_json)
    recorder = Recorder(options, begin, progress.say)
    base = options.store.base
    # Triggers must find only a recorder that waits for them: the signal would mean nothing to another.
    found_by_triggers = contextlib.closing(Registered(base)) if options.armed else contextlib.nullcontext()
    advice = f"; `usbcast recover {base}` makes its last file whole"
    with nonwaiting("stdout"):
        with overdue(advice) as alarm, _signals(recorder, alarm), found_by_triggers, progress.view:
            recorder.run(lambda: progress.look(recorder))
        progress.say_farewell(recorder)
    if recorder.store.paused or recorder.refused:
        raise typer.Exit(1)


class _Progress:
    """Shows what has been recorded, to a person or a program."""

    def __init__(self, as_json: bool) -> None:
        self.view = LiveView(FIGURES_S, as_json=as_json)
        self._as_json = as_json
        self._rates: dict[str, Rate] = {}

    def say(self, kind: str, fields: dict[str, Any]) -> None:
        if self._as_json:
            emit({"event": kind, **fields})
        elif kind == "warning":
            complain(fields["message"], "bold yellow")
        elif kind == "segment":
            console.print(f"recording to {fields['file']}", soft_wrap=True)
        elif kind == "trigger":
            console.print("triggered")

    def look(self, recorder: Recorder) -> None:
        if not self.view.due():
            return
        figures = self._figures(recorder)
        if recorder.manager.present:
            recorder.manager.status(_status(figures))
        if self._as_json:
            emit({"event": "figures", **figures})
        self.view.draw(lambda: _screen(figures))

    def say_farewell(self, recorder: Recorder) -> None:
        files = [str(path) for path in recorder.store.files]
        if self._as_json:
            emit({"event": "ended", "reason": recorder.reason, "files": files, **self._figures(recorder)})
            return
        in_files = ", ".join(files) or "no file"
        console.print(f"{recorder.reason}; {recorder.packets:,} packets in {in_files}", soft_wrap=True)
        if recorder.store.paused:
            complain(f"the end is missing: {recorder.store.paused}")

    def _figures(self, recorder: Recorder) -> dict[str, Any]:
        now_s = time.monotonic()
        streams = {}
        for name, tap in recorder.taps.items():
            rate = self._rates.setdefault(name, Rate()).at(tap.packets, now_s)
            streams[name] = {
                "rate_hz": round(rate, 1),
                "packets": tap.packets,
                "lost": tap.lost,
                "lag_ms": round(tap.lag_ns / 1e6, 2),
                "ended": tap.ended,
            }
        store = recorder.store
        return {
            "streams": streams,
            "file": str(store.path) if store.path else None,
            "size_bytes": store.size_bytes,
            "free_bytes": store.free_bytes(),
            "paused": store.paused,
        }


def _screen(figures: dict[str, Any]) -> Group:
    rows = [(name, f["rate_hz"], f["packets"], f["lost"], f["lag_ms"]) for name, f in figures["streams"].items()]
    size_mb, free_gb = figures["size_bytes"] / 1e6, figures["free_bytes"] / 1e9
    state = f"  {size_mb:,.1f} MB in {figures['file']}; {free_gb:,.1f} GB left on the disk"
    if figures["paused"]:
        state = f"  PAUSED: {figures['paused']}"
    return Group(table("", ("stream", "packets/s", "packets", "lost", "lag ms"), rows), state)


def _status(figures: dict[str, Any]) -> str:
    if figures["paused"]:
        return f"PAUSED: {figures['paused']}"
    told = [f"{name}: {f['packets']:,} packets, {f['lost']:,} lost" for name, f in figures["streams"].items()]
    return f"{'; '.join(told)}; {figures['free_bytes'] / 1e9:,.1f} GB left on the disk"


@contextlib.contextmanager
def _signals(recorder: Recorder, alarm: Overdue) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        recorder.stop(f"stopped by {signal.Signals(number).name}")
        alarm.tell()

    def trigger(_number: int, _frame: FrameType | None) -> None:
        recorder.trigger()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: trigger}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limits(packets: int | None, duration_s: float | None, until: str | None) -> Limits:
    from usbcast.recording.policy import Limits

    if until is None or until == "end":
        return Limits(packets, duration_s, None, at_end=until == "end")
    try:
        return Limits(packets, duration_s, int(datetime.fromisoformat(until).timestamp() * 1e9))
    except ValueError:
        raise UsageError(f"--until is {until!r}: write `end`, or a time like 2026-01-31T12:00:00+01:00") from None


def _size(option: str, text: str) -> int:
    from usbcast.recording.sizes import parse_size

    try:
        return parse_size(text)
    except ValueError:
        raise UsageError(f"{option} is {text!r}: write a size like 64MiB or 1GB") from None


def _base(output: Path | None, streams: list[str], *, resume: bool) -> Path:
    """Return the base path of the files: --output; in a directory, by stream and time, or the recording that is resumed."""
    from usbcast.recording.files import bases_in

    named = f"{_plain_name(streams)}-{time.strftime('%Y%m%dT%H%M%S')}"
    if output is None or not output.is_dir():
        base = output or Path(named)
        return base.with_name(base.name.removesuffix(".mcap"))
    there = bases_in(output) if resume else []
    if len(there) > 1:
        raise UsageError(
            f"{output} has {len(there)} recordings ({', '.join(base.name for base in there)}): "
            "say with --output which of them goes on"
        )
    return there[0] if there else output / named


def _plain_name(streams: list[str]) -> str:
    name = "-".join("".join(c for c in stream if c.isalnum() or c in "_-") for stream in streams)
    return name.strip("-")[:80] or "recording"


def _say_triggered(pids: list[int], as_json: bool) -> None:
    if as_json:
        emit({"triggered": pids})
    else:
        console.print(f"triggered the recorder of process {', '.join(map(str, pids))}")

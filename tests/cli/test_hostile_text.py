"""Text from outside is shown and never obeyed: by every verb, in logs, in CSV and in the names of files."""

from __future__ import annotations

import ast
import io
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.live import Live
from stranger import HOSTILE, stranger

from tests.support.nodes import eventually, serving
from tests.support.programs import run
from usbcast.cli import app
from usbcast.cli.logs import JournalFormatter, SafeFormatter
from usbcast.cli.output import MAX_CELL, SafeConsole, emit, styled, table
from usbcast.node.requests import NodeClient, dealer
from usbcast.recording.entries import batch_entry, info_entry
from usbcast.recording.segment import Head, Segment
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.usb import discovery
from usbcast_schemas.batch import Arrivals, decode_batch, encode_batch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import CommandFailed
from usbcast_schemas.printable import file_name_part, printable, spreadsheet_head
from usbcast_schemas.v1 import usbcast_pb2 as pb

Tell = Callable[..., str]


def check_harmless(shown: str) -> None:
    """Nothing in it is obeyed by a terminal."""
    assert [repr(letter) for letter in shown if not letter.isprintable() and letter != "\n"] == []


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tell:
    """What a verb writes, to both of its outputs, after it was found harmless."""

    def tell(*arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["usbcast", *map(str, arguments)])
        assert app.run() == code
        said = capfd.readouterr()
        check_harmless(said.out + said.err)
        return said.out + said.err

    return tell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5 µm — ok\\", "5 µm — ok\\"),
        ("m\u202fs", "m\u202fs"),
        ("\x1b[2J\x9b\x7f\r\n\t", "\\x1b[2J\\x9b\\x7f\\r\\n\\t"),
        ("\u202e\u2066\u200f\u2028\ufeff", "\\u202e\\u2066\\u200f\\u2028\\ufeff"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert SafeConsole().render_str(text).plain == shown


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (("list",), 0),
        (("info", "evil"), 0),
        (("health",), 1),
        (("watch", "evil", "--seconds", "0.6", "--via", "push"), 0),
        (("command", "evil", "--type", "0xc0", "--length", "1"), 1),
    ],
    ids=lambda verb: verb[0] if isinstance(verb, tuple) else "",
)
def test_a_hostile_node_asked_by_a_verb(verb: tuple[str, ...], code: int, told: Tell) -> None:
    with stranger() as endpoint:
        said = told(*verb, "--endpoint", endpoint, code=code)
    assert "\\x1b]0;pwned\\x07" in "".join(said.split())
    assert "[/end]" in said


def test_a_hostile_node_and_the_doctor(told: Tell) -> None:
    with stranger() as endpoint:
        told("doctor", endpoint, "--stream", "evil", code=1)


def test_a_hostile_node_whose_streams_have_no_names_and_the_doctor(told: Tell) -> None:
    with stranger() as endpoint:
        said = " ".join(told("doctor", endpoint, code=1).split())
    assert "failed stream the node describes a stream with an invalid name: '\\x1b]0;pwned" in said


def test_a_hostile_node_that_refuses(told: Tell) -> None:
    with stranger(refusing=True) as endpoint:
        for verb in (("list",), ("info", "x"), ("health",), ("watch", "x")):
            assert told(*verb, "--endpoint", endpoint, code=1).startswith("usbcast: \\x1b]0;pwned")


def test_a_hostile_node_that_is_recorded_and_bridged(told: Tell, tmp_path: Path) -> None:
    with stranger() as endpoint:
        told("record", "evil", "--endpoint", endpoint, "--duration", "0.5", "--output", tmp_path / "run")
        (file,) = tmp_path.glob("run*.mcap")
        told("info", file)
        told("verify", file)
        told("convert", file, "--to", "csv")
        bridged = run("--verbose", "bridge", endpoint, "--bind", "tcp://127.0.0.1:0", "--show-config")
        check_harmless(bridged.stdout + bridged.stderr)


def test_an_error_of_a_hostile_node_is_safe_in_any_program() -> None:
    with stranger(refusing=True) as endpoint, NodeClient(endpoint) as node, pytest.raises(CommandFailed) as raised:
        node.describe()
    check_harmless(str(raised.value))


def test_the_name_of_a_client_in_the_health_of_an_honest_node(told: Tell) -> None:
    with serving(rate_hz=100) as served:
        report = pb.SubscriptionReport(name=HOSTILE, via="push")
        socket, handshakes = dealer(served.endpoint, None)
        request = pb.Request(contract=CONTRACT, request_id=1, report=pb.ReportRequest(stream="sim", report=report))
        socket.send(request.SerializeToString())
        eventually(lambda: served.node.health()[0].subscriptions, "the report has come")
        said = told("health", "--endpoint", served.endpoint)
        handshakes.close()
        socket.close()
    assert "\\x1b]0;pwned" in said


def test_devices_whose_strings_are_hostile(told: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimulatorConfig(product="weird [/end] box\x1b[2J", manufacturer="\u202eevil", serial="\x1b]0;x\x07")
    found = discovery.list_devices(SimulatorBackend([SimulatedDevice(config)]))
    monkeypatch.setattr(discovery, "list_devices", lambda *_: found)
    said = told("devices")
    assert "weird [/end]" in said
    assert "box\\x1b[2J" in said
    told("devices", "--profile", "1209:0001")


def recording_of(directory: Path, stream: str, field: str) -> Path:
    info = pb.StreamInfo(
        stream=stream, epoch=1, packet_size=16, profile_name=HOSTILE, device=pb.DeviceInfo(product=HOSTILE),
        fields=[pb.Field(name=field, type="u32", offset=0, unit=HOSTILE)],
    )  # fmt: skip
    batch = encode_batch(
        epoch=1, number=0, first_sequence=0, packet_count=1, packet_size=16, payload=[bytes(16)],
        arrivals=Arrivals((1,), (1,), (1,)),
    )  # fmt: skip
    segment = Segment(directory / "made-00000.mcap", Head("aa", 0, 1, HOSTILE), "zstd")
    segment.add(info_entry(info, 1))
    segment.add(batch_entry(stream, decode_batch(batch)))
    return segment.finish()


def test_a_hostile_recording(told: Tell, tmp_path: Path) -> None:
    path = recording_of(tmp_path, "s", HOSTILE)
    told("info", path)
    told("verify", path, code=1)
    told("convert", path, "--to", "csv")
    (head, _) = (tmp_path / "made-s.csv").read_text().splitlines()
    check_harmless(head)


def test_a_field_that_is_a_formula(told: Tell, tmp_path: Path) -> None:
    told("convert", recording_of(tmp_path, "s", "=1+1"), "--to", "csv")
    (head, _) = (tmp_path / "made-s.csv").read_text().splitlines()
    assert head.startswith("epoch,sequence,time,'=1+1 [")


@pytest.mark.parametrize(
    ("text", "head"),
    [("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "\\t=1"), (" -1", "' -1"), ("acc0 [m/s²]", "acc0 [m/s²]")],
)
def test_heads_of_columns(text: str, head: str) -> None:
    assert spreadsheet_head(text) == head


@pytest.mark.parametrize("name", ["../../pwned", "a/b", "..", "", ".hidden", HOSTILE, "x" * 300, "a\0b", "naïve"])
def test_a_stranger_name_stays_in_its_directory(name: str, tmp_path: Path) -> None:
    part = file_name_part(name)
    assert part.isascii()
    assert part == Path(part).name
    assert 0 < len(part) <= 80
    assert not part.startswith(".")
    (tmp_path / part).touch()
    assert part != file_name_part(name + "!"), "other names are other files"


def test_a_name_that_will_do_is_the_name_of_the_file() -> None:
    assert file_name_part("first-case_2") == "first-case_2"


def test_a_stream_whose_name_is_a_path_is_written_nowhere_else(tmp_path: Path, told: Tell) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = recording_of(inside, "../../outside", "x")
    told("convert", path, "--to", "csv", code=1)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_logs_keep_to_their_line() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "refused %s", (HOSTILE,), None)
    (line,) = SafeFormatter("%(message)s").format(record).split("\n")
    check_harmless(line)
    check_harmless(JournalFormatter().format(record))


def test_a_traceback_in_the_log_is_indented() -> None:
    try:
        raise ValueError("bad\n2026-01-01 WARNING usbcast: faked\x1b[2J")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "ended", (), sys.exc_info())
    first, *others = SafeFormatter("%(message)s").format(record).split("\n")
    assert first == "ended"
    assert all(line.startswith("    ") for line in others)
    check_harmless("\n".join(others))


def test_a_traceback_of_a_program_error_is_safe_too() -> None:
    """There should be none; if there is one, it may quote a stranger."""
    code = (
        "import sys; from usbcast.cli import main, health\n"
        f"def fail(_): raise RuntimeError({HOSTILE!r})\n"
        "health.endpoints = fail; sys.argv = ['usbcast', 'health']; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "RuntimeError: \\x1b]0;pwned" in ran.stderr
    check_harmless(ran.stderr)


def test_no_verb_writes_past_the_one_place_of_output() -> None:
    """`print`, `echo`, another console, or a Text made elsewhere would show what strangers wrote as it is."""
    found = []
    for path in sorted(Path(app.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name not in ("output.py", "fitting.py"):
                called = ast.unparse(node.func)
                if called in (
                    "print",
                    "typer.echo",
                    "typer.secho",
                    "click.echo",
                    "Console",
                    "Text",
                    "sys.stdout.write",
                ):
                    found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == ["app.py: typer.echo(f\"usbcast {version('usbcast')}\")"]


def test_what_is_drawn_again_and_again_is_safe_too() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=100, color_system=None)
    with Live(table(HOSTILE, ("a", HOSTILE), [(HOSTILE, 1)]), console=console, auto_refresh=False) as live:
        live.update(styled("x ", (HOSTILE, "")), refresh=True)
    assert "\x1b]0;pwned" not in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()
    assert "\u202e" not in file.getvalue()


def test_json_is_ascii_without_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    emit({HOSTILE: HOSTILE})
    said = capfd.readouterr().out
    assert said.isascii()
    check_harmless(said)


def test_a_text_without_end_is_cut_and_its_length_told() -> None:
    file = io.StringIO()
    SafeConsole(file=file, width=80).print(table("", ("x",), [("y" * 2_000_000,)]))
    assert "… (2,000,000 characters)" in " ".join(file.getvalue().split())
    assert file.getvalue().count("y") == MAX_CELL


def test_a_terminal_without_the_letter() -> None:
    with serving(stream="odd", rate_hz=100) as served:
        served.pipeline.outlet.description.fields[0].unit = "µΩ"
        done = run("info", "odd", "--endpoint", served.endpoint, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.finish() == 0, done.stderr
    assert "\\xb5\\u03a9" in done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("devices",), ("list",), ("doctor",)])
def test_help_and_tables_on_a_terminal_of_ascii(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "UnicodeEncodeError" not in done.stderr

"""The command line, every verb as a real process: for people, for programs, and how it ends."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import Account, Served, eventually, serving, take_until
from tests.support.programs import Program, run, serve, usbcast
from usbcast import NodeClient
from usbcast.cli.app import app
from usbcast.cli.app import run as run_here
from usbcast_schemas.errors import NodeUnreachable
from usbcast_schemas.registry import local_nodes

ANYWHERE = ("--bind", "tcp://127.0.0.1:0")
INTERRUPTED_S = 3.0
"""A second is promised; a noisy machine gets some more."""

STAGES = ["device", "host", "framing", "outlet"]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(stream="first-case", rate_hz=500) as found:
        yield found


def lines(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.out]


def ran(*arguments: str, code: int = 0) -> Program:
    """`usbcast` with these arguments, with nothing on stderr and this exit code."""
    program = run(*arguments)
    assert (program.stderr, program.finish()) == ("", code)
    return program


@pytest.mark.slow
def test_watch_that_is_no_terminal_writes_a_line_each_second_as_it_goes(served: Served) -> None:
    with Program(usbcast("watch", "first-case", "--endpoint", served.endpoint), COLUMNS="40") as program:
        eventually(lambda: len(program.out) >= 3 or not program.running, "three lines while it runs")
        assert program.running, program.stderr
        for line in program.out[:3]:
            assert re.fullmatch(r"first-case: [\d,.]+ packets/s, worst lag [\d,.]+ ms, [\d,]+ packets, 0 lost\n", line)


def test_watch_that_is_no_terminal_tells_what_happens_on_lines_of_its_own(served: Served) -> None:
    with Program(usbcast("watch", "first-case", "--endpoint", served.endpoint), COLUMNS="40") as program:
        eventually(lambda: program.out, "it has begun")
        served.end("enough")
        assert program.finish() == 0
    (told,) = [line for line in program.out if "the stream ended" in line]
    assert told.startswith("first-case: the stream ended after ")
    assert told.endswith(" packets: enough\n")


@pytest.mark.slow
def test_serve_verbose_logs_who_comes_and_goes_and_what_the_device_does(tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "unplug"\nat_packet = 100\nduration_s = 0.3\n')
    command = usbcast("--verbose", "serve", "--simulate", "--json", "--faults", str(faults), *ANYWHERE)
    with Program(command) as node:
        endpoint = node.hear("serving")["endpoint"]
        ran("watch", "first-case", "--endpoint", endpoint, "--via", "push", "--seconds", "2")
        for sentence in (
            "is being read: simulated device",
            "went away during a read; plug it in again",
            " has connected to the requests socket; connections: 1",
            "stream first-case: ",
            " has left the requests socket; connections: ",
        ):
            eventually(lambda said=sentence: said in node.stderr or not node.running, f"the log has {sentence!r}")
        assert node.stderr.count("is being read: simulated") == 2, "it was plugged in again"
        node.signal(signal.SIGINT)
        assert node.finish() == 0
    assert "feed was stopped" not in node.stdout + node.stderr


def test_serve_ends_by_itself_after_so_many_packets_and_tells_its_books() -> None:
    serving, ended = lines(
        ran("serve", "--simulate", "--packets", "300", "--rate", "1000", "--linger-s", "0", "--json", *ANYWHERE)
    )
    assert (serving["event"], serving["streams"]) == ("serving", ["first-case"])
    assert serving["endpoint"].startswith("tcp://127.0.0.1:")
    assert (ended["event"], ended["reason"]) == ("ended", "the simulated device has sent all its packets")
    stream = ended["streams"]["first-case"]
    assert (stream["balanced"], stream["discrepancies"], list(stream["ledgers"])) == (True, [], STAGES)
    for stage, amount in zip(STAGES, (300, 300 * 112, 300 * 112, 300), strict=True):
        ledger = stream["ledgers"][stage]
        assert (ledger["in"], ledger["out"], ledger["lost"], ledger["balanced"]) == (amount, amount, {}, True)


def test_serve_for_people(tmp_path: Any) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "drop"\nat_packet = 20\ncount = 5\n')
    shown = ran(
        "serve", "--simulate", "--stream", "imu", "--packets", "100", "--rate", "1000", "--packet-size", "32",
        "--seed", "7", "--faults", str(faults), "--linger-s", "0", *ANYWHERE,
    ).stdout  # fmt: skip
    assert "serving imu at tcp://127.0.0.1:" in shown
    assert "usbcast watch imu" in shown
    assert "the simulated device has sent all its packets" in shown
    assert "5 counter" in shown
    assert "the ledgers balance" in shown


def test_serve_from_a_settings_file_and_a_shipped_profile(tmp_path: Any) -> None:
    """The device of the shipped profile is not here; with --wait the node serves all the same, and says what is missing."""
    config = tmp_path / "node.toml"
    config.write_text('bind = "tcp://127.0.0.1:0"\nring_size = 2097152\n')
    with Program(usbcast("serve", "first-case", "--wait", "--config", str(config), "--json")) as node:
        serving = node.hear("serving")
        endpoint = serving["endpoint"]
        assert "no USB device 1209:0001 is plugged in" in serving["waiting"]["first-case"]
        (info,) = lines(ran("list", "--endpoint", endpoint, "--json"))[0]["streams"]
        assert (info["stream"], info["attached"], info["ring_bytes"]) == ("first-case", False, 2097152)
        health = lines(ran("health", "--endpoint", endpoint, "--json"))[0]
        assert "no USB device 1209:0001 is plugged in" in health["streams"]["first-case"]["problem"]
        listed = ran("list", "--endpoint", endpoint).stdout
        assert "detached" in listed
        assert "1209:0001" in listed, "what it waits for"
        node.signal(signal.SIGTERM)
        assert node.hear("ended")["reason"] == "the node was stopped"
        assert node.finish(INTERRUPTED_S) == 0


def test_serve_says_that_it_waits() -> None:
    with Program(usbcast("serve", "first-case", "--wait", *ANYWHERE)) as node:
        eventually(lambda: "first-case waits for its device: no USB device 1209:0001 is plugged in" in node.stdout)
        node.signal(signal.SIGTERM)
        assert node.finish(INTERRUPTED_S) == 0


def test_what_programs_are_told(served: Served) -> None:
    (info,) = lines(ran("list", "--json"))[0]["streams"]
    assert (info["stream"], info["endpoint"], info["attached"]) == ("first-case", served.endpoint, True)
    assert (info["packet_size"], info["device"]["serial"]) == (112, "SIM0001")
    assert info["next_sequence"] > 0

    (info,) = lines(ran("info", "first-case", "--json"))
    assert info["epoch"] == f"{served.pipeline.outlet.epoch:016x}"
    assert [field["name"] for field in info["fields"]][:3] == ["counter", "device_time", "ch0"]

    *figures, books = lines(ran("watch", "first-case", "--seconds", "1", "--start", "0", "--json"))
    assert figures[0]["event"] == "deviceevent"
    assert figures[0]["kind"] == "attached"
    last = [line for line in figures if line["event"] == "figures"][-1]
    assert last["packets"] > 100
    assert last["rate_hz"] > 0
    assert last["fields"]["counter"] == last["next_sequence"] - 1
    assert (books["event"], books["balanced"]) == ("books", True)
    assert books["out"] >= last["packets"]

    (health,) = lines(ran("health", "--json"))
    stream = health["streams"]["first-case"]
    assert (stream["attached"], stream["balanced"], stream["endpoint"]) == (True, True, served.endpoint)
    assert list(stream["ledgers"]) == STAGES
    assert stream["ledgers"]["device"]["out"] > 0
    assert stream["subscriptions"][0]["via"] == "ring"
    assert health["nodes"][served.endpoint]["memory_bytes"] > 0
    assert lines(ran("health", "other", "--json"))[0]["streams"] == {}

    written = ran(
        "command", "first-case", "--type", "0x40", "--request", "1", "--index", "8", "--data", "0a0b", "--json"
    )
    assert lines(written) == [{"data": "", "written": 2}]
    read = ran("command", "first-case", "--type", "0xc0", "--request", "1", "--index", "8", "--length", "2", "--json")
    assert lines(read) == [{"data": "0a0b", "written": 0}]
    out = ran("command", "first-case", "--out", "0x02", "--data", "ff", "--endpoint", served.endpoint, "--json")
    assert lines(out) == [{"data": "", "written": 1}]


def test_what_people_are_told(served: Served) -> None:
    listed = ran("list").stdout
    assert all(part in listed for part in ("first-case", served.endpoint, "SIM0001", "attached", "112"))
    told = ran("info", "first-case").stdout
    assert all(part in told for part in ("1209:0001 simulated device SIM0001 at 99-1", "device_time", "ch23"))
    watched = ran("watch", "first-case", "--seconds", "0.6", "--latest", "--via", "push").stdout
    assert all(part in watched for part in (" packets/s, worst lag ", "this subscription (push)"))
    health = ran("health").stdout
    assert all(part in health for part in (*STAGES, "packets", "bytes", "the ledgers balance"))
    assert "2 bytes written" in ran("command", "first-case", "--type", "64", "--request", "1", "--data", "0a0b").stdout
    assert ran("command", "first-case", "--type", "192", "--request", "1", "--length", "2").stdout == "0a 0b\n"


@pytest.mark.slow
def test_watch_tells_what_happens_and_ends_with_the_stream(tmp_path: Any) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text(
        '[[fault]]\nkind = "drop"\nat_packet = 1400\ncount = 5\n'
        '[[fault]]\nkind = "unplug"\nat_packet = 1500\nduration_s = 0.2\n'
    )
    node, endpoint = serve(
        "--rate", "1000", "--packets", "2000", "--faults", str(faults), "--linger-s", "0.5", *ANYWHERE
    )
    with node:
        watched = lines(ran("watch", "first-case", "--endpoint", endpoint, "--start", "oldest", "--json"))
        assert node.finish() == 0
    said = [line["event"] for line in watched if line["event"] != "figures"]
    assert said == ["deviceevent", "gap", "deviceevent", "deviceevent", "end", "books"]
    (gap,) = [line for line in watched if line["event"] == "gap"]
    assert (gap["stage"], gap["count"]) == ("device", 5)
    assert watched[-1]["in"] == 2000


def test_health_that_does_not_balance_is_an_error(served: Served) -> None:
    served.wait_published(10)
    served.pipeline._queue.ledger.enter(7)
    shown = ran("health", code=1).stdout
    assert "NOT BALANCED: stage host: " in shown
    (told,) = lines(ran("health", "--json", code=1))
    assert (told["streams"]["first-case"]["balanced"], len(told["streams"]["first-case"]["discrepancies"])) == (
        False,
        2,
    )


@pytest.mark.parametrize("options", [("--hubs",), ("--json",)])
def test_devices(options: tuple[str, ...]) -> None:
    told = ran("devices", *options).stdout
    if options == ("--json",):
        for device in json.loads(told)["devices"]:
            assert {"vendor_id", "product_id", "serial", "bus_path", "endpoints", "may_open"} <= set(device)
    else:
        assert "USB" in told


@pytest.mark.slow
def test_demo_for_programs() -> None:
    (told,) = lines(ran("demo", "--seconds", "3", "--json"))
    assert told["balanced"] is True
    assert set(told["streams"]) == {"first-case", "fast"}
    for name, packets in (("first-case", 300), ("fast", 60_000)):
        stream = told["streams"][name]
        assert stream["produced"] == packets
        assert sorted(found["via"] for found in stream["subscribers"]) == ["notify", "push", "ring"]
        for found in stream["subscribers"]:
            assert found["delivered"] + found["declared_lost"] == packets
            assert found["duplicates"] == 0
            if not found["slow"]:
                assert (found["declared_lost"], found["after_stop"]) == (0, 0)
            assert 0 < found["lag_p50_us"] <= found["lag_p99_us"]


@pytest.mark.parametrize(("number", "as_json"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_served_stream_ends_when_told_to(number: signal.Signals, as_json: bool) -> None:
    command = usbcast("serve", "--simulate", *ANYWHERE, *(["--json"] if as_json else []))
    with Program(command) as node:
        eventually(lambda: node.out)
        code, seconds = interrupted(node, number)
        assert (code, node.stderr) == (0, "")
        assert seconds < INTERRUPTED_S
        if as_json:
            assert lines(node)[-1]["streams"]["first-case"]["balanced"]
        else:
            assert "the node was stopped" in node.stdout
            assert "the ledgers balance" in node.stdout


@pytest.mark.parametrize("as_json", [False, True], ids=["people", "programs"])
def test_watch_ends_when_told_to(served: Served, as_json: bool) -> None:
    with Program(usbcast("watch", "first-case", *(["--json"] if as_json else []))) as watching:
        with served.subscribe("ring") as subscription:  # it has begun when it has reported itself to the node
            account = Account()
            take_until(subscription, account, lambda: len(served.node.health()[0].subscriptions) >= 2)
        code, seconds = interrupted(watching, signal.SIGINT)
        assert (code, watching.stderr) == (0, "")
        assert seconds < INTERRUPTED_S
        if as_json:
            assert lines(watching)[-1]["event"] == "books"
            assert lines(watching)[-1]["balanced"]
        else:
            assert "this subscription (ring)" in watching.stdout


@pytest.mark.parametrize("as_json", [False, True], ids=["people", "programs"])
@pytest.mark.slow
def test_demo_ends_when_told_to(as_json: bool) -> None:
    def reports() -> int:
        for record in local_nodes():
            with contextlib.suppress(NodeUnreachable), NodeClient(record.endpoint) as node:
                return sum(len(stream.subscriptions) for stream in node.health().streams)
        return 0

    with Program(usbcast("demo", "--seconds", "60", *(["--json"] if as_json else []))) as demo:
        eventually(lambda: reports() >= 6, "all subscribers of both streams are there")
        code, seconds = interrupted(demo, signal.SIGINT)
        assert code in (0, 1), "1 if the slow one could not be heard to its end"
        assert "Traceback" not in demo.stderr
        assert seconds < INTERRUPTED_S
        if as_json:
            told = lines(demo)[-1]
            assert set(told["streams"]) == {"first-case", "fast"}
            assert told["streams"]["fast"]["produced"] > 0
        else:
            assert "fast: the device sent " in demo.stdout
            assert "one process owns the device" not in demo.stdout, "a live view is for terminals"


def interrupted(program: Program, number: signal.Signals) -> tuple[int, float]:
    """Send the signal; its exit code, and how long it took to end."""
    begun = time.monotonic()
    program.signal(number)
    code = program.finish()
    return code, time.monotonic() - begun


VERBS = [command.name or "" for command in app.registered_commands]


def test_all_verbs_of_the_contract_are_there() -> None:
    assert {"demo", "devices", "serve", "list", "info", "watch", "health", "command"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_json(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["usbcast", verb, "--help"])
    assert run_here() == 0
    told = capsys.readouterr().out
    assert f"Example: usbcast {verb}" in told
    assert "--json" in told


def test_help_and_version() -> None:
    told = ran("--help").stdout
    assert all(verb in told for verb in VERBS)
    assert "usbcast demo" in told
    assert ran("--version").stdout.startswith("usbcast 0.")
    assert "Usage" in run().stdout


def test_show_config_says_where_each_value_came_from(tmp_path: Any) -> None:
    config = tmp_path / "node.toml"
    config.write_text("linger_s = 9\nring_slots = 100\n")
    arguments = ("serve", "--config", str(config), "--ring-size", "3MiB", "--show-config")
    with Program(usbcast(*arguments, "--json"), USBCAST_BIND="tcp://127.0.0.1:1", USBCAST_RING_SLOTS="200") as program:
        assert program.finish() == 0
        (told,) = lines(program)
    assert told["linger_s"] == {"value": 9.0, "source": str(config)}
    assert told["ring_slots"] == {"value": 200, "source": "USBCAST_RING_SLOTS"}
    assert told["bind"] == {"value": "tcp://127.0.0.1:1", "source": "USBCAST_BIND"}
    assert told["ring_size"] == {"value": 3 << 20, "source": "--ring-size"}
    assert told["insecure"] == {"value": False, "source": "default"}
    shown = ran(*arguments).stdout
    assert all(
        part in shown for part in ("linger_s", "--ring-size", "3145728", "how long an ended node goes on answering")
    )


def test_a_pipe_that_is_closed_early_is_no_traceback(served: Served) -> None:
    first = subprocess.Popen(usbcast("watch", "first-case", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stderr is not None
    first.stdout.readline()
    first.stdout.close()
    try:
        assert first.wait(20) == 1
        assert b"Traceback" not in first.stderr.read()
    finally:
        first.kill()
        first.wait()
        first.stderr.close()


def test_the_module_is_the_program_too() -> None:
    with Program([sys.executable, "-m", "usbcast", "--version"]) as program:
        assert program.finish() == 0
    assert program.stdout.startswith("usbcast ")
